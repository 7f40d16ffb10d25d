// SPDX-License-Identifier: MIT OR Apache-2.0

//! The state: what there is of one queue and one ring, and how it is attached, detached and freed.
//!
//! # Why no request is left behind
//!
//! One rule, and one place that keeps it ([`State::settle`]): **while requests are queued,
//! completion_bh is scheduled, unless the kernel has refused more for now (`blocked`) and somebody
//! else will call: it still has some, whose completion comes back through the eventfd, or a timer
//! runs ([`backoff`]).** A plug, a deferred call or the next submission usually empties the queue
//! before the event loop gets to the bottom half, which is then cancelled. What they do not empty it
//! takes: requests left at the depth bound, requests that a nested event loop waits for, requests
//! that came when the budget of owners was spent.
//!
//! The same bottom half is scheduled while an owner is being told of a completion, because the ring
//! may hold more completions whose eventfd signal has already been read; and it stays scheduled when
//! completions were left in the ring because the budget was spent (`unreaped`).
//!
//! # When hooks are called
//!
//! Any hook but the look-ups may call back into the same state. So each is called when the state is
//! whole: what the call is about is taken out, or put in, before, and nothing that was read before
//! is believed afterwards.

mod accept;
mod backoff;
mod batch;
mod complete;
mod drain;
mod handlers;
mod refusal;
mod submit;

use std::cell::Cell;
use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::host::{AioContext, Host, NotifierHandlers, QEMUBH};
use crate::kernel::Kernel;
use crate::pool::Pool;
use crate::queue::Queue;
use crate::stats::{Counters, LaioStats};
use backoff::Backoff;
pub use refusal::Refusal;

/// Requests of one kernel context, served by one event loop.
///
/// Used by one thread at a time: the thread of the event loop, or whoever holds the host's lock.
pub struct State<K: Kernel, H: Host> {
    kernel: K,
    host: H,
    /// The host has deferred calls. Asked several times for each request, so kept here.
    defers: bool,
    /// Null while detached.
    context: Cell<*mut AioContext>,
    /// completion_bh; null while detached.
    bh: Cell<*mut QEMUBH>,
    bh_scheduled: Cell<bool>,
    queue: Queue,
    in_flight: Cell<usize>,
    /// The kernel wanted no more at the last try: do not ask again for each new request.
    blocked: Cell<bool>,
    /// It wanted no more although nothing was in flight. Means nothing unless `blocked`.
    starved: Cell<bool>,
    /// Completions may be in the ring that nobody was told of because the budget was spent.
    unreaped: Cell<bool>,
    plugs: Cell<u32>,
    /// Sections open on this state, in which submissions wait for the end of the section.
    sections: Cell<u32>,
    /// A deferred call is with the host, which has this state's address.
    deferred: Cell<bool>,
    /// Being attached or detached: a hook of that is running.
    changing: Cell<bool>,
    /// Being freed.
    closing: Cell<bool>,
    /// Entries from the event loop that wait for the host's lock, or have it. Atomic, because
    /// another thread may have the lock, and the state, meanwhile.
    entering: AtomicU32,
    /// Frames on some stack that use this state and have called out, or may.
    active: Cell<usize>,
    backoff: Backoff,
    counters: Counters,
    pool: Pool,
}

impl<K: Kernel, H: Host> State<K, H> {
    /// A state that is not attached to any event loop.
    pub fn new(kernel: K, host: H) -> Self {
        Self {
            kernel,
            host,
            defers: host.has_deferred_calls(),
            context: Cell::new(ptr::null_mut()),
            bh: Cell::new(ptr::null_mut()),
            bh_scheduled: Cell::new(false),
            queue: Queue::default(),
            in_flight: Cell::new(0),
            blocked: Cell::new(false),
            starved: Cell::new(false),
            unreaped: Cell::new(false),
            plugs: Cell::new(0),
            sections: Cell::new(0),
            deferred: Cell::new(false),
            changing: Cell::new(false),
            closing: Cell::new(false),
            entering: AtomicU32::new(0),
            active: Cell::new(0),
            backoff: Backoff::default(),
            counters: Counters::default(),
            pool: Pool::default(),
        }
    }

    /// Lets `context` serve the state. The state does not move until it is detached. Refused, nothing
    /// has changed.
    pub fn attach(&self, context: *mut AioContext) -> Result<(), Refusal> {
        if self.kernel.is_inherited() {
            return Err(Refusal::Inherited);
        }
        if self.closing.get() {
            return Err(Refusal::Closing);
        }
        if self.changing.get() {
            return Err(Refusal::Changing);
        }
        if self.is_attached() {
            return Err(Refusal::Attached);
        }
        let _active = self.activate();
        self.changing.set(true);
        let attached = self.attach_hooks(context);
        self.changing.set(false);
        attached?;
        if self.outstanding() > 0 {
            // Brought along from the event loop before, which may have read the eventfd.
            self.schedule_bh();
        }
        Ok(())
    }

    /// Whatever a hook calls in here finds the state detached, until the last has returned.
    fn attach_hooks(&self, context: *mut AioContext) -> Result<(), Refusal> {
        let bh = self.host.bh_new(context, Self::on_bh, self.opaque());
        if bh.is_null() {
            return Err(Refusal::NoBottomHalf);
        }
        let eventfd = self.kernel.eventfd();
        let handlers = NotifierHandlers {
            read: Self::on_readable,
            poll: Self::on_poll,
            poll_ready: Self::on_poll_ready,
            expected: Self::on_expected,
            is_timer: false,
        };
        let watched = self.host.set_event_notifier(context, eventfd, Some(handlers), self.opaque());
        if let Err(errno) = watched {
            self.host.bh_delete(bh);
            return Err(Refusal::NotWatched(errno));
        }
        self.bh.set(bh);
        self.context.set(context);
        Ok(())
    }

    /// Ends the service of `context`. Requests that are outstanding wait for the next attach.
    pub fn detach(&self, context: *mut AioContext) -> Result<(), Refusal> {
        if !self.is_attached() || context != self.context.get() {
            return Err(Refusal::NotAttached);
        }
        debug_assert!(!self.changing.get(), "attached, and a hook of an attach is running");
        let _active = self.activate();
        self.changing.set(true);
        // Detached from here on, whatever a hook does.
        self.context.set(ptr::null_mut());
        let bh = self.bh.replace(ptr::null_mut());
        self.bh_scheduled.set(false);
        // Ending a watch cannot fail.
        let eventfd = self.kernel.eventfd();
        let _ = self.host.set_event_notifier(context, eventfd, None, ptr::null_mut());
        self.end_backoff(context);
        self.host.bh_delete(bh);
        self.changing.set(false);
        Ok(())
    }

    /// Whether the state may be freed, by [`cleanup`](Self::cleanup), now.
    pub fn check_cleanup(&self) -> Result<(), Refusal> {
        if self.active.get() > 0 || self.entering.load(Ordering::Acquire) > 0 {
            return Err(Refusal::Active);
        }
        if self.deferred.get() {
            return Err(Refusal::DeferredCall);
        }
        Ok(())
    }

    /// Completes what is outstanding, waiting for it, then detaches and frees the state. In the child
    /// of a fork what is outstanding is the parent's, and nobody is told.
    ///
    /// # Safety
    ///
    /// `this` came from a `Box`, [`check_cleanup`](Self::check_cleanup) agrees, and nobody uses
    /// the state afterwards.
    pub unsafe fn cleanup(this: *mut Self) {
        // SAFETY: the caller's promise.
        let state = unsafe { &*this };
        debug_assert!(state.check_cleanup().is_ok(), "a state in use is freed");
        state.closing.set(true);
        if state.is_attached() {
            // Attached, so this is its context and cannot fail. From here on nothing is accepted.
            let _ = state.detach(state.context.get());
        }
        if !state.kernel.is_inherited() {
            state.drain();
            debug_assert!(state.outstanding() == 0, "a state is freed before it is drained");
            state.kernel.done();
        }
        // SAFETY: nothing of this process is with the kernel or the host any more; the rest is the
        // caller's promise.
        drop(unsafe { Box::from_raw(this) });
    }

    /// Requests accepted and not completed, that this process will complete.
    pub fn outstanding(&self) -> usize {
        if self.kernel.is_inherited() { 0 } else { self.queue.len() + self.in_flight.get() }
    }

    /// Whether an event loop serves it.
    pub fn is_attached(&self) -> bool {
        !self.context.get().is_null()
    }

    /// What it has counted.
    pub fn stats(&self) -> LaioStats {
        self.counters.snapshot(self.queue.len(), self.in_flight.get())
    }

    /// The kernel behind it.
    pub fn kernel(&self) -> &K {
        &self.kernel
    }

    /// What the host hands back to the functions of [`handlers`].
    fn opaque(&self) -> *mut c_void {
        ptr::from_ref(self).cast_mut().cast()
    }

    /// Keeps the rule of this module on the way out, after anything that may have changed the
    /// queue. Within a section the bottom half stays: the owner who is being told may still run
    /// the event loop.
    #[inline]
    fn settle(&self) {
        if !self.bh_scheduled.get() {
            if self.needs_bh() {
                self.schedule_bh();
            }
        } else if self.sections.get() == 0 && !self.needs_bh() {
            self.cancel_bh();
        }
        debug_assert!(
            self.queue.is_empty() || !self.is_attached() || self.somebody_will_call(),
            "requests are left behind"
        );
    }

    #[inline(always)]
    fn needs_bh(&self) -> bool {
        let somebody_else_calls =
            || self.blocked.get() && (self.in_flight.get() > 0 || self.backs_off());
        self.unreaped.get() || (!self.queue.is_empty() && !somebody_else_calls())
    }

    /// The rule itself, as it is when a method returns.
    fn somebody_will_call(&self) -> bool {
        self.bh_scheduled.get()
            || (self.blocked.get() && (self.in_flight.get() > 0 || self.backoff.is_armed()))
    }

    /// The hook may run code of the host, which may detach, but not free.
    #[inline]
    fn schedule_bh(&self) {
        // One that is scheduled is attached, too.
        if !self.bh_scheduled.get() && self.is_attached() {
            self.bh_scheduled.set(true);
            let _active = self.activate();
            self.host.bh_schedule(self.bh.get());
        }
    }

    /// Cancels what is scheduled.
    fn cancel_bh(&self) {
        debug_assert!(self.is_attached(), "a detached state has a bottom half scheduled");
        self.bh_scheduled.set(false);
        let _active = self.activate();
        self.host.bh_cancel(self.bh.get());
    }

    /// Keeps the state from being freed while the result lives.
    fn activate(&self) -> Active<'_> {
        self.active.set(self.active.get() + 1);
        Active(&self.active)
    }
}

#[must_use]
struct Active<'a>(&'a Cell<usize>);

impl Drop for Active<'_> {
    fn drop(&mut self) {
        debug_assert!(self.0.get() > 0, "a use ends that did not begin");
        self.0.set(self.0.get() - 1);
    }
}
