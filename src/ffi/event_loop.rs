// SPDX-License-Identifier: MIT OR Apache-2.0

//! The built-in event loop.

use std::ffi::c_int;
use std::ptr;

use laio_engine::host::AioContext;
use laio_engine::wait::Uncancelled;

use super::host;
use crate::event_loop;
use crate::host::{ProcessHost, report};

/// Makes an event loop of the built-in host. NULL, with a report, if no descriptor is free, or if
/// the program has given hooks and so has event loops of its own.
///
/// The loop serves one thread: the one that makes it, or else the one that uses it first. The
/// caller owns it and gives it to laio_loop_free() in the end.
#[unsafe(no_mangle)]
pub extern "C" fn laio_loop_new() -> *mut AioContext {
    const NAME: &str = "laio_loop_new";
    if !ProcessHost::get().expect_native(NAME) {
        return ptr::null_mut();
    }
    event_loop::new().unwrap_or_else(|errno| {
        report(NAME, format_args!("{errno:?}"));
        ptr::null_mut()
    })
}

/// Frees an event loop. One that still serves a state, or that is running, is reported and stays.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laio_loop_free(ctx: *mut AioContext) {
    let _uncancelled = Uncancelled::enter();
    // SAFETY: the caller's promise.
    if let Err(reason) = unsafe { event_loop::free(ctx) } {
        report("laio_loop_free", reason);
    }
}

/// Runs an event loop of the built-in host: completes what is complete, submits what waits. Returns
/// whether it made progress, which includes running the completions' callbacks. With `blocking`
/// set it sleeps until it has; it returns false at once when nothing is outstanding, and on a thread
/// that the loop does not serve. May be called from within a completion. As aio_poll() of QEMU.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laio_loop_poll(ctx: *mut AioContext, blocking: bool) -> bool {
    const NAME: &str = "laio_loop_poll";
    if !host().expect_native(NAME) {
        return false;
    }
    // SAFETY: the caller's promise.
    unsafe { event_loop::poll(ctx, blocking) }.unwrap_or_else(|reason| {
        report(NAME, reason);
        false
    })
}

/// Returns a descriptor that is readable whenever laio_loop_poll(ctx, false) would make progress, for
/// a program that waits in an event loop of its own: it waits there for this descriptor (with poll(2),
/// epoll, GLib, libuv) and calls laio_loop_poll(ctx, false) when it is readable, once or until that
/// returns false.
///
/// Readable means: completions are there, a bottom half is scheduled (requests are queued, plugged ones
/// too, or a turn told as many owners as one turn may), or the kernel, which had no room, is to be asked
/// again. It stays so until a turn has nothing left to do, within a completion as well, so that event
/// loops may nest. It may become readable though nothing is left to do; then laio_loop_poll() returns
/// false and it is not readable any more.
///
/// The descriptor is the event loop's, and the same for each call. The caller does not read, write or
/// close it, and stops waiting for it before laio_loop_free(), which closes it. Any thread may call
/// this at any time until then, and may wait; laio_loop_poll() is for the thread that the event
/// loop serves. From the first call on a turn costs two system calls more.
///
/// A negative errno: -EINVAL if `ctx` is NULL; -ENOTSUP if the program has given hooks, and so has event
/// loops of its own; -ENOTCONN in the child of a fork, for its parent's event loop; -EMFILE, -ENFILE,
/// -ENOMEM or -ENOSPC if there is no descriptor to be had, or epoll(7) has reached its limit.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laio_loop_get_fd(ctx: *mut AioContext) -> c_int {
    if !host().is_native() {
        return -libc::ENOTSUP;
    }
    let _uncancelled = Uncancelled::enter();
    // SAFETY: the caller's promise.
    unsafe { event_loop::descriptor(ctx) }.unwrap_or_else(|errno| -errno.0)
}
