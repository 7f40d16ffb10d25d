// SPDX-License-Identifier: MIT OR Apache-2.0

//! Making requests, and what must come of them at once.

use std::ffi::{c_int, c_void};

use laio_engine::errno::Errno;
use laio_engine::request::Io;
use laio_engine::{Refusal, State};

use crate::acts::{CONTEXTS, Place};
use crate::config::Coroutines;
use crate::host::context;
use crate::model::{FILES, Kind, Owner, Request, Status};
use crate::world::{Engine, World};

/// What the engine sees when it decides whether to submit.
pub struct Decision {
    pub slot: usize,
    pub batch: u64,
    pub queued: usize,
    /// Room in the ring.
    pub free: usize,
    pub first: Option<usize>,
    pub at_bound: u64,
    pub eagain: u64,
    pub io_submit_calls: u64,
    pub attaches: u32,
    /// A plug is left, or a section is open.
    pub gathers: bool,
}

pub unsafe extern "C" fn on_complete(opaque: *mut c_void, result: c_int) {
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
        if world.tape.chance(world.config.forks) {
            world.fork();
        }
        for _ in 0..world.tape.below(world.config.busy + 1) {
            world.act(Place::Owner);
        }
    });
}

impl World {
    pub fn new_request(&'static self, slot: usize, owner: Owner) -> usize {
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

    /// One that the engine must say no to.
    pub fn new_refused_request(&'static self, slot: usize, owner: Owner) -> usize {
        let id = self.new_request(slot, owner);
        self.requests.borrow_mut()[id].status = Status::Refused;
        id
    }

    pub fn io_of(&self, id: usize) -> Io {
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
    pub fn announce(&self, id: usize) {
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

    pub fn may_submit(&self, slot: usize) -> bool {
        let is_there = !self.slots[slot].engine.get().is_null();
        is_there && self.requests.borrow().len() < self.config.requests
    }

    pub fn batch(&self) -> u64 {
        self.tape.pick([0, 0, 1, 2, 4, 100])
    }

    pub fn submit(&'static self, slot: usize) {
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
    pub fn check_prompt(&self, decision: &Decision) {
        if self.config.hook_acts > 0 {
            return; // Hooks submit, plug and unplug in between.
        }
        let slot = decision.slot;
        let model = self.model(slot);
        let limit = self.limit_of(decision.batch);
        // A ring wants what it has room for, unless it has none.
        let filling = decision.free > 0 && decision.queued >= decision.free;
        let full_batch = decision.queued as u64 >= limit || filling;
        if decision.gathers && !full_batch {
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
            || self.free_slots(slot) == 0
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
        self.check(!kept || !full_batch, "a full batch is kept back");
    }

    pub fn want_batch(&self, slot: usize, id: usize, batch: u64) {
        let limit = self.limit_of(batch);
        self.requests.borrow_mut()[id].batch = limit;
        self.model(slot).wanted_batch.set(limit);
    }

    /// The batch that is worth a submission, for a device that wants `batch`.
    pub fn limit_of(&self, batch: u64) -> u64 {
        let of_context = match self.config.context_batch {
            0 => 32,
            limit => limit,
        };
        if batch == 0 { of_context } else { batch.min(of_context) }
    }

    /// What the engine sees when it decides whether to submit.
    pub fn decision(&self, slot: usize, batch: u64) -> Decision {
        let queue = self.model(slot).queue.borrow();
        Decision {
            slot,
            batch,
            queued: queue.len(),
            free: self.free_slots(slot),
            first: queue.front().copied(),
            at_bound: self.engine(slot).stats().at_bound,
            eagain: self.model(slot).counts.get().eagain,
            io_submit_calls: self.model(slot).counts.get().io_submit_calls,
            attaches: self.slots[slot].attaches.get(),
            gathers: self.model(slot).plugs.get() > 0,
        }
    }

    /// Submits for whoever runs, and waits for the result.
    pub fn co_submit(&'static self, slot: usize, owner: Owner) {
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
            let find = || unsafe { State::usable_in(engine, context(CONTEXTS + 1)) };
            // SAFETY: as above.
            let answer = unsafe { State::co_submit(Ok(io), batch, find) };
            self.foreign.set(false);
            return self.check(
                answer == Err(Errno(libc::EPERM)),
                "a coroutine of another thread was let in",
            );
        }
        self.announce(id);
        self.want_batch(slot, id, batch);
        // SAFETY: the slot's state.
        match unsafe { State::co_submit(Ok(io), batch, || State::usable(engine)) } {
            Ok(result) => self.told(id, result),
            Err(errno) => self.fail(&format!("#{id} was not accepted: {errno:?}")),
        }
    }

    pub fn co_submit_without_coroutines(&'static self, slot: usize) {
        let id = self.new_refused_request(slot, Owner::Thread);
        let io = self.io_of(id);
        let engine = self.slots[slot].engine.get();
        // SAFETY: the slot's state.
        let answer = unsafe { State::co_submit(Ok(io), 0, || State::usable(engine)) };
        let attached = self.engine(slot).is_attached();
        let expected = if attached { libc::ENOTSUP } else { libc::ENOTCONN };
        self.check(answer == Err(Errno(expected)), "a host without coroutines got one");
    }

    /// Starts a coroutine of several requests, or the nearest thing that this host has.
    pub fn start(&'static self, slot: usize) {
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

    pub fn coroutine_body(&'static self, number: usize) {
        for _ in 0..=self.tape.below(4) {
            self.co_submit(self.any_slot(), Owner::Coroutine(number));
            if self.tape.below(4) == 3 {
                self.act(Place::Coroutine);
            }
        }
    }
}
