// SPDX-License-Identifier: MIT OR Apache-2.0

//! When the kernel wants no more although it has nothing of ours: others must finish first, and no
//! completion will say when. A timer tells when to ask again, because the bottom half would at once.
//!
//! The host watches the timer's descriptor as it watches the eventfd, from the first such answer until
//! the kernel takes something.

use std::cell::Cell;
use std::ffi::c_void;
use std::ptr;
use std::time::Duration;

use super::State;
use crate::host::{AioContext, Host, NotifierHandlers};
use crate::kernel::Kernel;

/// The first delay. It doubles with each try, up to 128 times that, which is 12.8 ms.
const FIRST_DELAY: Duration = Duration::from_micros(100);
const MOST_DOUBLINGS: u32 = 7;

/// What a state remembers of it.
#[derive(Default)]
pub struct Backoff {
    /// Tries since the kernel last took something.
    tries: Cell<u32>,
    /// The timer runs, and the host watches it.
    armed: Cell<bool>,
    /// The host is being asked to watch it, and may yet say no.
    asking: Cell<bool>,
    /// The host watches the timer's descriptor, which is this. 0 if it does not.
    watched: Cell<i32>,
}

impl Backoff {
    pub fn is_armed(&self) -> bool {
        self.armed.get()
    }
}

impl<K: Kernel, H: Host> State<K, H> {
    /// Whether a timer will call for what is queued: it is armed if need be. False where there is no
    /// timer to be had; then the bottom half asks again at once.
    #[cold]
    pub(super) fn backs_off(&self) -> bool {
        // Refused because others were in flight, which are complete now: there is room again.
        if !self.starved.get() || !self.is_attached() || self.backoff.asking.get() {
            return false;
        }
        if self.backoff.armed.get() {
            return true;
        }
        let doublings = self.backoff.tries.get().min(MOST_DOUBLINGS);
        let Ok(fd) = self.kernel.arm_timer(FIRST_DELAY * (1 << doublings)) else { return false };
        self.backoff.tries.set(self.backoff.tries.get() + 1);
        if self.backoff.watched.replace(fd) == 0 && !self.watch_timer(fd) {
            self.backoff.watched.set(0);
            self.stop_timer();
            return false;
        }
        self.backoff.armed.set(true);
        true
    }

    /// Whether the host watches the timer. Not if the hook has detached the state.
    fn watch_timer(&self, fd: i32) -> bool {
        let handlers = NotifierHandlers {
            read: Self::on_timer,
            poll: Self::on_timer_poll,
            poll_ready: Self::on_timer,
            expected: Self::on_timer_expected,
            is_timer: true,
        };
        let context = self.context.get();
        self.backoff.asking.set(true);
        let watched = self.host.set_event_notifier(context, fd, Some(handlers), self.opaque());
        self.backoff.asking.set(false);
        watched.is_ok() && self.backoff.watched.get() == fd
    }

    fn stop_timer(&self) {
        self.backoff.armed.set(false);
        // The child of a fork has the same timer as its parent.
        if !self.kernel.is_inherited() {
            self.kernel.clear_timer();
        }
    }

    /// The kernel has taken something, or the state is detached from `context`: no timer any more.
    pub(super) fn end_backoff(&self, context: *mut AioContext) {
        self.backoff.tries.set(0);
        let fd = self.backoff.watched.replace(0);
        if fd != 0 {
            self.stop_timer();
            // Ending a watch cannot fail.
            let _ = self.host.set_event_notifier(context, fd, None, ptr::null_mut());
        }
    }

    /// The timer's descriptor is readable: time to ask again.
    unsafe extern "C" fn on_timer(opaque: *mut c_void) {
        // SAFETY: `watch_timer` gave this address to the host.
        let state = unsafe { Self::from_opaque(opaque) };
        state.serve_event_loop(|| state.stop_timer());
        let still_refused = state.blocked.get() && state.starved.get();
        if !still_refused && state.is_attached() {
            state.end_backoff(state.context.get());
        }
    }

    unsafe extern "C" fn on_timer_poll(opaque: *mut c_void) -> bool {
        // SAFETY: as in `on_timer`.
        let state = unsafe { Self::from_opaque(opaque) };
        !state.kernel.is_inherited() && state.kernel.is_timer_due()
    }

    unsafe extern "C" fn on_timer_expected(opaque: *mut c_void) -> bool {
        // SAFETY: as in `on_timer`.
        let state = unsafe { Self::from_opaque(opaque) };
        !state.kernel.is_inherited() && state.backoff.armed.get()
    }
}
