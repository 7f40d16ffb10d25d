// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the engine asks of its host: bottom halves, an event notifier, coroutines, deferred calls.
//!
//! The engine is generic over [`Host`], and knows of it only what stands here.

use std::ffi::{CStr, CString, c_int, c_void};
use std::fmt;
use std::os::fd::RawFd;

use crate::errno::Errno;
use crate::wait::Uncancelled;

/// Opaque types of the host. The library only hands their pointers back.
macro_rules! opaque {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[repr(C)]
        pub struct $name {
            _private: [u8; 0],
        }
    )*};
}

opaque! {
    /// The host's event loop.
    AioContext,
    /// The host's bottom half.
    QEMUBH,
    /// The host's coroutine.
    Coroutine,
    /// The host's error object.
    Error,
    /// A state, as the host sees it.
    LinuxAioState,
}

/// A function that the host calls with the `opaque` given beside it.
pub type HostCallback = unsafe extern "C" fn(opaque: *mut c_void);

/// As [`HostCallback`], answering whether there is something to do.
pub type HostPoll = unsafe extern "C" fn(opaque: *mut c_void) -> bool;

/// What the host calls about one eventfd, each with the `opaque` given beside them.
#[derive(Clone, Copy)]
pub struct NotifierHandlers {
    /// The descriptor is readable. The handler reads it.
    pub read: HostCallback,
    /// Called instead of waiting: is there something to do?
    pub poll: HostPoll,
    /// `poll` said yes.
    pub poll_ready: HostCallback,
    /// Whether the descriptor will become readable some time: requests are with the kernel. For
    /// event loops that return when there is nothing to wait for.
    pub expected: HostPoll,
    /// It is a timer's: that it was served is no progress in itself.
    pub is_timer: bool,
}

/// One program's event loops, coroutines and deferred calls.
///
/// A small handle, copied freely. Any method may run code of the host that calls back into the
/// engine, so nothing of the engine is borrowed mutably across one.
pub trait Host: Copy {
    /// Begins each line of the log.
    const NAME: &'static str = "laio";

    /// A new bottom half of `context` that calls `callback(opaque)`; null if there is none to be had.
    fn bh_new(
        self,
        context: *mut AioContext,
        callback: HostCallback,
        opaque: *mut c_void,
    ) -> *mut QEMUBH;
    /// Makes the event loop call `bh` once, soon, and never from within this call.
    fn bh_schedule(self, bh: *mut QEMUBH);
    /// Takes a scheduled call back.
    fn bh_cancel(self, bh: *mut QEMUBH);
    /// Cancels and frees `bh`.
    fn bh_delete(self, bh: *mut QEMUBH);

    /// Watches `fd` in `context`; no handlers ends that, which cannot fail.
    fn set_event_notifier(
        self,
        context: *mut AioContext,
        fd: RawFd,
        handlers: Option<NotifierHandlers>,
        opaque: *mut c_void,
    ) -> Result<(), Errno>;

    /// The running coroutine; `None` when the host has no coroutines.
    fn coroutine_self(self) -> Option<*mut Coroutine>;
    /// Leaves the running coroutine until it is woken. A request's state is attached to `context`.
    fn coroutine_yield(self, context: *mut AioContext);
    /// Whether `coroutine` is running, or waits for one that it entered.
    fn coroutine_entered(self, coroutine: *mut Coroutine) -> bool;
    /// Lets a coroutine that yielded go on, now or soon.
    fn coroutine_wake(self, coroutine: *mut Coroutine);

    /// Whether the host has deferred calls. Without them the engine plugs its own queue.
    fn has_deferred_calls(self) -> bool;
    /// Opens a section, in which deferred calls wait.
    fn defer_begin(self);
    /// Calls `callback(opaque)` once at the end of the outermost section; at once outside of any.
    fn defer_call(self, callback: HostCallback, opaque: *mut c_void);
    /// Ends a section.
    fn defer_end(self);

    /// The calling thread's event loop; null if it has none.
    fn current_aio_context(self) -> *mut AioContext;
    /// The state that serves `context`; null if none does.
    fn linux_aio_state(self, context: *mut AioContext) -> *mut LinuxAioState;
    /// The batch limit of `context` in requests; 0 for the default.
    fn aio_max_batch(self, context: *mut AioContext) -> u64;
    /// Whether the calling thread may use what is attached to `context`.
    fn is_home(self, context: *mut AioContext) -> bool;

    /// Whether completions run under a lock. Without it the two below are not called.
    fn has_lock(self) -> bool;
    /// Locks `context` around completions, in hosts old enough to want it.
    fn context_acquire(self, context: *mut AioContext);
    /// Ends that.
    fn context_release(self, context: *mut AioContext);

    /// Fills the host's error object. `errp` may be null.
    fn error_set(self, errp: *mut *mut Error, errno: c_int, message: &CStr);
    /// Tells a human one line.
    fn log(self, line: &CStr);
}

/// Tells a human, in one line of the host's log, that `function` refused something for `reason`.
pub fn report<H: Host>(host: H, function: &str, reason: impl fmt::Display) {
    let _uncancelled = Uncancelled::enter();
    let line = format!("{}: {function}: {reason}", H::NAME).replace('\0', " ");
    // Without NULs it cannot fail; and a line is not worth a panic.
    host.log(&CString::new(line).unwrap_or_default());
}
