// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the program around the engine does, from one end of a scenario to the other.

use laio_engine::depth;

use crate::acts::{CONTEXTS, Place};
use crate::model::{StateModel, Status};
use crate::tape::Tape;
use crate::world::World;

/// Runs the scenario of `tape`, and returns the steps that it took.
pub fn run(tape: Tape, tracing: bool, on_failure: fn(&World, &str) -> !) -> Summary {
    let owned = Box::into_raw(Box::new(World::new(tape, tracing, on_failure)));
    // SAFETY: freed below, where nothing has it any more.
    let world: &'static World = unsafe { &*owned };
    world.trace(|| format!("{:?}", world.config));
    assert!(depth::set_max(world.config.bound));
    depth::set_max_told(world.config.max_told);
    for slot in 0..world.config.states {
        world.give_state(slot);
    }
    for _ in 0..world.config.steps {
        world.count_step();
        world.act(Place::Top);
        world.change_process();
        world.check_at_rest();
        world.check(
            world.sections.get() == world.own_sections.get(),
            "the engine left a section open, or ended one that is not its own",
        );
    }
    let summary = if world.may_end_in_child() { world.end_in_child() } else { world.finish() };
    // SAFETY: all states, callbacks and coroutines are gone.
    drop(unsafe { Box::from_raw(owned) });
    summary
}

/// What a scenario got to, so that the whole run can tell what it covered.
#[derive(Default, Clone, Copy, Debug)]
pub struct Summary {
    pub steps: u64,
    pub requests: u64,
    pub at_bound: u64,
    pub retried: u64,
    pub eagain: u64,
    pub failed: u64,
    pub bh_resumptions: u64,
    pub deepest: u64,
    /// Threads that ended, children that were forked, and results that said nothing of a request.
    pub threads: u64,
    pub children: u64,
    pub transient: u64,
}

impl World {
    /// Between the acts of the program: threads end, and processes fork.
    fn change_process(&'static self) {
        if self.tape.chance(self.config.exits) {
            self.end_thread();
        }
        if self.tape.chance(self.config.forks) {
            self.fork();
        }
    }
}

/// The end.
impl World {
    /// Lets everything complete through the event loop alone.
    fn finish(&'static self) -> Summary {
        self.trace(|| "the end begins".into());
        self.calm.set(true);
        while self.own_sections.get() > 0 {
            self.end();
        }
        for slot in 0..self.slots.len() {
            self.attach_surely(slot);
            if self.tape.below(2) == 1 {
                (0..self.model(slot).plugs.get()).for_each(|_| self.unplug(slot));
            }
        }
        while self.is_anything_left() {
            let before = self.progress();
            // Owners still detach what they like.
            (0..self.slots.len()).for_each(|slot| self.attach_surely(slot));
            let any = (1..=CONTEXTS).filter(|&context| self.turn(context)).count();
            if any == 0 && self.progress() == before {
                self.fail("lost: requests are outstanding, and nothing will happen");
            }
        }
        self.come_to_rest();
        self.check_all()
    }

    /// Of what is not a state's.
    pub fn summary(&self) -> Summary {
        Summary {
            steps: self.steps() as u64,
            threads: u64::from(self.thread.get()),
            children: self.children.get(),
            transient: self.transient.get(),
            ..Summary::default()
        }
    }

    fn progress(&self) -> usize {
        let requests = self.requests.borrow();
        requests.iter().filter(|request| request.status.is_over()).count()
    }

    fn is_anything_left(&self) -> bool {
        let left = |slot: usize| self.outstanding(slot) > 0;
        (0..self.slots.len()).any(left)
            || !self.wakes.borrow().is_empty()
            || self.coroutines.borrow().iter().any(|coroutine| !coroutine.finished)
    }

    /// Without requests there is soon nothing to do.
    fn come_to_rest(&'static self) {
        let busy = || (0..self.slots.len()).any(|slot| self.bh_scheduled(slot));
        for _ in 0..64 {
            if busy() {
                (1..=CONTEXTS).for_each(|context| {
                    self.turn(context);
                });
            }
        }
        self.check(!busy(), "a bottom half stays scheduled with nothing to do");
    }

    fn check_all(&'static self) -> Summary {
        self.check_at_rest();
        self.check(depth::current() == 0, "the depth is not back at 0");
        self.check(self.locks.get() == 0, "a context stays locked");
        for (id, request) in self.requests.borrow().iter().enumerate() {
            let over = matches!(request.status, Status::Done(_) | Status::Refused);
            if !over || !request.memory_is_as_expected() {
                self.fail(&format!("#{id} ends as {:?}", request.status));
            }
        }
        for (real, model) in self.files.borrow().iter() {
            self.check(real == model, "a file does not hold what the model says");
        }
        let mut summary = self.summary();
        for slot in 0..self.slots.len() {
            let stats = self.engine(slot).stats();
            summary.requests += stats.submitted;
            summary.at_bound += stats.at_bound;
            summary.retried += stats.retried;
            summary.eagain += stats.eagain;
            summary.failed += stats.failed;
            summary.bh_resumptions += stats.bh_resumptions;
            summary.deepest = summary.deepest.max(stats.deepest_nesting);
            let state: &StateModel = self.model(slot);
            debug_assert!(state.queue.borrow().is_empty());
            self.free_state(slot);
        }
        summary
    }
}
