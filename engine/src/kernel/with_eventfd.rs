// SPDX-License-Identifier: MIT OR Apache-2.0

//! What all interfaces of the kernel have alike: an eventfd that says when to reap.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use super::{Completion, Entry, Files, Kernel, SetupError, Timer};
use crate::errno::Errno;
use crate::process::Process;
use crate::wait;

/// One of the kernel's interfaces for asynchronous I/O, told on its set-up which eventfd to signal,
/// or told it by each entry.
///
/// The methods are those of [`Kernel`], where it says what they promise.
pub trait Interface {
    /// See [`Kernel::capacity`].
    fn capacity(&self) -> usize;

    /// See [`Kernel::submit`].
    ///
    /// # Safety
    ///
    /// As there.
    unsafe fn submit(&self, entries: &[*mut Entry]) -> Result<usize, Errno>;

    /// See [`Kernel::reap`].
    fn reap(&self) -> Option<Completion>;

    /// See [`Kernel::has_completions`].
    fn has_completions(&self) -> bool;

    /// See [`Kernel::is_transient`].
    fn is_transient(&self, res: i64) -> bool;

    /// See [`Kernel::done`].
    fn done(&self) {}
}

/// An interface and its eventfd: a [`Kernel`].
///
/// The eventfd, the capacity and the process stand beside the interface, so that a choice between two of them has
/// to be looked at only where they differ.
pub struct WithEventfd<I> {
    // First: an interface may signal until it is closed.
    pub(super) interface: I,
    eventfd: OwnedFd,
    capacity: usize,
    timer: Timer,
    /// The process that set it up.
    owner: Process,
}

impl<I: Interface> WithEventfd<I> {
    /// Makes the eventfd, then the interface that signals it.
    pub(super) fn set_up(
        interface: impl FnOnce(RawFd) -> Result<I, SetupError>,
    ) -> Result<Self, SetupError> {
        let no_eventfd = || SetupError::new(Errno::last(), c"cannot make an eventfd");
        let eventfd = wait::eventfd().ok_or_else(no_eventfd)?;
        let interface = interface(eventfd.as_raw_fd())?;
        let (capacity, owner) = (interface.capacity(), Process::current());
        Ok(Self { interface, eventfd, capacity, timer: Timer::default(), owner })
    }
}

impl<I: Interface> Kernel for WithEventfd<I> {
    #[inline]
    fn capacity(&self) -> usize {
        self.capacity
    }

    /// Also for an interface that needs no eventfd in an entry: that costs less than to ask.
    #[inline]
    fn prepare(&self, entry: &mut Entry) {
        entry.set_eventfd(self.eventfd());
    }

    #[inline]
    unsafe fn submit(&self, entries: &[*mut Entry]) -> Result<usize, Errno> {
        // SAFETY: the caller's promise.
        unsafe { self.interface.submit(entries) }
    }

    #[inline]
    fn reap(&self) -> Option<Completion> {
        self.interface.reap()
    }

    #[inline]
    fn has_completions(&self) -> bool {
        self.interface.has_completions()
    }

    /// Success is never asked about: the check for it is the caller's next anyway.
    #[inline]
    fn is_transient(&self, res: i64) -> bool {
        res < 0 && self.interface.is_transient(res)
    }

    fn done(&self) {
        self.interface.done();
    }

    fn eventfd(&self) -> RawFd {
        self.eventfd.as_raw_fd()
    }

    fn clear_eventfd(&self) {
        wait::clear_eventfd(self.eventfd());
    }

    fn wait(&self) {
        while !self.has_completions() {
            wait::until_readable(self.eventfd());
            self.clear_eventfd();
        }
    }

    #[inline]
    fn is_inherited(&self) -> bool {
        !self.owner.is_current()
    }

    fn arm_timer(&self, delay: Duration) -> Result<RawFd, Errno> {
        self.timer.arm(delay)
    }

    fn is_timer_due(&self) -> bool {
        self.timer.is_due()
    }

    fn clear_timer(&self) {
        self.timer.clear();
    }
}

impl<I> Files for WithEventfd<I> {}
