// SPDX-License-Identifier: MIT OR Apache-2.0

//! Making, attaching, detaching and freeing states.

use std::ffi::c_void;

use laio_engine::{Refusal, State};

use crate::acts::CONTEXTS;
use crate::host::{SimHost, context};
use crate::world::{Engine, World};

impl World {
    pub fn give_state(&'static self, slot: usize) {
        let state = Box::new(State::new(self.kernel(slot), SimHost(self)));
        self.slots[slot].engine.set(Box::into_raw(state));
        self.attach(slot);
    }

    pub fn attach(&'static self, slot: usize) {
        let number = 1 + self.tape.below(CONTEXTS);
        self.trace(|| format!("state {slot}: attach to loop {number}"));
        self.taken_away.set(self.taken_away.get().filter(|&other| other != slot));
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
    pub fn attach_surely(&'static self, slot: usize) {
        while !self.is_attached(slot) {
            self.attach(slot);
        }
    }

    pub fn check_live_again(&self, slot: usize) {
        let again = self.engine(slot).attach(context(1));
        self.check(again == Err(Refusal::Attached), "a second attach was not refused");
    }

    pub fn detach(&'static self, slot: usize) {
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

    /// Frees a state, whatever it has to do still, and makes another.
    pub fn replace_state(&'static self, slot: usize) {
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

    pub fn is_call_pending(&self, engine: *mut Engine) -> bool {
        let names = |call: &(_, *mut c_void)| call.1 == engine.cast();
        self.deferred.borrow().iter().any(names) || self.due_calls.borrow().iter().any(names)
    }

    pub fn free_state(&'static self, slot: usize) {
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
        // In a child they are its parent's.
        let left = if self.child.get() { 0 } else { self.outstanding(slot) };
        self.check(left == 0, "a state was freed with requests outstanding");
        let pending = self.is_call_pending(engine);
        self.check(!pending, "a state was freed that a deferred call still names");
    }

    pub fn is_idle(&self) -> bool {
        self.is_top() && self.hooks.get() == 0 && self.running.borrow().is_empty()
    }

    pub fn is_top(&self) -> bool {
        self.nest.get() == 0 && self.loops.get() == 0 && self.running.borrow().is_empty()
    }

    pub fn is_attached(&self, slot: usize) -> bool {
        self.slots[slot].context.get() != 0
    }
}
