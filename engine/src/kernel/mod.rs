// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the engine asks of the kernel, as a trait, and Linux AIO behind it.
//!
//! The engine is generic over [`Kernel`] so that tests can put a simulated kernel in its place,
//! one that completes requests in every order and fails in every way. The shipped library has
//! [`LinuxAio`] there.

pub mod aio;

use std::os::fd::RawFd;

pub use aio::sys::{self, iocb};
pub use aio::{LinuxAio, SetupError, has_fdsync, has_fua};

use crate::errno::Errno;

/// Requests that one state can have in flight: the size of its completion ring, as in QEMU.
pub const MAX_EVENTS: usize = 1024;

/// What the engine wants to know of a completion: the parts of an io_event that say something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Completion {
    /// `aio_data` of the iocb.
    pub data: u64,
    /// Bytes, or a negative errno.
    pub res: i64,
}

impl From<&sys::io_event> for Completion {
    fn from(event: &sys::io_event) -> Self {
        Self { data: event.data, res: event.res }
    }
}

/// One asynchronous I/O context of a kernel, with its completion ring and its eventfd.
///
/// No method calls back into the engine. All take `&self`: the engine is re-entered from the
/// callbacks of its host, so nothing of it is ever borrowed mutably.
pub trait Kernel {
    /// Hands `iocbs` to the kernel in their order and tells how many it took, as io_submit(2):
    /// an error means that it took none, and speaks of the first.
    ///
    /// # Safety
    ///
    /// Each iocb, and the memory that it names, stays where it is until its completion is reaped.
    unsafe fn submit(&self, iocbs: &[*mut iocb]) -> Result<usize, Errno>;

    /// Takes the oldest completion out of the ring. Its slot is free again on return, before
    /// anybody learns of the completion.
    fn reap(&self) -> Option<Completion>;

    /// Whether [`reap`](Self::reap) would give one.
    fn has_completions(&self) -> bool;

    /// The descriptor that becomes readable with each completion. The kernel object owns it.
    fn eventfd(&self) -> RawFd;

    /// Makes the eventfd unreadable until the next completion.
    fn clear_eventfd(&self);

    /// Sleeps until there is a completion to reap. Only for a state that has requests in flight.
    fn wait(&self);

    /// The size in bytes of the regular file behind `fd`; `None` for anything else.
    fn file_size(&self, fd: RawFd) -> Option<u64>;
}
