// SPDX-License-Identifier: MIT OR Apache-2.0

//! A host that does to the engine whatever a host may do.

use std::cell::Cell;
use std::ffi::{CStr, c_int, c_void};
use std::os::fd::RawFd;
use std::ptr;

use corosensei::stack::DefaultStack;
use corosensei::{CoroutineResult, Yielder};
use laio_engine::depth;
use laio_engine::errno::Errno;
use laio_engine::host::{
    AioContext, Coroutine, Error, Host, HostCallback, LinuxAioState, NotifierHandlers, QEMUBH,
};

use crate::model::Owner;
use crate::world::{Coroutines, Polls, World};

/// Event loops are numbers from 1 on.
pub fn context(number: usize) -> *mut AioContext {
    ptr::without_provenance_mut(number)
}

pub struct BottomHalf {
    pub context: usize,
    callback: HostCallback,
    opaque: *mut c_void,
    pub scheduled: bool,
    deleted: bool,
}

#[derive(Clone, Copy)]
pub struct Watch {
    pub context: usize,
    handlers: NotifierHandlers,
    opaque: *mut c_void,
}

type Stackful = corosensei::Coroutine<(), (), (), DefaultStack>;

/// A coroutine of the host. Its numbers start at 1.
pub struct SimCoroutine {
    /// Away while it is entered.
    code: Option<Stackful>,
    yielder: Cell<*const Yielder<(), ()>>,
    pub finished: bool,
}

#[derive(Clone, Copy)]
pub struct SimHost(pub &'static World);

impl Host for SimHost {
    fn bh_new(
        self,
        context: *mut AioContext,
        callback: HostCallback,
        opaque: *mut c_void,
    ) -> *mut QEMUBH {
        let mut list = self.0.bottom_halves.borrow_mut();
        list.push(BottomHalf {
            context: context.addr(),
            callback,
            opaque,
            scheduled: false,
            deleted: false,
        });
        let number = list.len();
        drop(list);
        self.0.act_in_hook();
        ptr::without_provenance_mut(number)
    }

    fn bh_schedule(self, bh: *mut QEMUBH) {
        self.with_bh(bh, |bh| bh.scheduled = true);
        self.0.act_in_hook();
    }

    fn bh_cancel(self, bh: *mut QEMUBH) {
        self.with_bh(bh, |bh| bh.scheduled = false);
        self.0.act_in_hook();
    }

    fn bh_delete(self, bh: *mut QEMUBH) {
        self.with_bh(bh, |bh| (bh.deleted, bh.scheduled) = (true, false));
        self.0.act_in_hook();
    }

    fn set_event_notifier(
        self,
        context: *mut AioContext,
        fd: RawFd,
        handlers: Option<NotifierHandlers>,
        opaque: *mut c_void,
    ) -> Result<(), Errno> {
        let watch = self.0.watch_of(fd);
        if handlers.is_some() {
            self.0.check(watch.get().is_none(), "a descriptor is watched twice");
            if self.0.config.watches_fail && self.0.tape.chance(4) && !self.0.calm.get() {
                self.0.act_around_entry();
                return Err(Errno(libc::ENOSPC));
            }
        }
        watch.set(handlers.map(|handlers| Watch { context: context.addr(), handlers, opaque }));
        self.0.act_around_entry();
        Ok(())
    }

    fn coroutine_self(self) -> Option<*mut Coroutine> {
        match self.0.config.coroutines {
            Coroutines::None => None,
            Coroutines::Thread => Some(ptr::null_mut()),
            Coroutines::Real => {
                let running = self.0.running.borrow().last().copied();
                self.0.check(running.is_some(), "no coroutine runs");
                running.map(ptr::without_provenance_mut)
            }
        }
    }

    fn coroutine_yield(self, context: *mut AioContext) {
        self.0.nothing_due("a yield");
        if self.0.config.coroutines == Coroutines::Thread {
            self.0.turn_or_hang(context.addr(), "co_submit on a plain thread");
            return;
        }
        let running = *self.0.running.borrow().last().expect("a coroutine runs");
        self.0.trace(|| format!("coroutine {running} yields"));
        let yielder = self.0.coroutines.borrow()[running - 1].yielder.get();
        // SAFETY: set when it started, and it runs.
        unsafe { (*yielder).suspend(()) };
    }

    fn coroutine_entered(self, coroutine: *mut Coroutine) -> bool {
        let world = self.0;
        let number = coroutine.addr();
        let owner = if number == 0 { Owner::Thread } else { Owner::Coroutine(number) };
        world.is_told(owner);
        match owner {
            Owner::Coroutine(number) => world.is_entered(number),
            _ => true,
        }
    }

    fn coroutine_wake(self, coroutine: *mut Coroutine) {
        let (world, number) = (self.0, coroutine.addr());
        let finished = world.coroutines.borrow()[number - 1].finished;
        world.check(!finished, "a coroutine is woken that has ended");
        world.check(!world.is_entered(number), "an entered coroutine is woken");
        if world.tape.chance(world.config.wake_later) {
            world.wakes.borrow_mut().push(number);
        } else {
            world.nested(|| world.resume(number));
        }
    }

    fn has_deferred_calls(self) -> bool {
        self.0.config.defers
    }

    fn defer_begin(self) {
        self.0.nothing_due("a section's begin");
        self.0.sections.set(self.0.sections.get() + 1);
        self.0.act_in_hook();
    }

    fn defer_call(self, callback: HostCallback, opaque: *mut c_void) {
        self.0.nothing_due("a deferred call");
        if self.0.sections.get() == 0 {
            // SAFETY: given together by the engine.
            return unsafe { callback(opaque) };
        }
        let mut deferred = self.0.deferred.borrow_mut();
        let same = |known: &(HostCallback, *mut c_void)| {
            ptr::fn_addr_eq(known.0, callback) && known.1 == opaque
        };
        if !deferred.iter().any(same) {
            deferred.push((callback, opaque));
        }
        drop(deferred);
        self.0.act_in_hook();
    }

    fn defer_end(self) {
        let world = self.0;
        world.nothing_due("a section's end");
        let left = world.sections.get().checked_sub(1);
        world.check(left.is_some(), "a section ends that did not begin");
        world.sections.set(left.unwrap_or(0));
        if left != Some(0) {
            return;
        }
        // Out of the list of those to come, and in sight until they are made.
        let calls = std::mem::take(&mut *world.deferred.borrow_mut());
        world.due_calls.borrow_mut().extend(calls);
        loop {
            let (callback, opaque) = {
                let mut calls = world.due_calls.borrow_mut();
                match calls.len() {
                    0 => break,
                    count => calls.remove(world.tape.below(count)),
                }
            };
            // SAFETY: given together by the engine.
            unsafe { callback(opaque) };
        }
    }

    fn current_aio_context(self) -> *mut AioContext {
        context(1)
    }

    fn linux_aio_state(self, _context: *mut AioContext) -> *mut LinuxAioState {
        ptr::null_mut()
    }

    fn aio_max_batch(self, context: *mut AioContext) -> u64 {
        self.0.check(!context.is_null(), "the batch limit of a null context is asked for");
        self.0.config.context_batch
    }

    fn is_home(self, context: *mut AioContext) -> bool {
        self.0.check(!context.is_null(), "the home of a null context is asked for");
        !self.0.foreign.get()
    }

    fn has_lock(self) -> bool {
        self.0.config.locks
    }

    fn context_acquire(self, context: *mut AioContext) {
        self.0.check(!context.is_null(), "a null context is locked");
        self.0.act_before_lock();
        self.0.locks.set(self.0.locks.get() + 1);
    }

    fn context_release(self, context: *mut AioContext) {
        self.0.check(!context.is_null(), "a null context is unlocked");
        self.0.locks.set(self.0.locks.get() - 1);
        self.0.check(self.0.locks.get() >= 0, "a context is unlocked that was not locked");
        self.0.act_around_entry();
    }

    fn error_set(self, _errp: *mut *mut Error, _errno: c_int, _message: &CStr) {}

    fn log(self, _line: &CStr) {}
}

impl SimHost {
    fn with_bh(self, bh: *mut QEMUBH, change: impl FnOnce(&mut BottomHalf)) {
        let mut list = self.0.bottom_halves.borrow_mut();
        let known = bh.addr().checked_sub(1).and_then(|index| list.get_mut(index));
        match known {
            Some(bh) if !bh.deleted => change(bh),
            _ => self.0.fail("a bottom half is used that does not exist"),
        }
    }
}

/// What an event loop can do next.
#[derive(Clone, Copy, Debug)]
enum Event {
    Bh(usize),
    Readable(usize),
    PollReady(usize),
    Timer(usize),
    Wake,
}

/// The event loop.
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
        let told = self.told_here.replace(0);
        // A coroutine that is woken submits for itself.
        let entries = match event {
            Event::Wake => self.entries.replace(0),
            _ => self.entries.replace(self.entries.get() + 1),
        };
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
        self.entries.set(entries);
        self.told_here.set(told);
        self.nest.set(nest);
        self.check(
            depth::current() == frames,
            "an entry from the event loop left another depth behind",
        );
        self.trace(|| format!("loop: end of {event:?}"));
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

thread_local! {
    /// Stacks to use again.
    static STACKS: std::cell::RefCell<Vec<DefaultStack>> = const { std::cell::RefCell::new(Vec::new()) };
}

const STACK_BYTES: usize = 1 << 20;

/// Coroutines.
impl World {
    pub fn is_entered(&self, number: usize) -> bool {
        let coroutines = self.coroutines.borrow();
        coroutines[number - 1].code.is_none() && !coroutines[number - 1].finished
    }

    /// Starts `body` as a coroutine, which runs until it yields.
    pub fn start_coroutine(&'static self, body: impl FnOnce(usize) + 'static) {
        let stack = STACKS
            .with_borrow_mut(Vec::pop)
            .unwrap_or_else(|| DefaultStack::new(STACK_BYTES).expect("memory for a stack"));
        let number = self.coroutines.borrow().len() + 1;
        let code = Stackful::with_stack(stack, move |yielder, ()| {
            self.coroutines.borrow()[number - 1].yielder.set(yielder);
            body(number);
        });
        self.coroutines.borrow_mut().push(SimCoroutine {
            code: Some(code),
            yielder: Cell::new(ptr::null()),
            finished: false,
        });
        self.resume(number);
    }

    /// Enters a coroutine that has yielded, until it yields again or ends.
    pub fn resume(&'static self, number: usize) {
        let Some(mut code) = self.coroutines.borrow_mut()[number - 1].code.take() else {
            return; // Ended meanwhile, or somebody else entered it: it looks for itself.
        };
        self.trace(|| format!("coroutine {number} runs"));
        self.running.borrow_mut().push(number);
        let result = code.resume(());
        self.running.borrow_mut().pop();
        let mut coroutines = self.coroutines.borrow_mut();
        match result {
            CoroutineResult::Yield(()) => coroutines[number - 1].code = Some(code),
            CoroutineResult::Return(()) => {
                coroutines[number - 1].finished = true;
                STACKS.with_borrow_mut(|stacks| stacks.push(code.into_stack()));
            }
        }
    }

    fn resume_next_wake(&'static self) {
        let number = {
            let mut wakes = self.wakes.borrow_mut();
            let count = wakes.len();
            wakes.swap_remove(self.tape.below(count.min(256)))
        };
        // One that was entered since needs no wake: it looks for its result itself.
        self.resume(number);
    }
}

impl BottomHalf {
    pub fn is_of(&self, opaque: *mut c_void) -> bool {
        self.opaque == opaque
    }
}
