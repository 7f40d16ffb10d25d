// SPDX-License-Identifier: MIT OR Apache-2.0

//! The built-in event loop, where it takes several threads to see what it does.

use std::ffi::{c_int, c_void};
use std::ptr;

use laio_engine::LaioStats;
use laio_engine::host::LinuxAioState;
use laio_engine::qiov::{QEMUIOVector, QEMUIOVectorRest};
use laio_engine::request::aio_type;

use crate::ffi::*;

unsafe extern "C" fn ignore(_: *mut c_void, _: c_int) {}

/// Reads a hole by laio_co_submit(), which needs no turn of the event loop.
fn read_a_hole(fd: c_int) -> c_int {
    let mut memory = [1u8; 512];
    let mut iov = libc::iovec { iov_base: memory.as_mut_ptr().cast(), iov_len: memory.len() };
    let rest = QEMUIOVectorRest { nalloc: -1, local_iov_base: ptr::null_mut(), size: memory.len() };
    let mut qiov = QEMUIOVector { iov: &raw mut iov, niov: 1, rest };
    // SAFETY: the vector and its memory outlive the request, which is over when this returns.
    unsafe { laio_co_submit(fd, 0, &raw mut qiov, aio_type::READ, 0, 0) }
}

/// Flushes by another thread's state, if that is let.
fn flush(state: *mut LinuxAioState, fd: c_int) -> c_int {
    let kind = aio_type::FLUSH;
    // SAFETY: a flush has no vector.
    unsafe {
        laio_state_submit(state, fd, 0, ptr::null(), 0, kind, 0, 0, Some(ignore), ptr::null_mut())
    }
}

/// A loop belongs to the thread that uses it, also when its requests were all complete at once and
/// it never had to turn. It was given to the next thread that asked.
#[test]
fn a_loop_that_never_turned_is_kept_by_the_thread_that_submitted() {
    let context = laio_loop_new();
    // SAFETY: calls in the order that the header asks for; the descriptor is a file in memory.
    let (state, fd) = unsafe {
        let state = laio_init(ptr::null_mut());
        laio_attach_aio_context(state, context);
        let fd = libc::memfd_create(c"hole".as_ptr(), libc::MFD_CLOEXEC);
        assert_eq!(libc::ftruncate(fd, 4096), 0);
        (state, fd)
    };
    assert_eq!(read_a_hole(fd), 0);
    let shared = state.expose_provenance();
    let elsewhere = move || flush(ptr::with_exposed_provenance_mut(shared), fd);
    assert_eq!(std::thread::spawn(elsewhere).join().unwrap(), -libc::EPERM);
    assert_eq!(read_a_hole(fd), 0);
    let mut stats = LaioStats { size: size_of::<LaioStats>(), ..LaioStats::default() };
    // SAFETY: a place for the statistics, which are filled in; then the order of the header.
    unsafe {
        laio_state_get_stats(state, &raw mut stats);
        assert_eq!(stats.completed, 2);
        laio_detach_aio_context(state, context);
        laio_cleanup(state);
        laio_loop_free(context);
        libc::close(fd);
    }
}
