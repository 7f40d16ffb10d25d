// SPDX-License-Identifier: MIT OR Apache-2.0

//! Where the host comes in: the functions that it got together with the state's address.
//!
//! All of them are called by the thread that uses the state, with the address of a state that is
//! attached (or, for the deferred call, not freed: see `check_cleanup`). In the child of a fork, whose
//! copy of the host may still have them, they do nothing.

use std::ffi::c_void;
use std::sync::atomic::Ordering;

use super::State;
use crate::depth::Base;
use crate::host::{AioContext, Host};
use crate::kernel::Kernel;
use crate::trace;

impl<K: Kernel, H: Host> State<K, H> {
    /// # Safety
    ///
    /// `opaque` is the address of a state of this type.
    pub(super) unsafe fn from_opaque<'a>(opaque: *mut c_void) -> &'a Self {
        // SAFETY: the caller's promise.
        unsafe { &*opaque.cast() }
    }

    /// completion_bh.
    pub(super) unsafe extern "C" fn on_bh(opaque: *mut c_void) {
        // SAFETY: `attach` gave this address to the host.
        let state = unsafe { Self::from_opaque(opaque) };
        state.serve_event_loop(|| {
            state.bh_scheduled.set(false);
            if !state.queue.is_empty() {
                state.counters.count(|counts| counts.bh_resumptions += 1);
                trace::resume(state, state.queue.len());
            }
        });
    }

    /// The eventfd is readable.
    pub(super) unsafe extern "C" fn on_readable(opaque: *mut c_void) {
        // SAFETY: as in `on_bh`.
        let state = unsafe { Self::from_opaque(opaque) };
        // Before reaping: a completion that comes later makes it readable again.
        state.serve_event_loop(|| state.kernel.clear_eventfd());
    }

    /// The host polls instead of waiting.
    pub(super) unsafe extern "C" fn on_poll(opaque: *mut c_void) -> bool {
        // SAFETY: as in `on_bh`.
        let state = unsafe { Self::from_opaque(opaque) };
        !state.kernel.is_inherited() && state.kernel.has_completions()
    }

    /// Whether the eventfd will be signalled.
    pub(super) unsafe extern "C" fn on_expected(opaque: *mut c_void) -> bool {
        // SAFETY: as in `on_bh`.
        let state = unsafe { Self::from_opaque(opaque) };
        !state.kernel.is_inherited() && state.in_flight.get() > 0
    }

    /// Polling found completions.
    pub(super) unsafe extern "C" fn on_poll_ready(opaque: *mut c_void) {
        // SAFETY: as in `on_bh`.
        unsafe { Self::from_opaque(opaque) }.serve_event_loop(|| ());
    }

    /// The section in which requests were queued has ended.
    pub(super) unsafe extern "C" fn on_deferred_call(opaque: *mut c_void) {
        // SAFETY: `offer` gave this address to the host.
        let state = unsafe { Self::from_opaque(opaque) };
        state.deferred.set(false);
        state.flush();
    }

    /// Completes what is complete, and submits what is queued: control is with the event loop, so
    /// whoever plugged the queue, at any depth, is waiting.
    ///
    /// `first` runs before that, under the lock of hosts that have one: there another thread may be
    /// submitting until then.
    pub(super) fn serve_event_loop(&self, first: impl FnOnce()) {
        let context = self.context.get();
        if context.is_null() || self.kernel.is_inherited() {
            return; // Called once more after the detach; or not ours.
        }
        if self.host.has_lock() {
            self.serve_locked(context, first);
        } else {
            self.serve(first);
        }
    }

    /// Whoever has the lock until we get it may detach the state, but not free it.
    fn serve_locked(&self, context: *mut AioContext, first: impl FnOnce()) {
        self.entering.fetch_add(1, Ordering::AcqRel);
        self.host.context_acquire(context);
        if self.context.get() == context {
            self.serve(first);
        }
        self.host.context_release(context);
        self.entering.fetch_sub(1, Ordering::AcqRel);
    }

    #[inline(always)] // Into its only caller.
    fn serve(&self, first: impl FnOnce()) {
        let _active = self.activate();
        let base = Base::enter();
        first();
        self.unreaped.set(false);
        self.begin_section();
        self.reap(&base.round);
        self.end_section(&base.round);
        if !self.queue.is_empty() && self.is_attached() {
            self.ioq_submit();
        }
        self.settle();
        self.queue.trim();
    }
}
