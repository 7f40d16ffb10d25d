// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the program around the engine does, from one end of a scenario to the other.

use std::ffi::{c_int, c_void};

use laio_engine::errno::Errno;
use laio_engine::host::Host;
use laio_engine::request::Io;
use laio_engine::{Refusal, State, depth};

use crate::host::{SimHost, context};
use crate::model::{FILES, Kind, Owner, Request, StateModel, Status};
use crate::tape::Tape;
use crate::world::{Coroutines, Engine, World};

/// Event loops that there are.
const CONTEXTS: usize = 2;

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
        world.check_at_rest();
        world.check(
            world.sections.get() == world.own_sections.get(),
            "the engine left a section open, or ended one that is not its own",
        );
    }
    let summary = world.finish();
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
}

struct Decision {
    slot: usize,
    batch: u64,
    queued: usize,
    in_flight: usize,
    first: Option<usize>,
    at_bound: u64,
    eagain: u64,
    io_submit_calls: u64,
    attaches: u32,
    /// A plug is left, or a section is open.
    gathers: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Top,
    /// In an owner that is told.
    Owner,
    /// In a coroutine, between its requests.
    Coroutine,
    /// In a hook that the engine has called.
    Hook,
}

unsafe extern "C" fn on_complete(opaque: *mut c_void, result: c_int) {
    // SAFETY: a request's ticket, which lives as long as the world.
    let (world, id) = unsafe { *opaque.cast::<(*const World, usize)>() };
    // SAFETY: as above.
    let world: &'static World = unsafe { &*world };
    world.told_by_result(Owner::Callback);
    world.told(id, result);
    world.nested(|| {
        let slot = world.requests.borrow()[id].slot;
        world.check_counts(slot);
        world.check(
            world.engine(slot).check_cleanup() == Err(Refusal::Active),
            "a state could be freed from within its own completion",
        );
        for _ in 0..world.tape.below(world.config.busy + 1) {
            world.act(Place::Owner);
        }
    });
}

/// States.
impl World {
    fn give_state(&'static self, slot: usize) {
        let state = Box::new(State::new(self.kernel(slot), SimHost(self)));
        self.slots[slot].engine.set(Box::into_raw(state));
        self.attach(slot);
    }

    fn attach(&'static self, slot: usize) {
        let number = 1 + self.tape.below(CONTEXTS);
        self.trace(|| format!("state {slot}: attach to loop {number}"));
        let engine = self.slots[slot].engine.get();
        // SAFETY: the slot's state; nobody can free it while it is being attached.
        let attached = unsafe { &*engine }.attach(context(number));
        match attached {
            Ok(()) => {
                // A hook of the attach may have detached it again.
                if self.slots[slot].engine.get() == engine && self.engine(slot).is_attached() {
                    self.slots[slot].context.set(number);
                    self.slots[slot].attaches.set(self.slots[slot].attaches.get() + 1);
                    self.check_live_again(slot);
                }
            }
            Err(Refusal::NotWatched(_)) => {
                self.check(self.config.watches_fail, "a watch failed that did not");
                self.check(self.slots[slot].watch.get().is_none(), "a watch is left behind");
            }
            Err(Refusal::Closing) if self.slots[slot].freeing.get() => {}
            Err(refusal) => self.fail(&format!("an attach was refused: {refusal}")),
        }
    }

    /// Until it is attached.
    fn attach_surely(&'static self, slot: usize) {
        while !self.is_attached(slot) {
            self.attach(slot);
        }
    }

    fn check_live_again(&self, slot: usize) {
        let again = self.engine(slot).attach(context(1));
        self.check(again == Err(Refusal::Attached), "a second attach was not refused");
    }

    fn detach(&'static self, slot: usize) {
        self.trace(|| format!("state {slot}: detach"));
        let of = self.slots[slot].context.get();
        let other = self.engine(slot).detach(context(CONTEXTS + 1));
        self.check(other == Err(Refusal::NotAttached), "a detach from elsewhere was not refused");
        self.slots[slot].context.set(0);
        let detached = self.engine(slot).detach(context(of));
        self.check(detached == Ok(()), "a detach was refused");
        if self.is_attached(slot) {
            return; // By a hook, when the last of the detach had returned.
        }
        self.check(!self.bh_scheduled(slot), "a bottom half is left behind");
        self.check(self.slots[slot].watch.get().is_none(), "a watch is left behind");
        self.check(self.slots[slot].timer_watch.get().is_none(), "a timer's watch is left behind");
    }

    /// Another thread has the lock first, and detaches a state.
    pub fn act_before_lock(&'static self) {
        self.act_around_entry();
        let slot = self.any_slot();
        let may = self.config.coroutines != Coroutines::Thread
            && self.hooks.get() == 0
            && !self.slots[slot].engine.get().is_null()
            && self.is_attached(slot);
        if may && self.tape.chance(self.config.hook_acts) {
            self.hooks.set(1);
            self.detach(slot);
            self.hooks.set(0);
        }
    }

    /// The same in the hooks that lock: before an entry from the event loop begins, or after its end.
    pub fn act_around_entry(&'static self) {
        let (entries, told) = (self.entries.replace(0), self.told_here.get());
        self.act_in_hook();
        self.entries.set(entries);
        self.told_here.set(told);
    }

    /// A hook does something to a state, whatever is going on.
    pub fn act_in_hook(&'static self) {
        if self.calm.get() || self.hooks.get() >= 2 || !self.tape.chance(self.config.hook_acts) {
            return;
        }
        self.hooks.set(self.hooks.get() + 1);
        // The owner who is told next is told when the hook has returned.
        let (due, last) = (self.due.take(), self.last_told.take());
        self.trace(|| "a hook acts".into());
        self.act(Place::Hook);
        self.due.set(due);
        self.last_told.set(last);
        self.hooks.set(self.hooks.get() - 1);
    }

    /// Frees a state, whatever it has to do still, and makes another.
    fn replace_state(&'static self, slot: usize) {
        match self.engine(slot).check_cleanup() {
            Ok(()) => {}
            Err(Refusal::DeferredCall) => {
                let engine = self.slots[slot].engine.get();
                let pending = self.is_call_pending(engine);
                return self.check(pending, "a state waits for a deferred call that is not there");
            }
            Err(_) => return self.check(!self.is_idle(), "an idle state cannot be freed"),
        }
        self.free_state(slot);
        self.slots[slot].model.count(|counts| *counts = Default::default());
        self.slots[slot].model.plugs.set(0);
        self.give_state(slot);
    }

    fn is_call_pending(&self, engine: *mut Engine) -> bool {
        let names = |call: &(_, *mut c_void)| call.1 == engine.cast();
        self.deferred.borrow().iter().any(names) || self.due_calls.borrow().iter().any(names)
    }

    fn free_state(&'static self, slot: usize) {
        self.trace(|| format!("state {slot}: cleanup"));
        let engine = self.slots[slot].engine.get();
        self.slots[slot].context.set(0);
        let calm = self.calm.replace(true);
        self.slots[slot].freeing.set(true);
        // Each round of it is as an entry from the event loop.
        let (nest, told, entries) =
            (self.nest.replace(0), self.told_here.get(), self.entries.replace(0));
        // SAFETY: came from a box, check_cleanup() agrees, and its slot forgets it.
        unsafe { State::cleanup(engine) };
        self.calm.set(calm);
        self.slots[slot].freeing.set(false);
        self.nest.set(nest);
        self.told_here.set(told);
        self.entries.set(entries);
        self.slots[slot].engine.set(std::ptr::null_mut());
        self.nothing_due("the state is freed");
        self.check(self.outstanding(slot) == 0, "a state was freed with requests outstanding");
        let pending = self.is_call_pending(engine);
        self.check(!pending, "a state was freed that a deferred call still names");
    }

    fn is_idle(&self) -> bool {
        self.is_top() && self.hooks.get() == 0 && self.running.borrow().is_empty()
    }

    fn is_top(&self) -> bool {
        self.nest.get() == 0 && self.loops.get() == 0 && self.running.borrow().is_empty()
    }

    fn is_attached(&self, slot: usize) -> bool {
        self.slots[slot].context.get() != 0
    }
}

/// Requests.
impl World {
    fn new_request(&'static self, slot: usize, owner: Owner) -> usize {
        let kind = self.tape.pick([
            Kind::Read,
            Kind::Read,
            Kind::Write,
            Kind::Write,
            Kind::Flush,
            Kind::ZoneAppend,
        ]);
        let mut lengths = [0; 4];
        let parts = 1 + self.tape.below(lengths.len());
        lengths[..parts].fill_with(|| self.tape.pick([1, 0, 2, 3, 5, 8, 13]));
        let mut requests = self.requests.borrow_mut();
        let id = requests.len();
        let mut request = Request::new(self, id, slot, kind, &lengths[..parts]);
        request.offset = self.tape.below(72);
        request.file = self.tape.below(FILES);
        request.fua = self.tape.below(4) == 1;
        request.owner = owner;
        if kind == Kind::Flush {
            request.bytes = 0;
        }
        requests.push(request);
        id
    }

    fn io_of(&self, id: usize) -> Io {
        let requests = self.requests.borrow();
        let request = &requests[id];
        let vector = (request.parts.as_ptr(), request.parts.len() as c_int);
        let (kind, flags) = (request.kind.number(), request.flags());
        // SAFETY: the parts live as long as the world.
        let io = unsafe { Io::new(kind, flags, request.fd, request.offset as u64, vector) };
        match io {
            Ok(io) => io,
            Err(_) => self.fail("a good request was refused"),
        }
    }

    /// What the engine must do with a new request, told before it does.
    fn announce(&self, id: usize) {
        let requests = self.requests.borrow();
        let request = &requests[id];
        self.trace(|| {
            format!(
                "state {}: #{id} {:?} {} at {} of file {} for {:?}",
                request.slot,
                request.kind,
                request.bytes,
                request.offset,
                request.file,
                request.owner
            )
        });
        let model = self.model(request.slot);
        model.queue.borrow_mut().push_back(id);
        model.count(|counts| counts.submitted += 1);
    }

    fn may_submit(&self, slot: usize) -> bool {
        let is_there = !self.slots[slot].engine.get().is_null();
        is_there && self.requests.borrow().len() < self.config.requests
    }

    fn batch(&self) -> u64 {
        self.tape.pick([0, 0, 1, 2, 4, 100])
    }

    fn submit(&'static self, slot: usize) {
        if !self.may_submit(slot) {
            return;
        }
        let id = self.new_request(slot, Owner::Callback);
        let (io, batch) = (self.io_of(id), self.batch());
        let opaque = self.requests.borrow()[id].opaque();
        let foreign = self.tape.below(32) == 31;
        if !self.engine(slot).is_attached() || foreign {
            self.requests.borrow_mut()[id].status = Status::Refused;
            let expected =
                if self.engine(slot).is_attached() { libc::EPERM } else { libc::ENOTCONN };
            self.foreign.set(true);
            let answer = self.engine(slot).submit(|| Ok(io), batch, on_complete, opaque);
            self.foreign.set(false);
            return self.check(
                answer == Err(Errno(expected)),
                "a request was accepted on another thread, or by a detached state",
            );
        }
        self.announce(id);
        let decision = self.decision(slot, batch);
        self.want_batch(slot, id, batch);
        let answer = self.engine(slot).submit(|| Ok(io), batch, on_complete, opaque);
        self.check(answer == Ok(()), "a request was not accepted");
        if self.hooks.get() == 0 {
            self.nothing_due("a submission returned");
            self.check_prompt(&decision);
        }
    }

    /// Without a plug or section, and with a full batch even so, requests go to the kernel at
    /// once and not by way of the event loop.
    fn check_prompt(&self, decision: &Decision) {
        if self.config.hook_acts > 0 {
            return; // Hooks submit, plug and unplug in between.
        }
        let slot = decision.slot;
        let model = self.model(slot);
        let limit = self.limit_of(decision.batch);
        let gathering = decision.gathers && (decision.queued as u64) < limit;
        // A ring that is nearly full wants what it can get.
        if gathering && decision.in_flight < 900 {
            self.check(
                model.counts.get().io_submit_calls == decision.io_submit_calls,
                "submitted although a plug or section gathers",
            );
        }
        let excused = !self.is_top()
            || !self.is_attached(slot)
            || self.slots[slot].attaches.get() != decision.attaches
            // What is left when as many owners were told as may be.
            || self.config.max_told < 1024
            || self.slots[slot].ring.refused.get()
            || model.counts.get().eagain > decision.eagain
            || self.slots[slot].ring.in_flight() >= crate::kernel::CAPACITY
            || self.engine(slot).stats().at_bound > decision.at_bound;
        if excused {
            return;
        }
        let gathers = model.plugs.get() > 0 || self.sections.get() > 0;
        let queued = model.queue.borrow().len();
        self.check(queued == 0 || gathers, "requests are kept back without a reason");
        let kept = decision.first.is_some_and(|id| {
            let request = &self.requests.borrow()[id];
            request.status == Status::Queued && request.name.is_none()
        });
        self.check(!kept || (decision.queued as u64) < limit, "a full batch is kept back");
    }

    fn want_batch(&self, slot: usize, id: usize, batch: u64) {
        let limit = self.limit_of(batch);
        self.requests.borrow_mut()[id].batch = limit;
        self.model(slot).wanted_batch.set(limit);
    }

    /// The batch that is worth a submission, for a device that wants `batch`.
    fn limit_of(&self, batch: u64) -> u64 {
        let of_context = match self.config.context_batch {
            0 => 32,
            limit => limit,
        };
        if batch == 0 { of_context } else { batch.min(of_context) }
    }

    /// What the engine sees when it decides whether to submit.
    fn decision(&self, slot: usize, batch: u64) -> Decision {
        let queue = self.model(slot).queue.borrow();
        Decision {
            slot,
            batch,
            queued: queue.len(),
            in_flight: self.slots[slot].ring.in_flight(),
            first: queue.front().copied(),
            at_bound: self.engine(slot).stats().at_bound,
            eagain: self.model(slot).counts.get().eagain,
            io_submit_calls: self.model(slot).counts.get().io_submit_calls,
            attaches: self.slots[slot].attaches.get(),
            gathers: self.model(slot).plugs.get() > 0,
        }
    }

    /// Submits for whoever runs, and waits for the result.
    fn co_submit(&'static self, slot: usize, owner: Owner) {
        if !self.may_submit(slot) || !self.engine(slot).is_attached() {
            return;
        }
        let id = self.new_request(slot, owner);
        let (io, batch) = (self.io_of(id), self.batch());
        let engine: *const Engine = self.slots[slot].engine.get();
        if self.tape.below(32) == 31 {
            self.requests.borrow_mut()[id].status = Status::Refused;
            self.foreign.set(true);
            // SAFETY: the slot's state. Its loop is not the one that the caller found itself in.
            let answer =
                unsafe { State::co_submit_in(engine, context(CONTEXTS + 1), || Ok(io), batch) };
            self.foreign.set(false);
            return self.check(
                answer == Err(Errno(libc::EPERM)),
                "a coroutine of another thread was let in",
            );
        }
        self.announce(id);
        self.want_batch(slot, id, batch);
        // SAFETY: the slot's state.
        match unsafe { State::co_submit(engine, || Ok(io), batch) } {
            Ok(result) => self.told(id, result),
            Err(errno) => self.fail(&format!("#{id} was not accepted: {errno:?}")),
        }
    }

    fn co_submit_without_coroutines(&'static self, slot: usize) {
        let id = self.new_request(slot, Owner::Thread);
        let io = self.io_of(id);
        self.requests.borrow_mut()[id].status = Status::Refused;
        // SAFETY: the slot's state.
        let answer = unsafe { State::co_submit(self.slots[slot].engine.get(), || Ok(io), 0) };
        let attached = self.engine(slot).is_attached();
        let expected = if attached { libc::ENOTSUP } else { libc::ENOTCONN };
        self.check(answer == Err(Errno(expected)), "a host without coroutines got one");
    }

    /// Starts a coroutine of several requests, or the nearest thing that this host has.
    fn start(&'static self, slot: usize) {
        match self.config.coroutines {
            Coroutines::None => self.co_submit_without_coroutines(slot),
            Coroutines::Thread => {
                // Its wait is a nested event loop.
                if self.may_loop() {
                    self.co_submit(slot, Owner::Thread);
                }
            }
            Coroutines::Real => {
                if self.may_submit(slot) {
                    self.start_coroutine(move |number| self.coroutine_body(number));
                }
            }
        }
    }

    fn coroutine_body(&'static self, number: usize) {
        for _ in 0..=self.tape.below(4) {
            self.co_submit(self.any_slot(), Owner::Coroutine(number));
            if self.tape.below(4) == 3 {
                self.act(Place::Coroutine);
            }
        }
    }
}

/// What whoever has control may do.
impl World {
    fn any_slot(&self) -> usize {
        self.tape.below(self.slots.len())
    }

    pub fn act(&'static self, place: Place) {
        self.count_step();
        let slot = self.any_slot();
        if self.slots[slot].engine.get().is_null() {
            return;
        }
        match self.tape.below(16) {
            0 => self.submit(slot),
            1 => self.truncate_some(),
            2 => self.start(slot),
            3 => (0..=self.tape.below(8)).for_each(|_| self.submit(slot)),
            4 => self.plugged(slot, place),
            5 => self.in_section(place),
            6 => self.wait_for_some(),
            7 => self.wait_for_all(slot),
            8 => self.turn_once(),
            9 => self.resume_some(),
            10 => self.plug(slot),
            11 => self.unplug(slot),
            12 if self.may_change(place) => self.detach_or_attach(slot),
            13 if place != Place::Hook => self.replace_some(slot),
            14 if place == Place::Top => self.many(slot),
            15 if place == Place::Top => self.begin_or_end(),
            _ => self.submit(slot),
        }
    }

    /// Somebody else makes a file shorter.
    fn truncate_some(&self) {
        if self.tape.below(4) == 3 {
            let (real, model) = &mut self.files.borrow_mut()[self.tape.below(FILES)];
            let length = self.tape.below(real.len().min(200) + 1);
            self.trace(|| format!("a file is cut at {length}"));
            real.truncate(length);
            model.truncate(length);
        }
    }

    fn plug(&self, slot: usize) {
        self.trace(|| format!("state {slot}: plug"));
        self.model(slot).plugs.set(self.model(slot).plugs.get() + 1);
        self.engine(slot).plug();
    }

    fn unplug(&self, slot: usize) {
        let plugs = self.model(slot).plugs.get();
        self.trace(|| format!("state {slot}: unplug of {plugs}"));
        self.model(slot).plugs.set(plugs.saturating_sub(1));
        let batch = self.batch();
        let decision = self.decision(slot, batch);
        self.model(slot).wanted_batch.set(self.limit_of(batch));
        self.unplugging.set(self.unplugging.get() + 1);
        let had_plug = self.engine(slot).unplug(batch);
        self.unplugging.set(self.unplugging.get() - 1);
        self.check(had_plug == (plugs > 0), "the plugs are not counted");
        if self.hooks.get() > 0 {
            return;
        }
        self.nothing_due("an unplug returned");
        if had_plug && self.is_attached(slot) {
            self.check_prompt(&decision);
        }
    }

    fn plugged(&'static self, slot: usize, place: Place) {
        self.plug(slot);
        self.act(place);
        self.submit(slot);
        // Another state may have taken the place of the one that was plugged.
        if self.model(slot).plugs.get() > 0 {
            self.unplug(slot);
        }
    }

    fn in_section(&'static self, place: Place) {
        // A section belongs to the thread: a coroutine that yields within would leave it open.
        if !self.config.defers || place == Place::Coroutine {
            return;
        }
        self.begin();
        self.act(Place::Owner);
        self.submit(self.any_attached());
        self.end();
    }

    fn any_attached(&self) -> usize {
        let first = self.any_slot();
        let count = self.slots.len();
        (0..count)
            .map(|index| (first + index) % count)
            .find(|&slot| self.is_attached(slot))
            .unwrap_or(first)
    }

    fn begin(&'static self) {
        self.trace(|| "a section begins".into());
        self.own_sections.set(self.own_sections.get() + 1);
        SimHost(self).defer_begin();
    }

    fn end(&'static self) {
        self.trace(|| "a section ends".into());
        self.own_sections.set(self.own_sections.get() - 1);
        SimHost(self).defer_end();
    }

    /// Leaves a section open, or ends it.
    fn begin_or_end(&'static self) {
        match self.own_sections.get() {
            0 if self.config.defers => self.begin(),
            0 => {}
            _ => self.end(),
        }
    }

    fn some_outstanding(&self) -> Option<usize> {
        let requests = self.requests.borrow();
        let waiting =
            |request: &Request| !request.status.is_over() && self.is_attached(request.slot);
        let count = requests.iter().filter(|request| waiting(request)).count();
        let index = self.tape.below(count.clamp(1, 256));
        let mut ids = (0..requests.len()).filter(|&id| waiting(&requests[id]));
        ids.nth(index)
    }

    /// Whether whoever has control may run the event loop. A hook may not: the engine is about to do
    /// what somebody might wait for.
    fn may_loop(&self) -> bool {
        self.loops.get() < self.config.max_loops && self.hooks.get() == 0
    }

    /// Runs the event loop until one request is complete, as bdrv_drain() and the like do.
    fn wait_for_some(&'static self) {
        if !self.may_loop() {
            return;
        }
        let Some(id) = self.some_outstanding() else {
            return;
        };
        self.trace(|| format!("wait for #{id}"));
        let slot = self.requests.borrow()[id].slot;
        while !self.requests.borrow()[id].status.is_over() && self.is_attached(slot) {
            self.turn_or_hang(self.slots[slot].context.get(), &format!("one who wants #{id}"));
        }
        self.trace(|| format!("end of the wait for #{id}"));
    }

    fn wait_for_all(&'static self, slot: usize) {
        if !self.may_loop() {
            return;
        }
        self.trace(|| format!("wait for all of state {slot}"));
        while self.outstanding(slot) > 0 && self.is_attached(slot) {
            self.turn_or_hang(self.slots[slot].context.get(), "one who drains");
        }
        self.trace(|| format!("end of the wait for all of state {slot}"));
    }

    fn turn_once(&'static self) {
        if self.may_loop() {
            self.loops.set(self.loops.get() + 1);
            self.turn(1 + self.tape.below(CONTEXTS));
            self.loops.set(self.loops.get() - 1);
        }
    }

    /// Wakes a coroutine that does not expect it.
    fn resume_some(&'static self) {
        let count = self.coroutines.borrow().len();
        if count > 0 {
            self.resume(1 + self.tape.below(count.min(256)));
        }
    }

    /// Whether a state may be detached or attached here: by whoever is not waiting for it. A thread
    /// that drives the loop itself would wait for ever.
    fn may_change(&self, place: Place) -> bool {
        match place {
            Place::Top => true,
            Place::Owner => self.config.coroutines != Coroutines::Thread && self.hooks.get() == 0,
            Place::Coroutine | Place::Hook => false,
        }
    }

    fn detach_or_attach(&'static self, slot: usize) {
        if self.is_attached(slot) {
            self.detach(slot);
        } else {
            self.attach(slot);
        }
    }

    fn replace_some(&'static self, slot: usize) {
        // A free state is not attached to anything, and nobody looks after it.
        if self.tape.below(3) == 2 {
            self.replace_state(slot);
        }
    }

    /// More than the ring has slots, where the scenario is that large.
    fn many(&'static self, slot: usize) {
        let count = if self.config.requests > 1024 { 1100 } else { 10 };
        (0..count).for_each(|_| self.submit(slot));
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
        let mut summary = Summary { steps: self.steps() as u64, ..Summary::default() };
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
