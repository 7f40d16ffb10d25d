// SPDX-License-Identifier: MIT OR Apache-2.0

//! The child of a fork: it has a copy of the states, and shares the rings behind them with its
//! parent, which must not notice it. Whether the engine uses one of them in it, the kernel sees.

use laio_engine::{LaioStats, Refusal, State};

use laio_engine::depth;
use laio_engine::errno::Errno;
use laio_engine::host::Host;

use crate::host::{SimHost, Watch, context};
use crate::model::Owner;
use crate::requests::on_complete;
use crate::scenario::Summary;
use crate::world::World;

/// What a parent could notice of one state.
#[derive(PartialEq)]
struct Sight {
    stats: LaioStats,
    attached: bool,
    held: usize,
    complete: usize,
    signalled: bool,
    timer: bool,
}

impl World {
    fn sights(&self) -> Vec<Option<Sight>> {
        let sight = |slot: usize| {
            let ring = &self.slots[slot].ring;
            (!self.slots[slot].engine.get().is_null()).then(|| Sight {
                stats: self.engine(slot).stats(),
                attached: self.engine(slot).is_attached(),
                held: ring.held(),
                complete: ring.complete(),
                signalled: ring.signalled.get(),
                timer: ring.timer.get(),
            })
        };
        (0..self.slots.len()).map(sight).collect()
    }

    /// The process forks; what the child does comes first, then the parent goes on. In what the child
    /// does here nothing of the engine changes, so that parent and child can share it.
    pub fn fork(&'static self) {
        self.trace(|| "a child is forked".into());
        let before = self.sights();
        self.become_child();
        for _ in 0..=self.tape.below(6) {
            self.act_as_child();
        }
        self.child.set(false);
        self.check(self.sights() == before, "the parent notices its child");
        self.trace(|| "the child is gone".into());
    }

    fn become_child(&self) {
        self.child.set(true);
        self.children.set(self.children.get() + 1);
    }

    fn act_as_child(&'static self) {
        self.count_step();
        let slot = self.any_slot();
        if self.slots[slot].engine.get().is_null() {
            return;
        }
        match self.tape.below(8) {
            0 => self.submit_as_child(slot),
            1 => self.co_submit_as_child(slot),
            2 => self.gather_as_child(slot),
            3 => {
                let answer = self.engine(slot).attach(context(1));
                self.check(answer == Err(Refusal::Inherited), "a child attaches a state");
            }
            4 => self.poll_as_child(self.slots[slot].watch.get()),
            5 => self.poll_as_child(self.slots[slot].timer_watch.get()),
            6 => self.run_inherited_bottom_halves(),
            _ => self.check(
                self.engine(slot).outstanding() == 0,
                "a child waits for what is its parent's",
            ),
        }
    }

    fn submit_as_child(&'static self, slot: usize) {
        if !self.may_submit(slot) {
            return;
        }
        let id = self.new_refused_request(slot, Owner::Callback);
        let (io, opaque) = (self.io_of(id), self.requests.borrow()[id].opaque());
        let answer = self.engine(slot).submit(|| Ok(io), self.batch(), on_complete, opaque);
        self.check(answer == Err(Errno(libc::ENOTCONN)), "a child submits a request");
    }

    fn co_submit_as_child(&'static self, slot: usize) {
        if !self.may_submit(slot) {
            return;
        }
        let id = self.new_refused_request(slot, Owner::Thread);
        let (io, engine) = (self.io_of(id), self.slots[slot].engine.get());
        let batch = self.batch();
        // As whoever found the state by its event loop.
        let home = self.slots[slot].context.get();
        let answer = if home != 0 && self.tape.below(2) == 1 {
            // SAFETY: the slot's state.
            unsafe { State::co_submit(Ok(io), batch, || State::usable_in(engine, context(home))) }
        } else {
            // SAFETY: the slot's state.
            unsafe { State::co_submit(Ok(io), batch, || State::usable(engine)) }
        };
        self.check(answer == Err(Errno(libc::ENOTCONN)), "a child submits for its coroutine");
    }

    /// The end of a plug, or of a section, is when a queue is submitted.
    fn gather_as_child(&'static self, slot: usize) {
        self.engine(slot).plug();
        self.engine(slot).unplug(self.batch());
        // What the parent has put off is not the child's to make here.
        if self.config.defers && self.sections.get() == 0 {
            SimHost(self).defer_begin();
            SimHost(self).defer_end();
        }
    }

    /// The child's copy of the host has the handlers, and calls them.
    fn poll_as_child(&self, watch: Option<Watch>) {
        let Some(Watch { handlers, opaque, .. }) = watch else {
            return;
        };
        // SAFETY: given together by the engine, and still watched.
        unsafe {
            self.check(!(handlers.poll)(opaque), "a child is told of its parent's completions");
            self.check(!(handlers.expected)(opaque), "a child waits for its parent's completions");
            (handlers.read)(opaque);
            (handlers.poll_ready)(opaque);
        }
    }

    fn run_inherited_bottom_halves(&self) {
        for index in 0..self.bottom_halves.borrow().len() {
            let bh = self.bottom_halves.borrow()[index].scheduled_call();
            if let Some((callback, opaque)) = bh {
                // SAFETY: given together by the engine, and not deleted, or it would not be scheduled.
                unsafe { callback(opaque) };
            }
        }
    }
}

/// A scenario that ends in the child.
impl World {
    /// Only where the child leaves no memory behind that is its own: what the engine keeps for the
    /// rest of a request, and the stacks of coroutines, nobody takes apart in it.
    pub fn may_end_in_child(&self) -> bool {
        let is_left =
            |request: &crate::model::Request| !request.status.is_over() && request.has_rest();
        self.config.ends_in_child
            && !self.requests.borrow().iter().any(is_left)
            && self.coroutines.borrow().iter().all(|coroutine| coroutine.finished)
    }

    /// The child does what it likes, and frees the states with all that is outstanding.
    pub fn end_in_child(&'static self) -> Summary {
        self.trace(|| "what follows is in a child".into());
        let rings = |world: &World| -> Vec<_> {
            let rings = world.slots.iter().map(|slot| &slot.ring);
            rings
                .map(|ring| (ring.held(), ring.complete(), ring.signalled.get(), ring.timer.get()))
                .collect()
        };
        let before = rings(self);
        self.become_child();
        for _ in 0..self.tape.below(6) {
            self.act_as_child();
        }
        while self.own_sections.get() > 0 {
            self.end();
        }
        let mut summary = self.summary();
        for slot in 0..self.slots.len() {
            summary.requests += self.engine(slot).stats().submitted;
            if self.is_attached(slot) && self.tape.below(2) == 1 {
                self.detach(slot);
            }
            let may = self.engine(slot).check_cleanup();
            self.check(may == Ok(()), "a child cannot free a state");
            self.free_state(slot);
        }
        self.check(rings(self) == before, "the parent notices what its child has freed");
        self.check(depth::current() == 0, "the depth is not back at 0");
        self.check(self.locks.get() == 0, "a context stays locked");
        summary
    }
}
