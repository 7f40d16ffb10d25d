// SPDX-License-Identifier: MIT OR Apache-2.0

//! The executable's own functions, as the engine's host.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::os::fd::RawFd;
use std::ptr;

use laio_engine::errno::Errno;
use laio_engine::host::{
    AioContext, Coroutine, Error, Host, HostCallback, LinuxAioState, NotifierHandlers, QEMUBH,
};

use super::Refusal;
use super::executable::Executable;
use crate::say::say;

/// Which QEMU it is, as far as the functions taken over and called differ.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Generation {
    /// 9.0 to 9.2: no flags in laio_co_submit.
    V9,
    /// 10.0 and later.
    V10,
}

/// All that a known generation exports under this prefix.
const KNOWN_LAIO: [&str; 7] = [
    "laio_init",
    "laio_cleanup",
    "laio_attach_aio_context",
    "laio_detach_aio_context",
    "laio_co_submit",
    "laio_has_fdsync",
    "laio_has_fua",
];

impl Generation {
    pub fn of(executable: &Executable) -> Result<Self, Refusal> {
        if executable.exports("laio_io_plug") || executable.exports("blk_io_plug_call") {
            return Err("a QEMU before 8.2, which needs no help".into());
        }
        if let Some(name) = executable.other("laio_", &KNOWN_LAIO) {
            return Err(format!("{name} is not known of any QEMU").into());
        }
        // Gone in 9.0, and with it the lock that completions had to run under.
        if executable.exports("aio_context_acquire") {
            return Err("QEMU 8.2, whose lock around completions is not supported".into());
        }
        if executable.exports("laio_has_fua") { Ok(Self::V10) } else { Ok(Self::V9) }
    }
}

/// The same for its io_uring, up to 10.1.
const KNOWN_LURING: [&str; 6] = [
    "luring_init",
    "luring_cleanup",
    "luring_attach_aio_context",
    "luring_detach_aio_context",
    "luring_co_submit",
    "luring_has_fua",
];

/// Whether its io_uring is to be taken over as well. From 10.2 on requests go through the event
/// loop's own ring, and there are no states to take over, and nothing recurses.
pub fn has_io_uring_states(executable: &Executable) -> Result<bool, Refusal> {
    if !executable.exports("luring_init") {
        return Ok(false);
    }
    match executable.other("luring_", &KNOWN_LURING) {
        Some(name) => Err(format!("{name} is not known of any QEMU").into()),
        None => Ok(true),
    }
}

/// As QEMU's.
#[repr(C)]
struct EventNotifier {
    rfd: c_int,
    wfd: c_int,
    initialized: bool,
}

/// What QEMU's event loop calls, with the notifier that it was given.
type NotifierCallback = unsafe extern "C" fn(*mut EventNotifier);
type NotifierPoll = unsafe extern "C" fn(*mut EventNotifier) -> bool;

macro_rules! functions {
    ($($name:ident: $type:ty,)*) => {
        /// The executable's functions, by name.
        #[derive(Clone, Copy)]
        pub struct Functions {
            $($name: $type,)*
        }

        impl Functions {
            pub fn find(executable: &Executable) -> Result<Self, Refusal> {
                Ok(Self {
                    $($name: {
                        let function = executable.function(stringify!($name))?;
                        let address = executable.in_memory(function.address);
                        // SAFETY: the function of this name, which has this type in the
                        // generations that were let through.
                        unsafe { std::mem::transmute::<*mut c_void, $type>(address) }
                    },)*
                })
            }
        }
    };
}

impl Functions {
    /// For states that QEMU looks up as those of its io_uring.
    pub fn for_io_uring(self, executable: &Executable) -> Result<Self, Refusal> {
        let function = executable.function("aio_get_linux_io_uring")?;
        let address = executable.in_memory(function.address);
        // SAFETY: the function of this name, which differs from the other in what its result points
        // to, and that is what `luring_init` gave.
        let linux_aio_state = unsafe {
            std::mem::transmute::<
                *mut c_void,
                unsafe extern "C" fn(*mut AioContext) -> *mut LinuxAioState,
            >(address)
        };
        Ok(Self { aio_get_linux_aio: linux_aio_state, ..self })
    }
}

functions! {
    aio_bh_new_full: unsafe extern "C" fn(
        ctx: *mut AioContext,
        cb: HostCallback,
        opaque: *mut c_void,
        name: *const c_char,
        reentrancy_guard: *mut c_void,
    ) -> *mut QEMUBH,
    qemu_bh_schedule: unsafe extern "C" fn(*mut QEMUBH),
    qemu_bh_cancel: unsafe extern "C" fn(*mut QEMUBH),
    qemu_bh_delete: unsafe extern "C" fn(*mut QEMUBH),
    aio_set_event_notifier: unsafe extern "C" fn(
        ctx: *mut AioContext,
        notifier: *mut EventNotifier,
        io_read: Option<NotifierCallback>,
        io_poll: Option<NotifierPoll>,
        io_poll_ready: Option<NotifierCallback>,
    ),
    qemu_coroutine_self: unsafe extern "C" fn() -> *mut Coroutine,
    qemu_coroutine_yield: unsafe extern "C" fn(),
    qemu_coroutine_entered: unsafe extern "C" fn(*mut Coroutine) -> bool,
    aio_co_wake: unsafe extern "C" fn(*mut Coroutine),
    defer_call_begin: unsafe extern "C" fn(),
    defer_call: unsafe extern "C" fn(HostCallback, *mut c_void),
    defer_call_end: unsafe extern "C" fn(),
    qemu_get_current_aio_context: unsafe extern "C" fn() -> *mut AioContext,
    aio_get_linux_aio: unsafe extern "C" fn(*mut AioContext) -> *mut LinuxAioState,
    error_setg_errno_internal: unsafe extern "C" fn(
        errp: *mut *mut Error,
        source: *const c_char,
        line: c_int,
        function: *const c_char,
        os_errno: c_int,
        format: *const c_char, ...
    ),
}

/// One eventfd that QEMU watches for the engine. QEMU passes the notifier's address around, so the
/// rest of what a callback needs stands behind it.
#[repr(C)]
struct Watch {
    notifier: EventNotifier,
    handlers: NotifierHandlers,
    opaque: *mut c_void,
}

impl Watch {
    /// # Safety
    ///
    /// `notifier` is a watch's.
    unsafe fn of<'a>(notifier: *mut EventNotifier) -> &'a Self {
        // SAFETY: it is the first member of a watch, and watches stay.
        unsafe { &*notifier.cast() }
    }

    unsafe extern "C" fn read(notifier: *mut EventNotifier) {
        // SAFETY: QEMU got a watch's notifier together with this function.
        let watch = unsafe { Self::of(notifier) };
        // SAFETY: given together by the engine.
        unsafe { (watch.handlers.read)(watch.opaque) };
    }

    unsafe extern "C" fn poll(notifier: *mut EventNotifier) -> bool {
        // SAFETY: as in `read`.
        let watch = unsafe { Self::of(notifier) };
        // SAFETY: given together by the engine.
        unsafe { (watch.handlers.poll)(watch.opaque) }
    }

    unsafe extern "C" fn poll_ready(notifier: *mut EventNotifier) {
        // SAFETY: as in `read`.
        let watch = unsafe { Self::of(notifier) };
        // SAFETY: given together by the engine.
        unsafe { (watch.handlers.poll_ready)(watch.opaque) };
    }
}

/// QEMU as the engine's host.
#[derive(Clone, Copy)]
pub struct Qemu(pub &'static Functions);

/// Calls one of the executable's functions.
macro_rules! call {
    ($qemu:expr, $name:ident($($argument:expr),*)) => {
        // SAFETY: the engine calls its host on the thread and with the pointers that the host gave.
        unsafe { ($qemu.0.$name)($($argument),*) }
    };
}

impl Host for Qemu {
    const NAME: &'static str = "laio_preload";

    fn bh_new(
        self,
        context: *mut AioContext,
        callback: HostCallback,
        opaque: *mut c_void,
    ) -> *mut QEMUBH {
        let name = c"laio completion_bh".as_ptr();
        call!(self, aio_bh_new_full(context, callback, opaque, name, ptr::null_mut()))
    }

    fn bh_schedule(self, bh: *mut QEMUBH) {
        call!(self, qemu_bh_schedule(bh));
    }

    fn bh_cancel(self, bh: *mut QEMUBH) {
        call!(self, qemu_bh_cancel(bh));
    }

    fn bh_delete(self, bh: *mut QEMUBH) {
        call!(self, qemu_bh_delete(bh));
    }

    fn set_event_notifier(
        self,
        context: *mut AioContext,
        fd: RawFd,
        handlers: Option<NotifierHandlers>,
        opaque: *mut c_void,
    ) -> Result<(), Errno> {
        let notifier = EventNotifier { rfd: fd, wfd: fd, initialized: true };
        let Some(handlers) = handlers else {
            // Only the descriptor is looked at.
            let mut notifier = notifier;
            call!(self, aio_set_event_notifier(context, &raw mut notifier, None, None, None));
            return Ok(());
        };
        // Never freed: QEMU may be about to call it when it is replaced. One for each time that a
        // state is attached to an event loop, which is about once for each thread.
        let watch = Box::leak(Box::new(Watch { notifier, handlers, opaque }));
        call!(
            self,
            aio_set_event_notifier(
                context,
                (&raw mut *watch).cast(),
                Some(Watch::read),
                Some(Watch::poll),
                Some(Watch::poll_ready)
            )
        );
        Ok(())
    }

    fn coroutine_self(self) -> Option<*mut Coroutine> {
        Some(call!(self, qemu_coroutine_self()))
    }

    fn coroutine_yield(self, _context: *mut AioContext) {
        call!(self, qemu_coroutine_yield());
    }

    fn coroutine_entered(self, coroutine: *mut Coroutine) -> bool {
        call!(self, qemu_coroutine_entered(coroutine))
    }

    fn coroutine_wake(self, coroutine: *mut Coroutine) {
        call!(self, aio_co_wake(coroutine));
    }

    fn has_deferred_calls(self) -> bool {
        true
    }

    fn defer_begin(self) {
        call!(self, defer_call_begin());
    }

    fn defer_call(self, callback: HostCallback, opaque: *mut c_void) {
        call!(self, defer_call(callback, opaque));
    }

    fn defer_end(self) {
        call!(self, defer_call_end());
    }

    fn current_aio_context(self) -> *mut AioContext {
        call!(self, qemu_get_current_aio_context())
    }

    fn linux_aio_state(self, context: *mut AioContext) -> *mut LinuxAioState {
        call!(self, aio_get_linux_aio(context))
    }

    fn aio_max_batch(self, _context: *mut AioContext) -> u64 {
        0 // A field of AioContext, and no function of QEMU's tells it.
    }

    fn is_home(self, context: *mut AioContext) -> bool {
        self.current_aio_context() == context
    }

    // No lock since 9.0.
    fn has_lock(self) -> bool {
        false
    }

    fn context_acquire(self, _context: *mut AioContext) {}

    fn context_release(self, _context: *mut AioContext) {}

    fn error_set(self, errp: *mut *mut Error, errno: c_int, message: &CStr) {
        call!(
            self,
            error_setg_errno_internal(
                errp,
                c"laio_preload".as_ptr(),
                0,
                c"laio_init".as_ptr(),
                errno,
                c"%s".as_ptr(),
                message.as_ptr()
            )
        );
    }

    fn log(self, line: &CStr) {
        say(line.to_string_lossy());
    }
}
