// SPDX-License-Identifier: MIT OR Apache-2.0

//! The functions of QEMU's block/linux-aio.c.

use std::ffi::c_int;

use laio_engine::c_entry::{self, CRequest};
use laio_engine::host::{AioContext, Error, LinuxAioState};
use laio_engine::kernel::{Chosen, LaioKernel};
use laio_engine::qiov::{BdrvRequestFlags, QEMUIOVector};
use laio_engine::wait::Uncancelled;

use super::{host, state};
use crate::host::ProcessHost;

/// Makes a state, as laio_init_kernel() does for LAIO_KERNEL_AUTO: a Linux AIO context of 1024
/// requests and its eventfd, or an io_uring.
///
/// Returns NULL if the kernel has neither (fs.aio-max-nr, and see there) or no descriptor is free;
/// `*errp` is then filled by the host's `error_set` hook, or the reason goes to the log. `errp` may
/// be NULL. The caller owns the state and gives it to laio_cleanup() in the end. Attach it to an
/// event loop before use. May be called on any thread.
///
/// As laio_init() of QEMU's block/linux-aio.c.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laio_init(errp: *mut *mut Error) -> *mut LinuxAioState {
    let _uncancelled = Uncancelled::enter();
    c_entry::init(ProcessHost::get(), LaioKernel::Auto as u32, errp).cast()
}

/// Frees a state, after laio_detach_aio_context(), or detaching it.
///
/// If requests are still outstanding, that is reported; they are completed first, waiting for the
/// kernel, and their owners are told from within this call. They find the state detached, and cannot
/// attach it again. Called from within a completion of the same state, or in a deferred section in
/// which requests were submitted to it, it is reported and does nothing.
///
/// io_destroy(2) takes the kernel some thirty milliseconds. So the process keeps up to two AIO
/// contexts of states that were freed for those that are made next, which count in fs.aio-nr.
///
/// As laio_cleanup() of QEMU, which frees the state whatever is outstanding.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laio_cleanup(s: *mut LinuxAioState) {
    // SAFETY: the caller's promise.
    unsafe { c_entry::cleanup(host(), state(s), |_| ()) };
}

/// Lets the event loop `new_context` serve the state: makes its completion_bh and watches its
/// eventfd there. What an earlier detach left outstanding goes on.
///
/// A state that is attached already is reported and stays where it is. An attach that fails, because
/// the host has no bottom half, the eventfd cannot be watched (the built-in event loop: epoll_ctl(2)),
/// or the state is being freed or is the parent process's, is reported and did not happen. May be called on another
/// thread than the event loop's while that does not run.
///
/// As laio_attach_aio_context() of QEMU.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laio_attach_aio_context(
    s: *mut LinuxAioState,
    new_context: *mut AioContext,
) {
    // SAFETY: the caller's promise.
    unsafe { c_entry::attach(host(), state(s), new_context) };
}

/// Ends the service of the event loop `old_context`, to which the state is attached.
///
/// Meant for an idle state. Requests that are outstanding are reported; none is lost, but none
/// completes before the next attach. With the built-in event loop a thread that waits in
/// laio_co_submit() sleeps until then. Submitting to a detached state returns -ENOTCONN.
///
/// As laio_detach_aio_context() of QEMU.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laio_detach_aio_context(
    s: *mut LinuxAioState,
    old_context: *mut AioContext,
) {
    // SAFETY: the caller's promise.
    unsafe { c_entry::detach(host(), state(s), old_context) };
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
/// short write is continued, and fails with -ENOSPC when nothing more goes in. That includes the
/// largest size that a file may have: a write that was begun is not continued beyond RLIMIT_FSIZE, and
/// raises no SIGXFSZ. A direct transfer whose rest begins where the device cannot is done once more
/// from its start. Zone append is a
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
    let request = CRequest { fd, offset, qiov, kind: r#type, flags, dev_max_batch };
    // SAFETY: the caller's promise.
    unsafe { c_entry::co_submit::<Chosen, _>(host(), request) }
}

/// Lets requests to the state of the calling thread's event loop gather until laio_io_unplug().
/// Plugs nest. A plug only gathers: when control comes to the event loop in between, what has
/// gathered is submitted.
///
/// As laio_io_plug() of QEMU 8.0.
#[unsafe(no_mangle)]
pub extern "C" fn laio_io_plug() {
    // SAFETY: the state is the host's answer.
    unsafe { c_entry::current_plug::<Chosen, _>(host()) };
}

/// Ends a plug of the calling thread's state and submits what has gathered; within another plug
/// only if it is a full batch by now. `dev_max_batch` is as for laio_co_submit().
///
/// As laio_io_unplug() of QEMU 8.0.
#[unsafe(no_mangle)]
pub extern "C" fn laio_io_unplug(dev_max_batch: u64) {
    // SAFETY: the state is the host's answer.
    unsafe { c_entry::current_unplug::<Chosen, _>(host(), dev_max_batch) };
}

/// Whether the kernel can flush `fd` asynchronously, so that QEMU_AIO_FLUSH may be submitted for
/// it. False also for a negative descriptor, and when there is neither an AIO context nor an
/// io_uring to ask with; true for one that is closed. Any thread.
///
/// It flushes the file to find out, unless that is a block device, or a regular file of the file
/// system that was asked about last.
///
/// As laio_has_fdsync() of QEMU.
#[unsafe(no_mangle)]
pub extern "C" fn laio_has_fdsync(fd: c_int) -> bool {
    c_entry::has_fdsync(host(), fd)
}

/// Whether the kernel can do BDRV_REQ_FUA writes (RWF_DSYNC, Linux 4.13). False also as long as
/// there is neither an AIO context nor an io_uring to ask with. Any thread.
///
/// As laio_has_fua() of QEMU 10.0, which answers what libaio was compiled with.
#[unsafe(no_mangle)]
pub extern "C" fn laio_has_fua() -> bool {
    c_entry::has_fua(host())
}
