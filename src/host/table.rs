// SPDX-License-Identifier: MIT OR Apache-2.0

//! The table of hooks that a C program gives, and the checks on it.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::fmt;
use std::io::Write;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;
use std::ptr;

use laio_engine::errno::Errno;
use laio_engine::host::{
    AioContext, Coroutine, Error, HostCallback, LinuxAioState, NotifierHandlers, QEMUBH,
};

/// What the library calls in the program that hosts it. Given once, with laio_set_host_ops().
///
/// The hooks are named after the functions of QEMU that they stand for. All are called on the
/// thread that uses the state, except `log`, which is called on any. Pointers that the library
/// gets (contexts, bottom halves, coroutines) it only hands back.
///
/// What only tells something (`coroutine_self`, `coroutine_entered`, `current_aio_context`,
/// `linux_aio_state`, `aio_max_batch`) must not call the library. All others may run code that does;
/// but only `coroutine_yield`, `coroutine_wake` and `defer_end` may run the event loop or wait. A hook
/// that is called in an attach or a detach cannot attach the same state.
///
/// Set what is not needed to NULL: the hooks marked "optional".
#[repr(C)]
#[derive(Clone, Copy)]
#[allow(clippy::type_complexity)] // Types of its own would stand in the C header.
pub struct LaioHostOps {
    /// sizeof(LaioHostOps), as the program was compiled. Later versions add optional hooks at the
    /// end, and take the table of any earlier version.
    pub size: usize,

    /// Returns a new bottom half of `ctx` that calls `cb(opaque)`, or NULL.
    pub bh_new: Option<
        unsafe extern "C" fn(
            ctx: *mut AioContext,
            cb: HostCallback,
            opaque: *mut c_void,
        ) -> *mut QEMUBH,
    >,
    /// Makes the event loop call `bh` once, soon; not from within this call. Scheduling it again
    /// before that changes nothing. A nested event loop runs it too.
    pub bh_schedule: Option<unsafe extern "C" fn(bh: *mut QEMUBH)>,
    /// Takes a scheduled call back.
    pub bh_cancel: Option<unsafe extern "C" fn(bh: *mut QEMUBH)>,
    /// Cancels and frees `bh`; the library does not use it again.
    pub bh_delete: Option<unsafe extern "C" fn(bh: *mut QEMUBH)>,

    /// Watches the eventfd `fd` in `ctx`: calls `io_read(opaque)` when it is readable (the library
    /// reads it); or, in an event loop that polls, calls `io_poll(opaque)` instead of waiting and
    /// `io_poll_ready(opaque)` when that returned true. All three are NULL to end this. The
    /// descriptor is the library's. There may be a second one, of a timer, for the same `opaque`: while
    /// the kernel wants no request although nothing is in flight.
    pub set_event_notifier: Option<
        unsafe extern "C" fn(
            ctx: *mut AioContext,
            fd: c_int,
            io_read: Option<unsafe extern "C" fn(opaque: *mut c_void)>,
            io_poll: Option<unsafe extern "C" fn(opaque: *mut c_void) -> bool>,
            io_poll_ready: Option<unsafe extern "C" fn(opaque: *mut c_void)>,
            opaque: *mut c_void,
        ),
    >,

    /// Coroutines, all optional together; without them laio_co_submit() and laio_state_co_submit()
    /// return -ENOTSUP. Returns the running coroutine; NULL if there is none, which has the same
    /// consequence.
    pub coroutine_self: Option<unsafe extern "C" fn() -> *mut Coroutine>,
    /// Leaves the running coroutine until it is woken.
    pub coroutine_yield: Option<unsafe extern "C" fn()>,
    /// Whether `co` is running, or waits for a coroutine that it entered. Such a one is not woken.
    pub coroutine_entered: Option<unsafe extern "C" fn(co: *mut Coroutine) -> bool>,
    /// Lets `co`, which has yielded, go on: now, or soon.
    pub coroutine_wake: Option<unsafe extern "C" fn(co: *mut Coroutine)>,

    /// Deferred calls, all optional together; without them the library gathers submissions itself.
    /// Opens a section. Sections nest, and belong to the thread.
    pub defer_begin: Option<unsafe extern "C" fn()>,
    /// Calls `cb(opaque)` when the outermost section ends, once however often it was asked for; at
    /// once when there is no section.
    pub defer_call: Option<unsafe extern "C" fn(cb: HostCallback, opaque: *mut c_void)>,
    /// Ends a section.
    pub defer_end: Option<unsafe extern "C" fn()>,

    /// Returns the calling thread's event loop, or NULL. Only where it returns the event loop that
    /// a state is attached to are requests accepted for that state (unless there is
    /// `context_acquire`).
    pub current_aio_context: Option<unsafe extern "C" fn() -> *mut AioContext>,
    /// Returns the state that laio_init() gave and that serves `ctx`, or NULL.
    pub linux_aio_state: Option<unsafe extern "C" fn(ctx: *mut AioContext) -> *mut LinuxAioState>,
    /// Optional. Returns how many queued requests `ctx` wants to have submitted at once; 0 for the
    /// default (32). In QEMU this is AioContext.aio_max_batch.
    pub aio_max_batch: Option<unsafe extern "C" fn(ctx: *mut AioContext) -> u64>,

    /// Optional, with `context_release`: locks `ctx` around completions, as QEMU did up to 8.2.
    /// Where it is given, any thread that holds the lock may submit.
    pub context_acquire: Option<unsafe extern "C" fn(ctx: *mut AioContext)>,
    /// Ends what `context_acquire` began.
    pub context_release: Option<unsafe extern "C" fn(ctx: *mut AioContext)>,

    /// Optional. Fills `*errp` with an error of errno `os_errno` (positive) and `message`, which
    /// is valid during the call; `errp` may be NULL. Without it the message goes to the log.
    pub error_set: Option<
        unsafe extern "C" fn(errp: *mut *mut Error, os_errno: c_int, message: *const c_char),
    >,
    /// Optional. Tells a human one line, valid during the call and without a newline. Without it
    /// the line goes to standard error.
    pub log: Option<unsafe extern "C" fn(line: *const c_char)>,
}

/// The size of the first version's table, which all later versions take.
const FIRST_SIZE: usize = 20 * size_of::<usize>();

/// Why a table was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadTable {
    /// `size` is not what it takes.
    Short(usize),
    /// Hooks of a later version are set.
    Unknown,
    /// A required hook is NULL.
    Missing(&'static str),
    /// Some of the hooks that go together are NULL.
    Incomplete(&'static str),
}

impl fmt::Display for BadTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short(size) => {
                write!(f, "the table's size is {size} bytes and not at least {FIRST_SIZE}")
            }
            Self::Unknown => f.write_str("the table has hooks that this version does not know"),
            Self::Missing(name) => write!(f, "the required hook {name} is NULL"),
            Self::Incomplete(names) => write!(f, "give all of {names}, or none"),
        }
    }
}

macro_rules! all_or_none {
    ($ops:ident, $($name:ident),+) => {
        match [$($ops.$name.is_some()),+].iter().filter(|&&given| given).count() {
            0 => Ok(false),
            given if given == [$(stringify!($name)),+].len() => Ok(true),
            _ => Err(BadTable::Incomplete(stringify!($($name),+))),
        }
    };
}

macro_rules! required {
    ($ops:ident, $($name:ident),+ $(,)?) => {
        $(if $ops.$name.is_none() {
            return Err(BadTable::Missing(stringify!($name)));
        })+
    };
}

/// What a host of the library's own does where a table's hooks cannot: it fails, and it knows for
/// whom it waits.
pub struct Native {
    /// Instead of `set_event_notifier`. With handlers it may fail.
    pub watch: fn(
        context: *mut AioContext,
        fd: RawFd,
        handlers: Option<NotifierHandlers>,
        opaque: *mut c_void,
    ) -> Result<(), Errno>,
    /// Instead of `coroutine_yield`: waits in the event loop of the request's state.
    pub wait: fn(context: *mut AioContext),
    /// Whether the calling thread may use what is attached to `context`.
    pub is_home: fn(context: *mut AioContext) -> bool,
}

/// A table that was checked: the hooks that [`new`](Self::new) requires are there.
pub struct HostTable {
    pub(super) ops: LaioHostOps,
    pub(super) has_deferred_calls: bool,
    pub(super) has_lock: bool,
    /// Set where the library is its own host.
    pub(super) native: Option<&'static Native>,
}

impl HostTable {
    /// The table of a host of the library's own, which has no deferred calls and no lock.
    pub const fn native(ops: LaioHostOps, native: &'static Native) -> Self {
        Self { ops, has_deferred_calls: false, has_lock: false, native: Some(native) }
    }

    /// Checks the table at `ops` and copies it.
    ///
    /// # Safety
    ///
    /// `ops` points to `size` readable bytes, `size` being its first member, and its hooks do what
    /// [`LaioHostOps`] says.
    pub unsafe fn new(ops: *const LaioHostOps) -> Result<Self, BadTable> {
        // SAFETY: the caller's promise covers at least the member `size`.
        let size = unsafe { (&raw const (*ops).size).read() };
        if size < FIRST_SIZE {
            return Err(BadTable::Short(size));
        }
        // SAFETY: the caller's promise.
        let given = unsafe { std::slice::from_raw_parts(ops.cast::<u8>(), size) };
        let known = size.min(size_of::<LaioHostOps>());
        if given[known..].iter().any(|&byte| byte != 0) {
            return Err(BadTable::Unknown);
        }
        // SAFETY: a table of NULLs, and then as many hooks as both sides know.
        Self::check(unsafe {
            let mut table = MaybeUninit::<LaioHostOps>::zeroed();
            ptr::copy_nonoverlapping(given.as_ptr(), table.as_mut_ptr().cast(), known);
            table.assume_init()
        })
    }

    fn check(mut ops: LaioHostOps) -> Result<Self, BadTable> {
        all_or_none!(ops, coroutine_self, coroutine_yield, coroutine_entered, coroutine_wake)?;
        // Asked for each request.
        ops.coroutine_self.get_or_insert(no_coroutine);
        required!(
            ops,
            bh_new,
            bh_schedule,
            bh_cancel,
            bh_delete,
            set_event_notifier,
            current_aio_context,
            linux_aio_state,
        );
        Ok(Self {
            ops,
            has_deferred_calls: all_or_none!(ops, defer_begin, defer_call, defer_end)?,
            has_lock: all_or_none!(ops, context_acquire, context_release)?,
            native: None,
        })
    }

    /// Tells a human one line.
    pub(super) fn log(&self, line: &CStr) {
        match self.ops.log {
            // SAFETY: the hook's contract; the line outlives the call.
            Some(log) => unsafe { log(line.as_ptr()) },
            None => to_stderr(line),
        }
    }
}

/// Writes `line` to standard error, whole.
fn to_stderr(line: &CStr) {
    let mut bytes = line.to_bytes().to_vec();
    bytes.push(b'\n');
    // Nobody is left to tell when standard error is gone.
    let _ = std::io::stderr().write_all(&bytes);
}

/// For hosts without coroutines.
pub(crate) unsafe extern "C" fn no_coroutine() -> *mut Coroutine {
    ptr::null_mut()
}
