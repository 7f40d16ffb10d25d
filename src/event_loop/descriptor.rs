// SPDX-License-Identifier: MIT OR Apache-2.0

//! The descriptor of a loop, for a program that waits in an event loop of its own.
//!
//! It is the epoll set in which the loop sleeps, so what wakes the loop makes it readable. Bottom
//! halves are flags, which no descriptor shows: from the first time that the program asks, there is a
//! bell for them in the set, an eventfd. Nobody who does not ask has it, or pays for it.
//!
//! # Why nothing is overlooked
//!
//! The set reports edges, and stays readable until they are taken. A turn takes them when it is over,
//! and looks afterwards whether there is still something to do; if so it rings. A completion is in its
//! ring before its eventfd says so: either that look sees it, or its edge comes after it. The same is
//! done wherever edges are taken and no turn follows.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use laio_engine::errno::Errno;
use laio_engine::wait;

use super::{Loop, epoll_of};

/// The bell's number in the set.
const NOBODY: u64 = 0;

/// What makes the set readable for what is no descriptor's business.
#[derive(Default)]
pub struct Bell {
    /// An eventfd that nobody reads: each write is an edge.
    eventfd: OnceLock<OwnedFd>,
    /// Its edge is in the set, so that another one would say nothing new.
    rung: AtomicBool,
}

impl Bell {
    /// Its edge may have been taken.
    pub(super) fn forget(&self) {
        self.rung.store(false, Ordering::Relaxed);
    }
}

impl Loop {
    /// A descriptor that is readable whenever a turn would make progress; the loop's own.
    pub(super) fn descriptor(&self) -> Result<RawFd, Errno> {
        if !self.process.is_current() {
            return Err(Errno(libc::ENOTCONN));
        }
        if self.bell.eventfd.get().is_none() {
            // Of two threads that ask at once one is late; closed, its descriptor leaves the set.
            let _late = self.bell.eventfd.set(self.new_eventfd()?);
            // For what was scheduled when there was none.
            self.ring();
        }
        Ok(epoll_of(self))
    }

    fn new_eventfd(&self) -> Result<OwnedFd, Errno> {
        let eventfd = wait::eventfd().ok_or_else(Errno::last)?;
        self.control_epoll(libc::EPOLL_CTL_ADD, eventfd.as_raw_fd(), NOBODY)?;
        Ok(eventfd)
    }

    /// Makes the descriptor readable, if the program has asked for it.
    #[inline]
    pub(super) fn ring(&self) {
        if let Some(eventfd) = self.bell.eventfd.get() {
            self.ring_by(eventfd);
        }
    }

    #[cold]
    fn ring_by(&self, eventfd: &OwnedFd) {
        // In the child of a fork it would be the parent's that rings.
        if self.process.is_current() && !self.bell.rung.swap(true, Ordering::Relaxed) {
            let one = 1u64;
            // SAFETY: reads eight bytes. By syscall(2), because write(2) is a cancellation point. It
            // cannot fail before the count is full, after 2^64 calls.
            unsafe {
                libc::syscall(
                    libc::SYS_write,
                    eventfd.as_raw_fd(),
                    &raw const one,
                    size_of::<u64>(),
                )
            };
        }
    }

    /// Takes the edges, and rings if there is something to do: at the end of each turn.
    #[inline]
    pub(super) fn settle_descriptor(&self) {
        if self.bell.eventfd.get().is_some() && self.process.is_current() {
            self.take_edges(0);
            if self.has_scheduled() || self.has_ready() {
                self.ring();
            }
        }
    }
}
