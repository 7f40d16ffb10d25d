// SPDX-License-Identifier: MIT OR Apache-2.0

//! Waiting without a cancellation point.
//!
//! A thread that is cancelled (pthread_cancel(3)) while it waits here would leave requests on a stack
//! that is gone, and states that count a frame which never ends. So the waits are made by syscall(2),
//! which is none: the call is finished, and the thread is cancelled at its next point of its own.

use std::ffi::c_int;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::time::Duration;

/// Sleeps until `fd` is readable or a signal comes.
pub fn until_readable(fd: RawFd) {
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    let (for_ever, no_mask) = (ptr::null::<libc::timespec>(), ptr::null::<libc::sigset_t>());
    // SAFETY: one descriptor, one entry. Whatever ends it, the caller looks again.
    unsafe { libc::syscall(libc::SYS_ppoll, &raw mut poll, 1, for_ever, no_mask, 0) };
}

/// Sleeps for a while, or until a signal comes.
pub fn for_a_while(duration: Duration) {
    let until = libc::timespec {
        tv_sec: duration.as_secs() as libc::time_t,
        tv_nsec: duration.subsec_nanos().into(),
    };
    let rest = ptr::null_mut::<libc::timespec>();
    // SAFETY: reads one duration.
    unsafe { libc::syscall(libc::SYS_nanosleep, &raw const until, rest) };
}

/// A new eventfd, whose reads do not block. If there is none, errno says why.
pub fn eventfd() -> Option<OwnedFd> {
    // SAFETY: eventfd(2) takes no pointer.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    // SAFETY: the descriptor is new and nobody else's.
    (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Reads the count of an eventfd that does not block, and so makes it unreadable.
pub fn clear_eventfd(fd: RawFd) {
    let mut count = 0u64;
    // SAFETY: reads eight bytes into eight bytes. EAGAIN means that it is clear already.
    unsafe { libc::syscall(libc::SYS_read, fd, &raw mut count, size_of::<u64>()) };
}

unsafe extern "C" {
    // In every libc with threads; the crate libc does not have it for all of them.
    fn pthread_setcancelstate(state: c_int, old: *mut c_int) -> c_int;
}

const PTHREAD_CANCEL_DISABLE: c_int = 1;

/// Keeps the calling thread from being cancelled until it is dropped: where descriptors are closed,
/// lines are written, and code of the host runs that may do so.
#[must_use]
pub struct Uncancelled {
    before: c_int,
}

impl Uncancelled {
    /// Until it is dropped, on the same thread.
    pub fn enter() -> Self {
        let mut before = 0;
        // SAFETY: writes the state from before to a place that holds one.
        unsafe { pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &mut before) };
        Self { before }
    }
}

impl Drop for Uncancelled {
    fn drop(&mut self) {
        // SAFETY: as in `enter`.
        unsafe { pthread_setcancelstate(self.before, &mut 0) };
    }
}
