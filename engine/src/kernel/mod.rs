// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the engine asks of the kernel, as a trait, and Linux AIO and io_uring behind it.
//!
//! The engine is generic over [`Kernel`] so that tests can put a simulated kernel in its place,
//! one that completes requests in every order and fails in every way.

pub mod aio;
mod choice;
mod entry;
pub mod probe;
mod timer;
mod uring;
mod with_eventfd;

use std::borrow::Cow;
use std::ffi::CStr;
use std::os::fd::RawFd;
use std::time::Duration;

pub use aio::{Aio, LinuxAio};
pub use choice::{Chosen, Either, LaioKernel};
pub use entry::{Entry, Opcode};
pub use timer::Timer;
pub use uring::{IoUring, Uring};
pub use with_eventfd::{Interface, WithEventfd};

use crate::errno::Errno;
use crate::wait;

/// Why there is no kernel object.
#[derive(Debug)]
pub struct SetupError {
    /// The kernel's answer.
    pub errno: Errno,
    /// For a human, without the errno's own text.
    pub what: Cow<'static, CStr>,
}

impl SetupError {
    pub(crate) fn new(errno: Errno, what: &'static CStr) -> Self {
        Self { errno, what: what.into() }
    }
}

/// What the engine wants to know of a completion.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Completion {
    /// The token of the entry.
    pub token: u64,
    /// Bytes, or a negative errno.
    pub res: i64,
}

/// One asynchronous I/O context of a kernel, with its completion ring and its eventfd.
///
/// No method calls back into the engine. All take `&self`: the engine is re-entered from the
/// callbacks of its host, so nothing of it is ever borrowed mutably.
///
/// # Tear-down
///
/// The engine drops a kernel object when nothing is in flight. A kernel whose close(2) does not wait
/// for what is in flight relies on that.
///
/// # After a fork
///
/// The child has a copy of the object and, with most kernels, shares its ring with the parent. There
/// the engine calls nothing but what asks about the process and for the eventfd's number, and drops
/// it; dropping must change nothing that the parent has.
pub trait Kernel: Files {
    /// How many entries can be in flight: accepted by [`submit`](Self::submit) and not reaped. The
    /// engine offers no more. It does not change.
    fn capacity(&self) -> usize;

    /// Makes `entry` one of this kernel's: called once for each request, before it is queued.
    fn prepare(&self, entry: &mut Entry);

    /// Hands `entries`, at least one and not more than there is room for, to the kernel in their
    /// order.
    ///
    /// `Ok(k)`: the first `k` of them are the kernel's now and will complete, each once and in any
    /// order, maybe before this returns. The others are as if they had never been offered: the
    /// caller may offer the same, or others, at any later time. `Ok(0)` and EAGAIN say "no more for
    /// now". Any other error means that none was taken, and speaks of the first.
    ///
    /// # Safety
    ///
    /// Each entry, and the memory that it names, stays where it is until its completion is reaped.
    unsafe fn submit(&self, entries: &[*mut Entry]) -> Result<usize, Errno>;

    /// Takes the oldest completion out of the ring. Its slot is free again on return, before
    /// anybody learns of the completion.
    fn reap(&self) -> Option<Completion>;

    /// Whether [`reap`](Self::reap) would give one.
    fn has_completions(&self) -> bool;

    /// Whether the result `res` of a completion says nothing of the request, which is to be
    /// submitted again as it was.
    fn is_transient(&self, res: i64) -> bool;

    /// Nothing is in flight, everything is reaped, and the object is dropped next: what takes long to
    /// make and to destroy may be kept for another. Not in the child of a fork.
    fn done(&self) {}

    /// The descriptor that becomes readable with each completion. The kernel object owns it.
    fn eventfd(&self) -> RawFd;

    /// Makes the eventfd unreadable until the next completion.
    fn clear_eventfd(&self);

    /// Sleeps until there is a completion to reap. Only for a state that has requests in flight.
    fn wait(&self);

    /// Sleeps for a moment: the kernel has no room although nothing is in flight.
    fn nap(&self) {
        wait::for_a_while(Duration::from_millis(1));
    }

    /// Whether the calling process is another one than that which made the object: the child of a
    /// fork.
    fn is_inherited(&self) -> bool;

    /// Lets the timer's descriptor, which is returned, become readable after `delay`.
    fn arm_timer(&self, delay: Duration) -> Result<RawFd, Errno>;

    /// Whether the timer was armed and the delay is over.
    fn is_timer_due(&self) -> bool;

    /// Makes the timer's descriptor unreadable until it is armed again.
    fn clear_timer(&self);
}

/// What the engine asks about files, where a result alone does not tell what it means.
pub trait Files {
    /// The size in bytes of the regular file behind `fd`; `None` for anything else.
    fn file_size(&self, fd: RawFd) -> Option<u64> {
        status(fd).filter(is_regular).map(|stat| stat.st_size as u64)
    }

    /// The size in bytes beyond which this process may not write to a regular file: RLIMIT_FSIZE.
    fn size_limit(&self) -> u64 {
        let mut limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: 0 };
        // SAFETY: writes one limit to a place that holds one. Should it fail, there is none.
        unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, &mut limit) };
        limit.rlim_cur
    }
}

/// What fstat(2) says.
fn status(fd: RawFd) -> Option<libc::stat> {
    // SAFETY: an all-zero stat is a valid value, and fstat(2) fills it.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: writes one stat to a place that holds one.
    (unsafe { libc::fstat(fd, &mut stat) } == 0).then_some(stat)
}

fn is_regular(stat: &libc::stat) -> bool {
    stat.st_mode & libc::S_IFMT == libc::S_IFREG
}
