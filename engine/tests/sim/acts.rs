// SPDX-License-Identifier: MIT OR Apache-2.0

//! What whoever has control may do.

use laio_engine::host::Host;

use crate::config::Coroutines;
use crate::host::SimHost;
use crate::model::{FILES, Request};
use crate::world::World;

/// Event loops that there are.
pub const CONTEXTS: usize = 2;

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

impl World {
    pub fn any_slot(&self) -> usize {
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
    pub fn truncate_some(&self) {
        if self.tape.below(4) == 3 {
            let (real, model) = &mut self.files.borrow_mut()[self.tape.below(FILES)];
            let length = self.tape.below(real.len().min(200) + 1);
            self.trace(|| format!("a file is cut at {length}"));
            real.truncate(length);
            model.truncate(length);
        }
    }

    pub fn plug(&self, slot: usize) {
        self.trace(|| format!("state {slot}: plug"));
        self.model(slot).plugs.set(self.model(slot).plugs.get() + 1);
        self.engine(slot).plug();
    }

    pub fn unplug(&self, slot: usize) {
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

    pub fn plugged(&'static self, slot: usize, place: Place) {
        self.plug(slot);
        self.act(place);
        self.submit(slot);
        // Another state may have taken the place of the one that was plugged.
        if self.model(slot).plugs.get() > 0 {
            self.unplug(slot);
        }
    }

    pub fn in_section(&'static self, place: Place) {
        // A section belongs to the thread: a coroutine that yields within would leave it open.
        if !self.config.defers || place == Place::Coroutine {
            return;
        }
        self.begin();
        self.act(Place::Owner);
        self.submit(self.any_attached());
        self.end();
    }

    pub fn any_attached(&self) -> usize {
        let first = self.any_slot();
        let count = self.slots.len();
        (0..count)
            .map(|index| (first + index) % count)
            .find(|&slot| self.is_attached(slot))
            .unwrap_or(first)
    }

    pub fn begin(&'static self) {
        self.trace(|| "a section begins".into());
        self.own_sections.set(self.own_sections.get() + 1);
        SimHost(self).defer_begin();
    }

    pub fn end(&'static self) {
        self.trace(|| "a section ends".into());
        self.own_sections.set(self.own_sections.get() - 1);
        SimHost(self).defer_end();
    }

    /// Leaves a section open, or ends it.
    pub fn begin_or_end(&'static self) {
        match self.own_sections.get() {
            0 if self.config.defers => self.begin(),
            0 => {}
            _ => self.end(),
        }
    }

    pub fn some_outstanding(&self) -> Option<usize> {
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
    pub fn may_loop(&self) -> bool {
        self.loops.get() < self.config.max_loops && self.hooks.get() == 0
    }

    /// Runs the event loop until one request is complete, as bdrv_drain() and the like do.
    pub fn wait_for_some(&'static self) {
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

    pub fn wait_for_all(&'static self, slot: usize) {
        if !self.may_loop() {
            return;
        }
        self.trace(|| format!("wait for all of state {slot}"));
        while self.outstanding(slot) > 0 && self.is_attached(slot) {
            self.turn_or_hang(self.slots[slot].context.get(), "one who drains");
        }
        self.trace(|| format!("end of the wait for all of state {slot}"));
    }

    pub fn turn_once(&'static self) {
        if self.may_loop() {
            self.loops.set(self.loops.get() + 1);
            self.turn(1 + self.tape.below(CONTEXTS));
            self.loops.set(self.loops.get() - 1);
        }
    }

    /// Wakes a coroutine that does not expect it.
    pub fn resume_some(&'static self) {
        let count = self.coroutines.borrow().len();
        if count > 0 {
            self.resume(1 + self.tape.below(count.min(256)));
        }
    }

    /// Whether a state may be detached or attached here: by whoever is not waiting for it. A thread
    /// that drives the loop itself would wait for ever.
    pub fn may_change(&self, place: Place) -> bool {
        match place {
            Place::Top => true,
            Place::Owner => self.config.coroutines != Coroutines::Thread && self.hooks.get() == 0,
            Place::Coroutine | Place::Hook => false,
        }
    }

    pub fn detach_or_attach(&'static self, slot: usize) {
        if self.is_attached(slot) {
            self.detach(slot);
        } else {
            self.attach(slot);
        }
    }

    pub fn replace_some(&'static self, slot: usize) {
        // A free state is not attached to anything, and nobody looks after it.
        if self.tape.below(3) == 2 {
            self.replace_state(slot);
        }
    }

    /// More than the ring has slots, where the scenario is that large.
    pub fn many(&'static self, slot: usize) {
        let count = if self.config.requests > 1024 { 1100 } else { 10 };
        (0..count).for_each(|_| self.submit(slot));
    }
}

/// In hooks.
impl World {
    /// Another thread has the lock first, and detaches a state.
    pub fn act_before_lock(&'static self) {
        self.act_around_entry();
        let slot = self.any_slot();
        let may = self.config.coroutines != Coroutines::Thread
            && self.hooks.get() == 0
            && !self.slots[slot].engine.get().is_null()
            && self.is_attached(slot);
        if may && self.tape.chance(self.config.hook_acts) {
            // Of another thread's doing, so before the entry begins.
            let (entries, told) = (self.entries.replace(0), self.told_here.get());
            self.hooks.set(1);
            self.detach(slot);
            self.taken_away.set(Some(slot));
            self.hooks.set(0);
            self.entries.set(entries);
            self.told_here.set(told);
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
        // The child's copy of the host is left alone.
        let may = !self.calm.get() && !self.child.get() && self.hooks.get() < 2;
        if !may || !self.tape.chance(self.config.hook_acts) {
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
}
