// SPDX-License-Identifier: MIT OR Apache-2.0

//! The functions that are told their state.

use std::ffi::{c_int, c_uint, c_void};
use std::ptr;

use laio_engine::LaioStats;
use laio_engine::c_entry::{self, CRequest};
use laio_engine::host::{Error, LinuxAioState};
use laio_engine::qiov::{BdrvRequestFlags, QEMUIOVector};
use laio_engine::request::Io;
use laio_engine::wait::Uncancelled;
use libc::iovec;

use super::{host, state};
use crate::host::{ProcessHost, report};

/// The size of the first version's statistics, which all later versions take.
const FIRST_STATS_SIZE: usize = 128;

/// Makes a state over an interface of the kernel that the caller chooses: one of LaioKernel. All else
/// is as for laio_init().
///
/// One that is asked for by name, here or by the environment's LAIO_KERNEL, and cannot be had is an
/// error that names the reason: fs.aio-max-nr is spent, RLIMIT_MEMLOCK is too small for the smallest
/// ring, a seccomp filter (that of a container, mostly) or kernel.io_uring_disabled denies it. For
/// LAIO_KERNEL_AUTO it is one error that names both reasons.
///
/// With io_uring, epoll_wait(2) and its like may return EINTR without any signal, in all that the
/// submitting thread waits for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laio_init_kernel(
    kernel: c_uint,
    errp: *mut *mut Error,
) -> *mut LinuxAioState {
    let _uncancelled = Uncancelled::enter();
    c_entry::init(ProcessHost::get(), kernel, errp).cast()
}

/// Which interface of the kernel the state `s` has: LAIO_KERNEL_LINUX_AIO or LAIO_KERNEL_IO_URING.
/// LAIO_KERNEL_AUTO, and a report, if it is NULL. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laio_state_kernel(s: *const LinuxAioState) -> c_uint {
    // SAFETY: the caller's promise.
    unsafe { c_entry::state_kernel(host(), state(s.cast_mut())) as c_uint }
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
    let request = CRequest { fd, offset, qiov, kind: r#type, flags, dev_max_batch };
    // SAFETY: the caller's promise.
    unsafe { c_entry::state_co_submit(state(s), request) }
}

/// As laio_io_plug(), for the state `s`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laio_state_io_plug(s: *mut LinuxAioState) {
    // SAFETY: the caller's promise.
    unsafe { c_entry::state_plug(host(), state(s)) };
}

/// As laio_io_unplug(), for the state `s`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laio_state_io_unplug(s: *mut LinuxAioState, dev_max_batch: u64) {
    // SAFETY: the caller's promise.
    unsafe { c_entry::state_unplug(host(), state(s), dev_max_batch) };
}

/// Submits a request to the state `s` and returns 0; `cb(opaque, ret)` learns the result, 0 or a
/// negative errno, on the same thread: from the event loop, or from within this or any later call
/// to the state. One entry from the event loop, or one call from elsewhere, tells at most 1024 owners,
/// over all states of the thread; what is left comes in the next turn. The callback may submit more, plug, enter coroutines and run the event loop; it
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
    let io = || unsafe { Io::new(r#type, flags, fd, offset, (iov, iovcnt)) };
    // SAFETY: the caller's promise.
    unsafe { c_entry::state_submit(state(s), io, dev_max_batch, (cb, opaque)) }
}

/// Fills `stats` with the statistics of `s`: `stats->size` bytes, which the caller has set. One that is
/// less than the first version's is reported, and nothing is filled. On the thread that uses the state.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laio_state_get_stats(s: *const LinuxAioState, stats: *mut LaioStats) {
    const NAME: &str = "laio_state_get_stats";
    // SAFETY: the caller's promise.
    let Some(current) = (unsafe { c_entry::stats(host(), state(s.cast_mut()), NAME) }) else {
        return;
    };
    if stats.is_null() {
        return report(NAME, "the place for the statistics is NULL");
    }
    // SAFETY: the caller's promise covers at least the member `size`.
    let size = unsafe { (&raw const (*stats).size).read() };
    if size < FIRST_STATS_SIZE {
        return report(
            NAME,
            "the size in the statistics is too small; set it to sizeof(LaioStats)",
        );
    }
    let current = LaioStats { size, ..current };
    let known = size.min(size_of::<LaioStats>());
    // SAFETY: the caller's promise covers `size` bytes, which is not less than `known`.
    unsafe {
        ptr::copy_nonoverlapping((&raw const current).cast::<u8>(), stats.cast(), known);
        stats.cast::<u8>().add(known).write_bytes(0, size - known);
    }
}
