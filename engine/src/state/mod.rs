// SPDX-License-Identifier: MIT OR Apache-2.0

//! The state: what there is of one queue and one ring, and how it is attached, detached and freed.
//!
//! # Why no request is left behind
//!
//! One rule, and one place that keeps it ([`State::settle`]): **while requests are queued,
//! completion_bh is scheduled, unless the kernel has refused more for now (`blocked`) and still
//! has some, whose completion will come back through the eventfd.** A plug, a deferred call or the
//! next submission usually empties the queue before the event loop gets to the bottom half, which
//! is then cancelled. What they do not empty it takes: requests left at the depth bound, requests
//! that a nested event loop waits for, requests that the kernel did not want while nothing was in
//! flight.
//!
//! The same bottom half is scheduled while an owner is being told of a completion, because the ring
//! may hold more completions whose eventfd signal has already been read.

mod accept;
mod batch;
mod complete;
mod drain;
mod handlers;
mod submit;

use std::cell::Cell;
use std::ffi::c_void;
use std::fmt;
use std::ptr;

use crate::errno::Errno;
use crate::host::{AioContext, Host, NotifierHandlers, QEMUBH};
use crate::kernel::Kernel;
use crate::pool::Pool;
use crate::queue::Queue;
use crate::stats::{Counters, LaioStats};

/// Requests of one kernel context, served by one event loop.
///
/// Used by one thread at a time: the thread of the event loop, or whoever holds the host's lock.
pub struct State<K: Kernel, H: Host> {
    kernel: K,
    host: H,
    /// Null while detached.
    context: Cell<*mut AioContext>,
    /// completion_bh; null while detached.
    bh: Cell<*mut QEMUBH>,
    bh_scheduled: Cell<bool>,
    queue: Queue,
    in_flight: Cell<usize>,
    /// The kernel wanted no more at the last try: do not ask again for each new request.
    blocked: Cell<bool>,
    plugs: Cell<u32>,
    /// Sections open on this state, in which submissions wait for the end of the section.
    sections: Cell<u32>,
    /// A deferred call is with the host, which has this state's address.
    deferred: Cell<bool>,
    /// Frames on some stack that use this state and have called out, or may.
    active: Cell<usize>,
    counters: Counters,
    pool: Pool,
}

/// Why a state was not attached, detached or freed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// It is attached already.
    Attached,
    /// It is not attached to that event loop.
    NotAttached,
    /// The host gave no bottom half.
    NoBottomHalf,
    /// The host cannot watch the eventfd.
    NotWatched(Errno),
    /// It is being used further up on the stack.
    Active,
    /// The host still has a deferred call to it.
    DeferredCall,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotWatched(errno) => {
                return write!(f, "the eventfd cannot be watched: {errno:?}");
            }
            Self::Attached => "the state is attached to an event loop already",
            Self::NotAttached => "the state is not attached to this event loop",
            Self::NoBottomHalf => "the host gave no bottom half",
            Self::Active => "called from within a completion of the same state",
            Self::DeferredCall => "a deferred call to the state is pending; end its section first",
        })
    }
}

impl<K: Kernel, H: Host> State<K, H> {
    /// A state that is not attached to any event loop.
    pub fn new(kernel: K, host: H) -> Self {
        Self {
            kernel,
            host,
            context: Cell::new(ptr::null_mut()),
            bh: Cell::new(ptr::null_mut()),
            bh_scheduled: Cell::new(false),
            queue: Queue::default(),
            in_flight: Cell::new(0),
            blocked: Cell::new(false),
            plugs: Cell::new(0),
            sections: Cell::new(0),
            deferred: Cell::new(false),
            active: Cell::new(0),
            counters: Counters::default(),
            pool: Pool::default(),
        }
    }

    /// Lets `context` serve the state. The state does not move until it is detached.
    pub fn attach(&self, context: *mut AioContext) -> Result<(), Refusal> {
        if self.is_attached() {
            return Err(Refusal::Attached);
        }
        let bh = self.host.bh_new(context, Self::on_bh, self.opaque());
        if bh.is_null() {
            return Err(Refusal::NoBottomHalf);
        }
        self.bh.set(bh);
        self.context.set(context);
        let handlers = NotifierHandlers {
            read: Self::on_readable,
            poll: Self::on_poll,
            poll_ready: Self::on_poll_ready,
            expected: Self::on_expected,
        };
        let eventfd = self.kernel.eventfd();
        let watched = self.host.set_event_notifier(context, eventfd, Some(handlers), self.opaque());
        if let Err(errno) = watched {
            self.bh.set(ptr::null_mut());
            self.context.set(ptr::null_mut());
            self.host.bh_delete(bh);
            return Err(Refusal::NotWatched(errno));
        }
        if self.outstanding() > 0 {
            // Brought along from the event loop before, which may have read the eventfd.
            self.schedule_bh();
        }
        Ok(())
    }

    /// Ends the service of `context`. Requests that are outstanding wait for the next attach.
    pub fn detach(&self, context: *mut AioContext) -> Result<(), Refusal> {
        if !self.is_attached() || context != self.context.get() {
            return Err(Refusal::NotAttached);
        }
        let eventfd = self.kernel.eventfd();
        // Ending a watch cannot fail.
        let _ = self.host.set_event_notifier(context, eventfd, None, ptr::null_mut());
        self.host.bh_delete(self.bh.replace(ptr::null_mut()));
        self.bh_scheduled.set(false);
        self.context.set(ptr::null_mut());
        Ok(())
    }

    /// Whether the state may be freed, by [`cleanup`](Self::cleanup), now.
    pub fn check_cleanup(&self) -> Result<(), Refusal> {
        match (self.active.get(), self.deferred.get()) {
            (0, false) => Ok(()),
            (0, true) => Err(Refusal::DeferredCall),
            _ => Err(Refusal::Active),
        }
    }

    /// Completes what is outstanding, waiting for it, then detaches and frees the state.
    ///
    /// # Safety
    ///
    /// `this` came from a `Box`, [`check_cleanup`](Self::check_cleanup) agrees, and nobody uses
    /// the state afterwards.
    pub unsafe fn cleanup(this: *mut Self) {
        // SAFETY: the caller's promise.
        let state = unsafe { &*this };
        if state.is_attached() {
            // Attached, so this is its context and cannot fail. From here on nothing is accepted.
            let _ = state.detach(state.context.get());
        }
        state.drain();
        // SAFETY: nothing is with the kernel or the host any more; the rest is the caller's promise.
        drop(unsafe { Box::from_raw(this) });
    }

    /// Requests accepted and not completed.
    pub fn outstanding(&self) -> usize {
        self.queue.len() + self.in_flight.get()
    }

    /// Requests with the kernel.
    pub fn in_flight(&self) -> usize {
        self.in_flight.get()
    }

    pub fn is_attached(&self) -> bool {
        !self.context.get().is_null()
    }

    pub fn stats(&self) -> LaioStats {
        self.counters.snapshot(self.queue.len(), self.in_flight.get())
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
        let kernel_will_call = || self.blocked.get() && self.in_flight.get() > 0;
        if !self.queue.is_empty() && !kernel_will_call() {
            self.schedule_bh();
        } else if self.bh_scheduled.get() && self.sections.get() == 0 {
            self.cancel_bh();
        }
    }

    #[inline]
    fn schedule_bh(&self) {
        if self.is_attached() && !self.bh_scheduled.replace(true) {
            self.host.bh_schedule(self.bh.get());
        }
    }

    /// Cancels what is scheduled.
    fn cancel_bh(&self) {
        self.bh_scheduled.set(false);
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
        self.0.set(self.0.get() - 1);
    }
}
