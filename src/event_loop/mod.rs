// SPDX-License-Identifier: MIT OR Apache-2.0

//! The built-in event loop, so that a plain C program does asynchronous I/O with nothing else.
//!
//! A loop is used by one thread, its [`home`]: the one that made it, or the one that uses it first.
//! While a loop of few states has something to do it makes no system call of its own: bottom halves are
//! a list, and completions are seen in the mapped ring. It sleeps in epoll, on edges, so that the
//! eventfd need not be read; or the program does, in an event loop of its own, by the loop's
//! [`mod@descriptor`]. A loop of many states asks epoll in each turn, and not all states ([`notifier`]).
//!
//! Nothing here has a destructor that runs when a thread ends: loops are used in atexit handlers and
//! in destructors of thread-specific data as everywhere else.

mod bottom_half;
mod descriptor;
mod home;
mod notifier;
mod registry;
mod turn;

use std::cell::Cell;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::atomic::AtomicPtr;

use laio_engine::errno::Errno;
use laio_engine::host::AioContext;
use laio_engine::process::Process;

use bottom_half::Scheduled;
pub use bottom_half::{bh_cancel, bh_delete, bh_new, bh_schedule};
use descriptor::Bell;
use home::Home;
use notifier::Notifiers;
pub use notifier::{first_state, watch};
pub use registry::current;
pub use turn::wait;

/// An event loop. C sees it as `AioContext`.
pub struct Loop {
    home: Home,
    /// The process that made it. The child of a fork has the same epoll set as its parent, and must
    /// not change it.
    process: Process,
    epoll: OwnedFd,
    bell: Bell,
    scheduled: Scheduled,
    notifiers: Notifiers,
    /// Turns of this loop on the stack.
    polling: Cell<u32>,
    /// The next in the registry's list.
    older: AtomicPtr<Loop>,
}

impl Loop {
    /// # Safety
    ///
    /// `context` is null or came from [`new`] and is not freed.
    unsafe fn from_context<'a>(context: *mut AioContext) -> Option<&'a Self> {
        // SAFETY: the caller's promise.
        unsafe { context.cast::<Self>().as_ref() }
    }

    fn as_context(&self) -> *mut AioContext {
        ptr::from_ref(self).cast_mut().cast()
    }
}

/// A new loop, at home in the calling thread.
pub fn new() -> Result<*mut AioContext, Errno> {
    // SAFETY: epoll_create1(2) takes no pointer.
    let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
    if fd < 0 {
        return Err(Errno::last());
    }
    let created = Box::into_raw(Box::new(Loop {
        home: Home::of_calling_thread(),
        process: Process::current(),
        // SAFETY: the descriptor is new and nobody else's.
        epoll: unsafe { OwnedFd::from_raw_fd(fd) },
        bell: Bell::default(),
        scheduled: Scheduled::default(),
        notifiers: Notifiers::default(),
        polling: Cell::new(0),
        older: AtomicPtr::default(),
    }));
    // SAFETY: new, and freed only by `free`, which takes it out first.
    registry::add(unsafe { &*created });
    Ok(created.cast())
}

/// Frees a loop that serves no state and is not running; otherwise says why not. Its descriptor is
/// closed, whichever thread's it was.
///
/// # Safety
///
/// `context` came from [`new`] and is not freed; no other thread uses it.
pub unsafe fn free(context: *mut AioContext) -> Result<(), &'static str> {
    // SAFETY: the caller's promise.
    let Some(freed) = (unsafe { Loop::from_context(context) }) else {
        return Err("the event loop is NULL");
    };
    if freed.polling.get() > 0 {
        return Err("called from within laio_loop_poll() of the same event loop");
    }
    if !freed.notifiers.is_empty() {
        return Err("a state is still attached to the event loop; detach it first");
    }
    registry::remove(freed);
    // SAFETY: from the box in `new`, out of the registry, and nobody else's by the caller's promise.
    drop(unsafe { Box::from_raw(context.cast::<Loop>()) });
    Ok(())
}

/// One turn of the loop; whether it made progress.
///
/// # Safety
///
/// `context` is null or came from [`new`] and is not freed.
pub unsafe fn poll(context: *mut AioContext, blocking: bool) -> Result<bool, &'static str> {
    // SAFETY: the caller's promise.
    match unsafe { Loop::from_context(context) } {
        None => Err("the event loop is NULL"),
        // The parent's turn is not the child's to take.
        Some(polled) if !polled.process.is_current() => Ok(false),
        Some(polled) if !polled.home.claim() => Err("the event loop belongs to another thread"),
        Some(polled) => Ok(polled.poll(blocking)),
    }
}

/// A descriptor that is readable whenever a turn of the loop that does not block would make progress.
/// It is the loop's own.
///
/// # Safety
///
/// `context` is null or came from [`new`] and is not freed.
pub unsafe fn descriptor(context: *mut AioContext) -> Result<RawFd, Errno> {
    // SAFETY: the caller's promise.
    match unsafe { Loop::from_context(context) } {
        None => Err(Errno(libc::EINVAL)),
        Some(of) => of.descriptor(),
    }
}

/// Whether the calling thread may use what is attached to `context`.
pub fn is_home(context: *mut AioContext) -> bool {
    // SAFETY: the engine asks for a context that it is attached to.
    unsafe { &*context.cast::<Loop>() }.home.claim()
}

/// The descriptor by which the loop sleeps.
fn epoll_of(of: &Loop) -> libc::c_int {
    of.epoll.as_raw_fd()
}
