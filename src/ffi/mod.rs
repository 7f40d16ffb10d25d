// SPDX-License-Identifier: MIT OR Apache-2.0

//! The C API: each function checks its arguments and calls the engine. The documentation of
//! `include/laio.h` is written here.
//!
//! Pointers are checked for NULL and otherwise believed: what an exported function's documentation
//! asks of the caller is its safety contract, and "the caller's promise" below.

#![allow(clippy::missing_safety_doc)]

use std::ffi::{c_int, c_uint, c_void};
use std::ptr;

use libc::iovec;

use laio_engine::errno::Errno;
use laio_engine::host::{AioContext, Error, Host};
use laio_engine::kernel::{self, LinuxAio, SetupError};
use laio_engine::qiov::{BdrvRequestFlags, QEMUIOVector, io_of_qiov};
use laio_engine::request::{CompletionCallback, Io};
use laio_engine::{LaioStats, State, depth};

use crate::LinuxAioState;
use crate::event_loop as builtin;
use crate::host::{LaioHostOps, NotSet, ProcessHost, report};

const EINVAL: c_int = -libc::EINVAL;

/// 0 or the negative errno, as C wants it.
fn errno_of<T>(result: Result<T, Errno>, value: impl FnOnce(T) -> c_int) -> c_int {
    result.map_or_else(Errno::negative, value)
}

/// The calling thread's event loop, and the state that serves it; null where there is none.
#[inline]
fn current() -> (*mut AioContext, *mut LinuxAioState) {
    let host = ProcessHost::peek();
    let context = host.current_aio_context();
    let state =
        if context.is_null() { ptr::null_mut() } else { host.linux_aio_state(context).cast() };
    (context, state)
}

/// As `current`, without the event loop.
fn current_state() -> *mut LinuxAioState {
    current().1
}

/// The state at `s`, or a report in the name of `function`.
///
/// # Safety
///
/// `s` is null or a state.
unsafe fn state_or_report<'a>(
    s: *const LinuxAioState,
    function: &str,
    missing: &str,
) -> Option<&'a LinuxAioState> {
    // SAFETY: the caller's promise.
    let state = unsafe { s.as_ref() };
    if state.is_none() {
        report(function, missing);
    }
    state
}

const NULL_STATE: &str = "the state is NULL";
const NO_STATE: &str = "no state serves the calling thread's event loop";

/// Makes a state: a Linux AIO context of 1024 requests and its eventfd.
///
/// Returns NULL if the kernel has none left (fs.aio-max-nr) or no descriptor is free; `*errp` is
/// then filled by the host's `error_set` hook, or the reason goes to the log. `errp` may be NULL.
/// The caller owns the state and gives it to laio_cleanup() in the end. Attach it to an event loop
/// before use. May be called on any thread.
///
/// As laio_init() of QEMU's block/linux-aio.c.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laio_init(errp: *mut *mut Error) -> *mut LinuxAioState {
    let host = ProcessHost::get();
    match LinuxAio::new() {
        Ok(kernel) => Box::into_raw(Box::new(State::new(kernel, host))),
        Err(SetupError { errno, what }) => {
            host.error_set(errp, errno.0, what);
            ptr::null_mut()
        }
    }
}

/// Frees a state, after laio_detach_aio_context(), or detaching it.
///
/// If requests are still outstanding, that is reported; they are completed first, waiting for the
/// kernel, and their owners are told from within this call. Called from within a completion of the
/// same state, or in a deferred section in which requests were submitted to it, it is reported and
/// does nothing.
///
/// As laio_cleanup() of QEMU, which frees the state whatever is outstanding.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laio_cleanup(s: *mut LinuxAioState) {
    const NAME: &str = "laio_cleanup";
    // SAFETY: the caller's promise.
    let Some(state) = (unsafe { state_or_report(s, NAME, NULL_STATE) }) else {
        return;
    };
    if let Err(refusal) = state.check_cleanup() {
        return report(NAME, refusal);
    }
    if state.outstanding() > 0 {
        let outstanding = state.outstanding();
        report(NAME, format_args!("waiting for {outstanding} requests that are outstanding"));
    }
    // SAFETY: the caller's promise, and checked above.
    unsafe { LinuxAioState::cleanup(s) };
}

/// Lets the event loop `new_context` serve the state: makes its completion_bh and watches its
/// eventfd there. What an earlier detach left outstanding goes on.
///
/// A state that is attached already is reported and stays where it is. May be called on another
/// thread than the event loop's while that does not run.
///
/// As laio_attach_aio_context() of QEMU.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laio_attach_aio_context(
    s: *mut LinuxAioState,
    new_context: *mut AioContext,
) {
    const NAME: &str = "laio_attach_aio_context";
    // SAFETY: the caller's promise.
    let Some(state) = (unsafe { state_or_report(s, NAME, NULL_STATE) }) else {
        return;
    };
    if new_context.is_null() {
        return report(NAME, "the event loop is NULL");
    }
    if let Err(refusal) = state.attach(new_context) {
        report(NAME, refusal);
    }
}

/// Ends the service of the event loop `old_context`, to which the state is attached.
///
/// Meant for an idle state. Requests that are outstanding are reported; none is lost, but none
/// completes before the next attach. Submitting to a detached state returns -ENOTCONN.
///
/// As laio_detach_aio_context() of QEMU.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laio_detach_aio_context(
    s: *mut LinuxAioState,
    old_context: *mut AioContext,
) {
    const NAME: &str = "laio_detach_aio_context";
    // SAFETY: the caller's promise.
    let Some(state) = (unsafe { state_or_report(s, NAME, NULL_STATE) }) else {
        return;
    };
    if let Err(refusal) = state.detach(old_context) {
        return report(NAME, refusal);
    }
    if state.outstanding() > 0 {
        let outstanding = state.outstanding();
        report(NAME, format_args!("{outstanding} requests are outstanding until the next attach"));
    }
}

/// Submits a request to the state of the calling thread's event loop, and returns its result when
/// it is complete: 0, or a negative errno. Which state that is, the host's `linux_aio_state` says;
/// with the built-in event loop, the one that was attached first to the thread's newest loop (or
/// to the loop whose laio_loop_poll() is running).
///
/// In a host with coroutines it is called in one, which yields in between. With the built-in event
/// loop it is called on a plain thread and drives that thread's loop in between.
///
/// `type` is QEMU_AIO_READ, _WRITE, _FLUSH or _ZONE_APPEND; `offset` is in bytes. With
/// BDRV_REQ_FUA in `flags` a write is on stable storage when it completes. `qiov` and the memory it
/// names are the caller's and stay until then; for a flush it may be NULL. `dev_max_batch` is the
/// number of queued requests that this device wants submitted at once; 0 for the event loop's.
///
/// A short read is continued where it stopped, and filled with zeros at the end of the file; a
/// short write is continued, and fails with -ENOSPC when nothing more goes in. Zone append is a
/// write at `offset` that is never continued.
///
/// Without any request having been made: -EINVAL if there is no state, or for a NULL or empty
/// vector, an unknown type, a size that overflows or is not the vector's; -EBADF for a negative
/// descriptor; -ENOTCONN if the state is detached; -EPERM if it is another thread's; -ENOTSUP if
/// the host has no coroutines, or none runs; -ENOMEM. Which one, if there are several reasons, is
/// not said.
///
/// As laio_co_submit() of QEMU 10.0 and later. There a short read is not continued before 10.0.13.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laio_co_submit(
    fd: c_int,
    offset: u64,
    qiov: *mut QEMUIOVector,
    r#type: c_int,
    flags: BdrvRequestFlags,
    dev_max_batch: u64,
) -> c_int {
    let (context, s) = current();
    if s.is_null() {
        return EINVAL;
    }
    // SAFETY: the caller's promise.
    let io = || unsafe { io_of_qiov(fd, offset, qiov, r#type, flags) };
    // SAFETY: the state is the host's answer.
    let result = unsafe { LinuxAioState::co_submit_in(s, context, io, dev_max_batch) };
    errno_of(result, |result| result)
}

/// Lets requests to the state of the calling thread's event loop gather until laio_io_unplug().
/// Plugs nest. A plug only gathers: when control comes to the event loop in between, what has
/// gathered is submitted.
///
/// As laio_io_plug() of QEMU 8.0.
#[unsafe(no_mangle)]
pub extern "C" fn laio_io_plug() {
    // SAFETY: the state is the host's answer.
    if let Some(state) = unsafe { state_or_report(current_state(), "laio_io_plug", NO_STATE) } {
        state.plug();
    }
}

/// Ends a plug of the calling thread's state and submits what has gathered; within another plug
/// only if it is a full batch by now. `dev_max_batch` is as for laio_co_submit().
///
/// As laio_io_unplug() of QEMU 8.0.
#[unsafe(no_mangle)]
pub extern "C" fn laio_io_unplug(dev_max_batch: u64) {
    const NAME: &str = "laio_io_unplug";
    // SAFETY: the state is the host's answer.
    if let Some(state) = unsafe { state_or_report(current_state(), NAME, NO_STATE) } {
        unplug(NAME, state, dev_max_batch);
    }
}

fn unplug(function: &str, state: &LinuxAioState, dev_max_batch: u64) {
    if !state.unplug(dev_max_batch) {
        report(function, "there is no plug to end");
    }
}

/// Whether the kernel can flush `fd` asynchronously, so that QEMU_AIO_FLUSH may be submitted for
/// it. False also for a negative descriptor, and when no AIO context is left to ask with; true for
/// one that is closed. Any thread.
///
/// As laio_has_fdsync() of QEMU.
#[unsafe(no_mangle)]
pub extern "C" fn laio_has_fdsync(fd: c_int) -> bool {
    if fd < 0 {
        report("laio_has_fdsync", format_args!("the descriptor {fd} is negative"));
        return false;
    }
    kernel::has_fdsync(fd)
}

/// Whether the kernel can do BDRV_REQ_FUA writes (RWF_DSYNC, Linux 4.13). False also as long as no
/// AIO context is left to ask with. Any thread.
///
/// As laio_has_fua() of QEMU 10.0, which answers what libaio was compiled with.
#[unsafe(no_mangle)]
pub extern "C" fn laio_has_fua() -> bool {
    kernel::has_fua()
}

/// As laio_co_submit(), for the state `s`. -EINVAL if it is NULL.
///
/// This is laio_co_submit() of QEMU up to 7.2, without the BlockDriverState.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laio_state_co_submit(
    s: *mut LinuxAioState,
    fd: c_int,
    offset: u64,
    qiov: *mut QEMUIOVector,
    r#type: c_int,
    flags: BdrvRequestFlags,
    dev_max_batch: u64,
) -> c_int {
    if s.is_null() {
        return EINVAL;
    }
    // SAFETY: the caller's promise.
    let io = || unsafe { io_of_qiov(fd, offset, qiov, r#type, flags) };
    // SAFETY: the caller's promise.
    let result = unsafe { LinuxAioState::co_submit(s, io, dev_max_batch) };
    errno_of(result, |result| result)
}

/// As laio_io_plug(), for the state `s`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laio_state_io_plug(s: *mut LinuxAioState) {
    // SAFETY: the caller's promise.
    if let Some(state) = unsafe { state_or_report(s, "laio_state_io_plug", NULL_STATE) } {
        state.plug();
    }
}

/// As laio_io_unplug(), for the state `s`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laio_state_io_unplug(s: *mut LinuxAioState, dev_max_batch: u64) {
    const NAME: &str = "laio_state_io_unplug";
    // SAFETY: the caller's promise.
    if let Some(state) = unsafe { state_or_report(s, NAME, NULL_STATE) } {
        unplug(NAME, state, dev_max_batch);
    }
}

/// Submits a request to the state `s` and returns 0; `cb(opaque, ret)` learns the result, 0 or a
/// negative errno, on the same thread: from the event loop, or from within this or any later call
/// to the state. The callback may submit more, plug, enter coroutines and run the event loop; it
/// must not yield the coroutine that it is called in.
///
/// The `iovcnt` parts at `iov`, the array and the memory, are the caller's and stay until then. For
/// a flush `iov` may be NULL and `iovcnt` 0. All else is as for laio_co_submit(). What only the
/// kernel finds out (a descriptor that is closed or opened otherwise, a misaligned buffer, more
/// parts than its 1024) is told to the callback.
///
/// Returns a negative errno, and does not call `cb`, where laio_co_submit() would make no request,
/// and -EINVAL for a NULL `cb`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laio_state_submit(
    s: *mut LinuxAioState,
    fd: c_int,
    offset: u64,
    iov: *const iovec,
    iovcnt: c_int,
    r#type: c_int,
    flags: BdrvRequestFlags,
    dev_max_batch: u64,
    cb: Option<unsafe extern "C" fn(opaque: *mut c_void, ret: c_int)>,
    opaque: *mut c_void,
) -> c_int {
    // SAFETY: the caller's promise.
    let (Some(state), Some(cb)) = (unsafe { s.as_ref() }, cb) else {
        return EINVAL;
    };
    // SAFETY: the caller's promise.
    let io = unsafe { Io::new(r#type, flags, fd, offset, (iov, iovcnt)) };
    let accepted =
        io.and_then(|io| state.submit(io, dev_max_batch, cb as CompletionCallback, opaque));
    errno_of(accepted, |()| 0)
}

/// Fills `stats` with the statistics of `s`. On the thread that uses the state.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laio_state_get_stats(s: *const LinuxAioState, stats: *mut LaioStats) {
    const NAME: &str = "laio_state_get_stats";
    // SAFETY: the caller's promise.
    let Some(state) = (unsafe { state_or_report(s, NAME, NULL_STATE) }) else {
        return;
    };
    if stats.is_null() {
        return report(NAME, "the place for the statistics is NULL");
    }
    // SAFETY: the caller's promise.
    unsafe { stats.write(state.stats()) };
}

/// How many frames of submission are on the calling thread's stack, over all its states, since its
/// event loop last called the library.
#[unsafe(no_mangle)]
pub extern "C" fn laio_submit_depth() -> c_uint {
    depth::current()
}

/// How many there may be, on any thread: 8 unless set.
#[unsafe(no_mangle)]
pub extern "C" fn laio_max_submit_depth() -> c_uint {
    depth::max()
}

/// Sets how deep submission may nest, for all threads: 1 to 64, or else -EINVAL. Returns 0. A
/// level takes less than 1 KiB of stack, and what the host's own functions take in between.
/// A nested event loop counts anew: with n of them in each other there may be n + 1 times as many
/// levels on the stack.
#[unsafe(no_mangle)]
pub extern "C" fn laio_set_max_submit_depth(depth: c_uint) -> c_int {
    if depth::set_max(depth) { 0 } else { EINVAL }
}

/// Gives the library the functions of its host. Once, before the first laio_init() and the first
/// laio_loop_new(). The table is copied.
///
/// Returns 0. -EINVAL, and the log says why, if `ops` is NULL, shorter than the first version's, has
/// hooks that this version does not know, or lacks a required hook or one of a group; -EBUSY if
/// hooks were set before, or a state or event loop exists or has existed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laio_set_host_ops(ops: *const LaioHostOps) -> c_int {
    const NAME: &str = "laio_set_host_ops";
    if ops.is_null() {
        report(NAME, "the table is NULL");
        return EINVAL;
    }
    // SAFETY: the caller's promise.
    match unsafe { ProcessHost::set(ops) } {
        Ok(()) => 0,
        Err(NotSet::TooLate) => {
            report(NAME, "too late: hooks were set, or a state or event loop was made, before");
            -libc::EBUSY
        }
        Err(NotSet::Bad(reason)) => {
            report(NAME, reason);
            EINVAL
        }
    }
}

/// Makes an event loop of the built-in host. NULL, with a report, if no descriptor is free, or if
/// the program has given hooks and so has event loops of its own.
///
/// The loop serves one thread: the one that makes it, or else the one that uses it first. The
/// caller owns it and gives it to laio_loop_free() in the end.
#[unsafe(no_mangle)]
pub extern "C" fn laio_loop_new() -> *mut AioContext {
    const NAME: &str = "laio_loop_new";
    if !ProcessHost::get().is_builtin() {
        report(NAME, "the program has given hooks for its own event loop");
        return ptr::null_mut();
    }
    builtin::new().unwrap_or_else(|errno| {
        report(NAME, format_args!("{errno:?}"));
        ptr::null_mut()
    })
}

/// Frees an event loop. One that still serves a state, or that is running, is reported and stays.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laio_loop_free(ctx: *mut AioContext) {
    // SAFETY: the caller's promise.
    if let Err(reason) = unsafe { builtin::free(ctx) } {
        report("laio_loop_free", reason);
    }
}

/// Runs an event loop of the built-in host: completes what is complete, submits what waits. Returns
/// whether it made progress, which includes running the completions' callbacks. With `blocking`
/// set it sleeps until it has; it returns false at once when nothing is outstanding, and on a thread
/// that the loop does not serve. May be called from within a completion. As aio_poll() of QEMU.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laio_loop_poll(ctx: *mut AioContext, blocking: bool) -> bool {
    if !ProcessHost::peek().is_builtin() {
        report("laio_loop_poll", "the program has given hooks for its own event loop");
        return false;
    }
    builtin::poll(ctx, blocking)
}
