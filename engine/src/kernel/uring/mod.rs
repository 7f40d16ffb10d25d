// SPDX-License-Identifier: MIT OR Apache-2.0

//! io_uring: io_uring_setup(2), io_uring_enter(2), and the two mapped queues.
//!
//! Written to the kernel's interface and not to the crate `io-uring`: that has no way to take an
//! entry back which the kernel did not want, and the trait [`Kernel`](super::Kernel) promises that.
//!
//! # Threads
//!
//! When a thread ends, the kernel gives up what that thread has submitted and is in flight still:
//! -EFAULT or -ECANCELED. Nothing is wrong with such a request. It is told apart from one with a bad
//! buffer by who submitted it: a thread that reaps is alive, so the failure of a request of its own
//! is real, and another thread's request gets one more try, which makes it its own.

mod ring;
mod set_up;
#[allow(missing_docs, non_camel_case_types)]
mod sys;

use std::cell::Cell;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ring::{Cqe, Ring};

use super::{Completion, Entry, Interface, SetupError, WithEventfd};
use crate::errno::Errno;
use crate::process::Process;

/// Requests that one ring can have in flight: as many as a context of Linux AIO. Half the places of
/// its completion queue, which so cannot overflow.
const CAPACITY: u32 = 1024;

/// The result of what is to be submitted again as it was.
const TRY_AGAIN: i64 = -libc::EINTR as i64;

/// A ring.
pub struct Uring {
    ring: Ring,
    owner: Process,
}

impl Uring {
    /// Sets up a ring of 1024 requests, or fewer where RLIMIT_MEMLOCK leaves no room for more.
    pub(super) fn new(eventfd: RawFd) -> Result<Self, SetupError> {
        let uring = Self::without_eventfd(CAPACITY)?;
        uring.ring.register(eventfd)?;
        Ok(uring)
    }

    /// A ring that signals nothing, for up to `entries` requests.
    pub(super) fn without_eventfd(entries: u32) -> Result<Self, SetupError> {
        Ok(Self { ring: Ring::new(entries)?, owner: Process::current() })
    }

    /// Whether this is the child of a fork: another process set it up.
    fn is_inherited(&self) -> bool {
        !self.owner.is_current()
    }

    /// The next completion, waiting for it without an eventfd.
    pub(super) fn wait(&self) -> Completion {
        loop {
            if let Some(completion) = self.reap() {
                return completion;
            }
            // It comes also where the kernel refuses to be waited for, and a ring is not closed
            // before that.
            self.ring.sleep().unwrap_or_else(|_| std::thread::sleep(Duration::from_millis(1)));
        }
    }

    /// How many were taken, or a negative errno: an answer that fits into a register. Not inlined,
    /// so that who has Linux AIO does not pay for it with places in memory for what is not used.
    ///
    /// # Safety
    ///
    /// As [`Interface::submit`].
    #[inline(never)]
    unsafe fn answer_to(&self, entries: &[*mut Entry]) -> isize {
        // A child could enter the ring that it inherited, and its parent would get the completion.
        if self.is_inherited() {
            return -libc::EINVAL as isize;
        }
        // SAFETY: the caller's promise.
        let answer = unsafe { self.ring.submit(entries, this_thread()) };
        answer.map_or_else(|errno| errno.negative() as isize, |taken| taken as isize)
    }

    /// What a negative result says of the request.
    #[cold]
    fn meaning_of(&self, entry: &Entry, res: i32) -> i64 {
        match -res {
            libc::EINTR => TRY_AGAIN,
            // Who made the descriptor non-blocking asked for this answer, and trying again would
            // spin. Otherwise a device was busy.
            libc::EAGAIN if !is_non_blocking(entry.fd()) => TRY_AGAIN,
            libc::EFAULT | libc::ECANCELED if entry.submitter() != this_thread() => TRY_AGAIN,
            _ => res.into(),
        }
    }
}

/// io_uring as a kernel.
pub type IoUring = WithEventfd<Uring>;

impl IoUring {
    /// Sets up a ring of 1024 requests, or fewer where RLIMIT_MEMLOCK leaves no room for more, and
    /// its eventfd.
    pub fn new() -> Result<Self, SetupError> {
        Self::set_up(Uring::new)
    }
}

impl Interface for Uring {
    fn capacity(&self) -> usize {
        self.ring.entries() as usize
    }

    #[inline]
    unsafe fn submit(&self, entries: &[*mut Entry]) -> Result<usize, Errno> {
        // SAFETY: the caller's promise.
        let answer = unsafe { self.answer_to(entries) };
        usize::try_from(answer).map_err(|_| Errno(-answer as i32))
    }

    #[inline]
    fn reap(&self) -> Option<Completion> {
        let Cqe { entry, res } = self.ring.take()?;
        // SAFETY: submitted and reaped now, so its owner keeps it until this is told.
        let entry = unsafe { &*entry };
        let res = if res < 0 { self.meaning_of(entry, res) } else { res.into() };
        Some(Completion { token: entry.token(), res })
    }

    fn has_completions(&self) -> bool {
        self.ring.has_cqes()
    }

    #[inline]
    fn is_transient(&self, res: i64) -> bool {
        res == TRY_AGAIN
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        // close(2) does not wait as io_destroy(2) does: the kernel would go on writing to memory
        // that is freed. A child that inherited the ring closes a descriptor, and no more.
        let drained = self.is_inherited() || self.ring.in_flight() == 0;
        assert!(drained || std::thread::panicking(), "a ring is closed with requests in flight");
    }
}

fn is_non_blocking(fd: RawFd) -> bool {
    // SAFETY: F_GETFL takes no pointer.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    flags >= 0 && flags & libc::O_NONBLOCK != 0
}

/// A number that no other thread of the process has or had. (A thread id, or the address of what
/// belongs to a thread, is another thread's soon.)
#[inline]
fn this_thread() -> u32 {
    thread_local! {
        static NUMBER: Cell<u32> = const { Cell::new(0) };
    }
    #[cold]
    fn first_asked() -> u32 {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        NUMBER.set(number);
        number
    }
    match NUMBER.get() {
        0 => first_asked(),
        number => number,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Opcode;

    fn meaning(res: i32, submitter: u32) -> i64 {
        // Blocking, as disks are opened.
        meaning_with(res, submitter, 0)
    }

    fn meaning_with(res: i32, submitter: u32, flags: libc::c_int) -> i64 {
        let uring = Uring::without_eventfd(1).unwrap();
        let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&socket);
        // SAFETY: sets flags of a descriptor of ours.
        assert_eq!(unsafe { libc::fcntl(fd, libc::F_SETFL, flags) }, 0);
        let mut entry = Entry::transfer(Opcode::Read, fd, (std::ptr::null(), 0), 0);
        entry.set_submitter(submitter);
        uring.meaning_of(&entry, res)
    }

    #[test]
    fn transient_results_say_nothing_of_the_request() {
        let (own, anothers) = (this_thread(), this_thread() + 1);
        for submitter in [own, anothers] {
            assert_eq!(meaning(-libc::EAGAIN, submitter), TRY_AGAIN);
            assert_eq!(meaning(-libc::EINTR, submitter), TRY_AGAIN);
            assert_eq!(meaning(-libc::EIO, submitter), -i64::from(libc::EIO));
        }
        for res in [-libc::EFAULT, -libc::ECANCELED] {
            assert_eq!(meaning(res, own), res.into());
            assert_eq!(meaning(res, anothers), TRY_AGAIN);
        }
        let asked_for = -libc::EAGAIN;
        assert_eq!(meaning_with(asked_for, own, libc::O_NONBLOCK), asked_for.into());
    }

    #[test]
    fn threads_have_numbers_of_their_own() {
        let number = this_thread();
        assert_eq!(number, this_thread());
        let others = [(); 2].map(|()| std::thread::spawn(this_thread).join().unwrap());
        assert!(others[0] != others[1] && !others.contains(&number));
    }
}
