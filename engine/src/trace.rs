// SPDX-License-Identifier: MIT OR Apache-2.0

//! Static tracepoints (USDT), for bpftrace, perf and gdb: `docs/tracing.md` lists them.
//!
//! Each is a nop in the code and a note in the ELF file. So its arguments are what the code there has in
//! registers anyway, and nothing is computed for them. `state` tells states apart; `iocb` is that of a request,
//! in its memory until it completes.

use std::ffi::c_int;

use probe::probe;

use crate::errno::Errno;

/// A request was accepted, and is queued.
#[inline(always)]
pub fn submit<S, E>(state: &S, iocb: *mut E) {
    probe!(laio, submit, std::ptr::from_ref(state), iocb);
}

/// The kernel was offered requests, and took so many.
#[inline(always)]
pub fn io_submit<S>(state: &S, taken: usize) {
    probe!(laio, io_submit, std::ptr::from_ref(state), taken);
}

/// The kernel was offered requests, and took none.
#[inline(always)]
pub fn io_submit_refused<S>(state: &S, errno: Errno) {
    probe!(laio, io_submit, std::ptr::from_ref(state), errno.negative());
}

/// The owner of a request is about to be told `result`.
#[inline(always)]
pub fn complete<S, E>(state: &S, iocb: *mut E, result: c_int) {
    probe!(laio, complete, std::ptr::from_ref(state), iocb, result);
}

/// A submission was left to completion_bh, because it is nested as deep as it may be.
#[inline(always)]
pub fn bound<S>(state: &S, queued: usize) {
    probe!(laio, bound, std::ptr::from_ref(state), queued);
}

/// completion_bh has found requests to submit.
#[inline(always)]
pub fn resume<S>(state: &S, queued: usize) {
    probe!(laio, resume, std::ptr::from_ref(state), queued);
}

/// A request is queued again: for what a short transfer left over, or as it was.
#[inline(always)]
pub fn retry<S, E>(state: &S, iocb: *mut E) {
    probe!(laio, retry, std::ptr::from_ref(state), iocb);
}

/// There is no context of Linux AIO to be had, and io_uring takes its place.
#[inline(always)]
pub fn fallback(errno: Errno) {
    probe!(laio, fallback, errno.negative());
}
