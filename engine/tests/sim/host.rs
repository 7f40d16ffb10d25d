// SPDX-License-Identifier: MIT OR Apache-2.0

//! A host that does to the engine whatever a host may do.

use std::ffi::{CStr, c_int, c_void};
use std::os::fd::RawFd;
use std::ptr;

use laio_engine::errno::Errno;
use laio_engine::host::{
    AioContext, Coroutine, Error, Host, HostCallback, LinuxAioState, NotifierHandlers, QEMUBH,
};

use crate::config::Coroutines;
use crate::model::Owner;
use crate::world::World;

/// Event loops are numbers from 1 on.
pub fn context(number: usize) -> *mut AioContext {
    ptr::without_provenance_mut(number)
}

pub struct BottomHalf {
    pub context: usize,
    pub callback: HostCallback,
    pub opaque: *mut c_void,
    pub scheduled: bool,
    pub deleted: bool,
}

#[derive(Clone, Copy)]
pub struct Watch {
    pub context: usize,
    pub handlers: NotifierHandlers,
    pub opaque: *mut c_void,
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
        // The first owner of a round may be due: it is told in this section.
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
        self.0.taken_away.set(None);
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

impl BottomHalf {
    /// What runs it, if it is scheduled.
    pub fn scheduled_call(&self) -> Option<(HostCallback, *mut c_void)> {
        self.scheduled.then_some((self.callback, self.opaque))
    }

    pub fn is_of(&self, opaque: *mut c_void) -> bool {
        self.opaque == opaque
    }
}
