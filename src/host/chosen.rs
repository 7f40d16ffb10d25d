// SPDX-License-Identifier: MIT OR Apache-2.0

//! Which host it is, decided once for the process.
//!
//! Pointers of the host come back to it only from the engine, which got them from it.

#![allow(clippy::not_unsafe_ptr_arg_deref)]

use std::ffi::{CStr, c_int, c_void};
use std::os::fd::RawFd;
use std::sync::OnceLock;

use laio_engine::errno::Errno;
use laio_engine::host::{
    AioContext, Coroutine, Error, Host, HostCallback, LinuxAioState, NotifierHandlers, QEMUBH,
};

use super::built_in::BUILT_IN;
use super::table::{BadTable, HostTable};
use super::{LaioHostOps, report};

/// What the program chose. Unset until the first state, the first event loop, or
/// laio_set_host_ops(): whichever comes first decides for good.
static CHOICE: OnceLock<&HostTable> = OnceLock::new();

/// Why hooks were not taken.
pub enum NotSet {
    /// The choice is made.
    TooLate,
    /// The table is not usable.
    Bad(BadTable),
}

/// The one host of the process: the program's table of hooks, or the built-in host's.
#[derive(Clone, Copy)]
pub struct ProcessHost(&'static HostTable);

/// Calls a hook that [`HostTable::new`] has found to be there.
macro_rules! hook {
    ($host:ident . $name:ident ( $($arg:expr),* )) => {
        // SAFETY: the hook is there: it is required, or has a stand-in, or is one of a group that
        // the engine asks for first (`coroutine_self`, `has_deferred_calls`). Its contract is that
        // of `LaioHostOps`, which the program accepted by giving it.
        unsafe { $host.0.ops.$name.unwrap_unchecked()($($arg),*) }
    };
}

/// Calls a hook that may be missing, if it is there.
macro_rules! optional_hook {
    ($host:ident . $name:ident ( $($arg:expr),* )) => {
        // SAFETY: as in `hook!`.
        $host.0.ops.$name.map(|hook| unsafe { hook($($arg),*) })
    };
}

impl ProcessHost {
    /// Takes the program's hooks.
    ///
    /// # Safety
    ///
    /// As [`HostTable::new`].
    pub unsafe fn set(ops: *const LaioHostOps) -> Result<(), NotSet> {
        if CHOICE.get().is_some() {
            return Err(NotSet::TooLate);
        }
        // SAFETY: the caller's promise.
        let table = unsafe { HostTable::new(ops) }.map_err(NotSet::Bad)?;
        // Once in a process, so it may stay.
        CHOICE.set(Box::leak(Box::new(table))).map_err(|_| NotSet::TooLate)
    }

    /// The host; decides for the library's own if nothing was decided.
    pub fn get() -> Self {
        Self(CHOICE.get_or_init(|| &BUILT_IN))
    }

    /// The host as it stands, without deciding.
    #[inline]
    pub fn peek() -> Self {
        Self(CHOICE.get().copied().unwrap_or(&BUILT_IN))
    }

    /// Refuses, in the name of `function`, what only the library's own host has, where the program
    /// gave hooks.
    pub fn expect_native(self, function: &str) -> bool {
        if !self.is_native() {
            report(function, "the program has given hooks for its own event loop");
        }
        self.is_native()
    }

    /// Whether it is the library's own.
    pub fn is_native(self) -> bool {
        self.0.native.is_some()
    }
}

impl Host for ProcessHost {
    fn bh_new(
        self,
        context: *mut AioContext,
        callback: HostCallback,
        opaque: *mut c_void,
    ) -> *mut QEMUBH {
        hook!(self.bh_new(context, callback, opaque))
    }

    fn bh_schedule(self, bh: *mut QEMUBH) {
        hook!(self.bh_schedule(bh));
    }

    fn bh_cancel(self, bh: *mut QEMUBH) {
        hook!(self.bh_cancel(bh));
    }

    fn bh_delete(self, bh: *mut QEMUBH) {
        hook!(self.bh_delete(bh));
    }

    fn set_event_notifier(
        self,
        context: *mut AioContext,
        fd: RawFd,
        handlers: Option<NotifierHandlers>,
        opaque: *mut c_void,
    ) -> Result<(), Errno> {
        if let Some(native) = self.0.native {
            return (native.watch)(context, fd, handlers, opaque);
        }
        let read = handlers.map(|handlers| handlers.read);
        let poll = handlers.map(|handlers| handlers.poll);
        let poll_ready = handlers.map(|handlers| handlers.poll_ready);
        hook!(self.set_event_notifier(context, fd, read, poll, poll_ready, opaque));
        Ok(())
    }

    fn coroutine_self(self) -> Option<*mut Coroutine> {
        Some(hook!(self.coroutine_self())).filter(|coroutine| !coroutine.is_null())
    }

    fn coroutine_yield(self, context: *mut AioContext) {
        match self.0.native {
            Some(native) => (native.wait)(context),
            None => hook!(self.coroutine_yield()),
        }
    }

    fn coroutine_entered(self, coroutine: *mut Coroutine) -> bool {
        hook!(self.coroutine_entered(coroutine))
    }

    fn coroutine_wake(self, coroutine: *mut Coroutine) {
        hook!(self.coroutine_wake(coroutine));
    }

    fn has_deferred_calls(self) -> bool {
        self.0.has_deferred_calls
    }

    fn defer_begin(self) {
        hook!(self.defer_begin());
    }

    fn defer_call(self, callback: HostCallback, opaque: *mut c_void) {
        hook!(self.defer_call(callback, opaque));
    }

    fn defer_end(self) {
        hook!(self.defer_end());
    }

    fn current_aio_context(self) -> *mut AioContext {
        hook!(self.current_aio_context())
    }

    fn linux_aio_state(self, context: *mut AioContext) -> *mut LinuxAioState {
        hook!(self.linux_aio_state(context))
    }

    fn aio_max_batch(self, context: *mut AioContext) -> u64 {
        optional_hook!(self.aio_max_batch(context)).unwrap_or(0)
    }

    fn is_home(self, context: *mut AioContext) -> bool {
        if let Some(native) = self.0.native {
            return (native.is_home)(context);
        }
        // Who holds the lock may, and QEMU's old generations submit so from other threads.
        self.0.has_lock || self.current_aio_context() == context
    }

    fn has_lock(self) -> bool {
        self.0.has_lock
    }

    fn context_acquire(self, context: *mut AioContext) {
        optional_hook!(self.context_acquire(context));
    }

    fn context_release(self, context: *mut AioContext) {
        optional_hook!(self.context_release(context));
    }

    fn error_set(self, errp: *mut *mut Error, errno: c_int, message: &CStr) {
        if optional_hook!(self.error_set(errp, errno, message.as_ptr())).is_none() {
            // Only making a state can fail so.
            let message = message.to_string_lossy();
            report("laio_init", format_args!("{message}: {:?}", Errno(errno)));
        }
    }

    fn log(self, line: &CStr) {
        self.0.log(line);
    }
}
