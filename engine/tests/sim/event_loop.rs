// SPDX-License-Identifier: MIT OR Apache-2.0

//! An event loop that does what it has to do in any order.

use laio_engine::depth;

use crate::config::Polls;
use crate::world::World;

/// What an event loop can do next.
#[derive(Clone, Copy, Debug)]
enum Event {
    Bh(usize),
    Readable(usize),
    PollReady(usize),
    Timer(usize),
    Wake,
}

impl World {
    /// Does one thing that `context` has to do, or lets the kernel complete a request if there is
    /// nothing. False when nothing will ever happen.
    pub fn turn(&'static self, context: usize) -> bool {
        self.count_step();
        self.check_at_rest();
        // Late: the kernel may do something first, and that again.
        if self.tape.chance(self.config.late) && self.kernel_completes_one() {
            return true;
        }
        let events = self.events(context);
        if events.is_empty() {
            return self.kernel_completes_one();
        }
        // Zeros must not starve anyone.
        let rotor = self.rotor.replace(self.rotor.get() + 1);
        let index = (rotor + self.tape.below(events.len().min(256))) % events.len();
        self.run(events[index]);
        true
    }

    /// A turn that must find something to do, because somebody waits.
    pub fn turn_or_hang(&'static self, context: usize, waiting: &str) {
        self.loops.set(self.loops.get() + 1);
        if !self.turn(context) {
            self.fail(&format!(
                "hang: {waiting} waits in loop {context}, where nothing will happen"
            ));
        }
        self.loops.set(self.loops.get() - 1);
    }

    fn events(&self, context: usize) -> Vec<Event> {
        let mut events = Vec::new();
        for (index, bh) in self.bottom_halves.borrow().iter().enumerate() {
            if bh.scheduled && bh.context == context {
                events.push(Event::Bh(index));
            }
        }
        for (index, slot) in self.slots.iter().enumerate() {
            if slot.watch.get().is_none_or(|watch| watch.context != context) {
                continue;
            }
            let readable = slot.ring.signalled.get() || self.tape.chance(self.config.spurious);
            if readable && self.config.polls != Polls::Only {
                events.push(Event::Readable(index));
            }
            if self.config.polls != Polls::Never {
                events.push(Event::PollReady(index));
            }
        }
        for (index, slot) in self.slots.iter().enumerate() {
            let here = slot.timer_watch.get().is_some_and(|watch| watch.context == context);
            if here && slot.ring.timer.get() {
                events.push(Event::Timer(index));
            }
        }
        if !self.wakes.borrow().is_empty() {
            events.push(Event::Wake);
        }
        events.retain(|&event| self.is_worth_it(event));
        events
    }

    fn is_worth_it(&self, event: Event) -> bool {
        match event {
            Event::PollReady(slot) => self.slots[slot].watch.get().is_some_and(|watch| {
                // SAFETY: given together by the engine, and still watched.
                unsafe { (watch.handlers.poll)(watch.opaque) }
            }),
            _ => true,
        }
    }

    fn run(&'static self, event: Event) {
        self.trace(|| format!("loop: {event:?}"));
        let frames = depth::current();
        let nest = self.nest.replace(0);
        let (entries, told) = (self.entries.get(), self.told_here.get());
        // The engine knows nothing of a coroutine that is woken: what that spends is the budget of
        // the entry around it.
        let serves = !matches!(event, Event::Wake);
        if serves {
            self.entries.set(entries + 1);
            self.told_here.set(0);
        }
        match event {
            Event::Bh(index) => self.run_bottom_half(index),
            Event::Readable(slot) => {
                if let Some(watch) = self.slots[slot].watch.get() {
                    // SAFETY: given together by the engine, and still watched.
                    unsafe { (watch.handlers.read)(watch.opaque) };
                }
            }
            Event::PollReady(slot) => {
                if let Some(watch) = self.slots[slot].watch.get() {
                    // SAFETY: as above.
                    unsafe { (watch.handlers.poll_ready)(watch.opaque) };
                }
            }
            Event::Timer(slot) => {
                if let Some(watch) = self.slots[slot].timer_watch.get() {
                    let handlers = watch.handlers;
                    self.check(handlers.is_timer, "the timer is watched as if it were an eventfd");
                    // SAFETY: as above.
                    if unsafe { (handlers.poll)(watch.opaque) } {
                        // SAFETY: as above.
                        unsafe { (handlers.read)(watch.opaque) };
                    }
                }
            }
            Event::Wake => self.resume_next_wake(),
        }
        if serves {
            self.check_spent();
            self.told_here.set(told);
        }
        self.entries.set(entries);
        self.nest.set(nest);
        self.check(
            depth::current() == frames,
            "an entry from the event loop left another depth behind",
        );
        self.trace(|| format!("loop: end of {event:?}"));
    }

    /// An entry from the event loop leaves completions in the ring only when it has told as many owners as
    /// it may, whatever event loops within it have told.
    fn check_spent(&self) {
        // The owners of another state, and hooks, may run an event loop when this one is reaped.
        if self.config.states > 1 || self.config.hook_acts > 0 {
            return;
        }
        self.check(
            self.slots[0].ring.complete() == 0 || self.told_here.get() >= self.config.max_told,
            "completions are left in the ring by an entry that has not told as many as it may",
        );
    }

    fn run_bottom_half(&self, index: usize) {
        let (callback, opaque) = {
            let mut list = self.bottom_halves.borrow_mut();
            list[index].scheduled = false;
            (list[index].callback, list[index].opaque)
        };
        if let Some(slot) = self.slots.iter().find(|slot| slot.engine.get().cast() == opaque) {
            let resumes = !slot.model.queue.borrow().is_empty();
            slot.model.count(|counts| counts.bh_resumptions += u64::from(resumes));
        }
        // SAFETY: given together by the engine, and not deleted, or it would not be scheduled.
        unsafe { callback(opaque) };
    }

    fn kernel_completes_one(&'static self) -> bool {
        let busy: Vec<usize> =
            (0..self.slots.len()).filter(|&slot| self.slots[slot].ring.held() > 0).collect();
        if busy.is_empty() {
            return false;
        }
        let slot = busy[self.tape.below(busy.len())];
        self.kernel(slot).complete_any();
        true
    }
}
