//! The host of the shipped library: the program's hooks, or the built-in event loop.
//!
//! Pointers of the host come back to it only from the engine, which got them from it.

#![allow(clippy::not_unsafe_ptr_arg_deref)]

use std::ffi::{CStr, c_int, c_void};
use std::os::fd::RawFd;
use std::ptr;
use std::sync::OnceLock;

use super::table::{BadTable, HostTable};
use super::{
    AioContext, Coroutine, Error, Host, HostCallback, LaioHostOps, NotifierHandlers, QEMUBH,
    builtin, log,
};

/// What the program chose; `None` inside is the built-in host. Unset until the first state, the
/// first event loop, or laio_set_host_ops(): whichever comes first decides for good.
static CHOICE: OnceLock<Option<HostTable>> = OnceLock::new();

/// Why hooks were not taken.
pub enum NotSet {
    /// The choice is made.
    TooLate,
    /// The table is not usable.
    Bad(BadTable),
}

/// The one host of the process.
#[derive(Clone, Copy)]
pub enum ProcessHost {
    /// The program gave hooks.
    Hooks(&'static HostTable),
    /// It did not.
    Builtin,
}

/// Calls a hook that [`HostTable::new`] has found to be there.
macro_rules! hook {
    ($table:ident . $name:ident ( $($arg:expr),* )) => {
        // SAFETY: the hook is there: it is required, or one of a group which the table says it has
        // and which the engine asks for first. Its contract is that of `LaioHostOps`, which the
        // program accepted by giving it.
        unsafe { $table.ops.$name.unwrap_unchecked()($($arg),*) }
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
        CHOICE.set(Some(table)).map_err(|_| NotSet::TooLate)
    }

    /// The host; decides for the built-in one if nothing was decided.
    pub fn get() -> Self {
        Self::from(CHOICE.get_or_init(|| None))
    }

    /// The host as it stands, without deciding.
    pub fn peek() -> Self {
        CHOICE.get().map_or(Self::Builtin, Self::from)
    }
}

impl From<&'static Option<HostTable>> for ProcessHost {
    fn from(choice: &'static Option<HostTable>) -> Self {
        choice.as_ref().map_or(Self::Builtin, Self::Hooks)
    }
}

impl Host for ProcessHost {
    fn bh_new(
        self,
        context: *mut AioContext,
        callback: HostCallback,
        opaque: *mut c_void,
    ) -> *mut QEMUBH {
        match self {
            Self::Hooks(table) => hook!(table.bh_new(context, callback, opaque)),
            Self::Builtin => builtin::bh_new(context, callback, opaque),
        }
    }

    fn bh_schedule(self, bh: *mut QEMUBH) {
        match self {
            Self::Hooks(table) => hook!(table.bh_schedule(bh)),
            Self::Builtin => builtin::bh_set_scheduled(bh, true),
        }
    }

    fn bh_cancel(self, bh: *mut QEMUBH) {
        match self {
            Self::Hooks(table) => hook!(table.bh_cancel(bh)),
            Self::Builtin => builtin::bh_set_scheduled(bh, false),
        }
    }

    fn bh_delete(self, bh: *mut QEMUBH) {
        match self {
            Self::Hooks(table) => hook!(table.bh_delete(bh)),
            Self::Builtin => builtin::bh_delete(bh),
        }
    }

    fn set_event_notifier(
        self,
        context: *mut AioContext,
        fd: RawFd,
        handlers: Option<NotifierHandlers>,
        opaque: *mut c_void,
    ) {
        match self {
            Self::Hooks(table) => {
                let read = handlers.map(|handlers| handlers.read);
                let poll = handlers.map(|handlers| handlers.poll);
                let poll_ready = handlers.map(|handlers| handlers.poll_ready);
                hook!(table.set_event_notifier(context, fd, read, poll, poll_ready, opaque));
            }
            Self::Builtin => builtin::set_event_notifier(context, fd, handlers, opaque),
        }
    }

    fn coroutine_self(self) -> Option<*mut Coroutine> {
        match self {
            Self::Hooks(table) if !table.has_coroutines => None,
            Self::Hooks(table) => Some(hook!(table.coroutine_self())),
            // The thread itself waits, and there is nothing to name.
            Self::Builtin => Some(ptr::null_mut()),
        }
    }

    fn coroutine_yield(self, context: *mut AioContext) {
        match self {
            Self::Hooks(table) => hook!(table.coroutine_yield()),
            Self::Builtin => {
                builtin::poll(context, true);
            }
        }
    }

    fn coroutine_entered(self, coroutine: *mut Coroutine) -> bool {
        match self {
            Self::Hooks(table) => hook!(table.coroutine_entered(coroutine)),
            // It drives the loop itself and looks after each turn.
            Self::Builtin => true,
        }
    }

    fn coroutine_wake(self, coroutine: *mut Coroutine) {
        if let Self::Hooks(table) = self {
            hook!(table.coroutine_wake(coroutine));
        }
    }

    fn has_deferred_calls(self) -> bool {
        match self {
            Self::Hooks(table) => table.has_deferred_calls,
            Self::Builtin => false,
        }
    }

    fn defer_begin(self) {
        if let Self::Hooks(table) = self {
            hook!(table.defer_begin());
        }
    }

    fn defer_call(self, callback: HostCallback, opaque: *mut c_void) {
        if let Self::Hooks(table) = self {
            hook!(table.defer_call(callback, opaque));
        }
    }

    fn defer_end(self) {
        if let Self::Hooks(table) = self {
            hook!(table.defer_end());
        }
    }

    fn current_aio_context(self) -> *mut AioContext {
        match self {
            Self::Hooks(table) => hook!(table.current_aio_context()),
            Self::Builtin => builtin::current(),
        }
    }

    fn linux_aio_state(self, context: *mut AioContext) -> *mut c_void {
        match self {
            Self::Hooks(table) => hook!(table.linux_aio_state(context)).cast(),
            Self::Builtin => builtin::linux_aio_state(context),
        }
    }

    fn aio_max_batch(self, context: *mut AioContext) -> u64 {
        match self {
            Self::Hooks(HostTable {
                ops: LaioHostOps { aio_max_batch: Some(hook), .. }, ..
            }) => {
                // SAFETY: as in `hook!`.
                unsafe { hook(context) }
            }
            _ => 0,
        }
    }

    fn is_home(self, context: *mut AioContext) -> bool {
        match self {
            // Who holds the lock may, and QEMU's old generations submit so from other threads.
            Self::Hooks(table) if table.has_lock => true,
            Self::Hooks(_) => self.current_aio_context() == context,
            Self::Builtin => builtin::is_home(context),
        }
    }

    fn context_acquire(self, context: *mut AioContext) {
        if let Self::Hooks(HostTable {
            ops: LaioHostOps { context_acquire: Some(hook), .. }, ..
        }) = self
        {
            // SAFETY: as in `hook!`.
            unsafe { hook(context) };
        }
    }

    fn context_release(self, context: *mut AioContext) {
        if let Self::Hooks(HostTable {
            ops: LaioHostOps { context_release: Some(hook), .. }, ..
        }) = self
        {
            // SAFETY: as in `hook!`.
            unsafe { hook(context) };
        }
    }

    fn error_set(self, errp: *mut *mut Error, errno: c_int, message: &CStr) {
        match self {
            Self::Hooks(HostTable { ops: LaioHostOps { error_set: Some(hook), .. }, .. }) => {
                // SAFETY: as in `hook!`.
                unsafe { hook(errp, errno, message.as_ptr()) };
            }
            _ => self.log(message),
        }
    }

    fn log(self, line: &CStr) {
        match self {
            Self::Hooks(table) => table.log(line),
            Self::Builtin => log::to_stderr(line),
        }
    }
}
