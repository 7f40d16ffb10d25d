// SPDX-License-Identifier: MIT OR Apache-2.0

//! A timer that an event loop can watch, made when it is first needed.

use std::cell::{Cell, OnceCell};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::time::{Duration, Instant};

use crate::errno::Errno;

/// A timerfd, and when it is due.
#[derive(Default)]
pub struct Timer {
    fd: OnceCell<OwnedFd>,
    due: Cell<Option<Instant>>,
}

impl Timer {
    /// Lets the descriptor, which is returned, become readable after `delay`.
    pub fn arm(&self, delay: Duration) -> Result<RawFd, Errno> {
        let fd = self.descriptor()?;
        // Of a time before the timer runs: whoever is woken by it must find it due. An event loop
        // that listens for edges is not woken again.
        let due = Instant::now() + delay;
        set(fd, delay)?;
        self.due.set(Some(due));
        Ok(fd)
    }

    /// Whether it was armed and the delay is over.
    pub fn is_due(&self) -> bool {
        self.due.get().is_some_and(|due| Instant::now() >= due)
    }

    /// Makes the descriptor unreadable until it is armed again.
    pub fn clear(&self) {
        self.due.set(None);
        if let Some(fd) = self.fd.get() {
            // It can fail for no argument that is given here; then it fires once for nothing.
            let _ = set(fd.as_raw_fd(), Duration::ZERO);
        }
    }

    fn descriptor(&self) -> Result<RawFd, Errno> {
        if self.fd.get().is_none() {
            let flags = libc::TFD_CLOEXEC | libc::TFD_NONBLOCK;
            // SAFETY: timerfd_create(2) takes no pointer.
            let fd = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, flags) };
            if fd < 0 {
                return Err(Errno::last());
            }
            // SAFETY: the descriptor is new and nobody else's.
            let _ = self.fd.set(unsafe { OwnedFd::from_raw_fd(fd) });
        }
        Ok(self.fd.get().map_or(-1, |fd| fd.as_raw_fd()))
    }
}

/// Sets the timer behind `fd`, which clears it as well; zero disarms it.
fn set(fd: RawFd, delay: Duration) -> Result<(), Errno> {
    let never = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let then = libc::timespec {
        tv_sec: delay.as_secs() as libc::time_t,
        tv_nsec: delay.subsec_nanos().into(),
    };
    let spec = libc::itimerspec { it_interval: never, it_value: then };
    // SAFETY: reads one specification.
    match unsafe { libc::timerfd_settime(fd, 0, &spec, ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(Errno::last()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_becomes_readable_when_it_is_due_and_not_after_it_was_cleared() {
        let readable = |fd: RawFd, milliseconds: i32| {
            let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
            // SAFETY: one descriptor, one entry.
            unsafe { libc::poll(&mut poll, 1, milliseconds) == 1 }
        };
        let timer = Timer::default();
        assert!(!timer.is_due());
        let fd = timer.arm(Duration::from_micros(100)).unwrap();
        assert!(readable(fd, 10_000));
        assert!(timer.is_due());
        timer.clear();
        assert!(!timer.is_due() && !readable(fd, 0));
        assert_eq!(timer.arm(Duration::from_secs(3600)), Ok(fd));
        assert!(!timer.is_due() && !readable(fd, 0));
    }

    /// A thread that was preempted between the two believed the timer not due yet when it was woken by
    /// it, slept again, and was woken no more.
    #[test]
    fn it_is_due_when_it_becomes_readable_and_not_later() {
        let timer = Timer::default();
        for _ in 0..1000 {
            let fd = timer.arm(Duration::from_secs(3600)).unwrap();
            // SAFETY: an all-zero specification is a valid value.
            let mut left: libc::itimerspec = unsafe { std::mem::zeroed() };
            // SAFETY: writes one specification.
            assert_eq!(unsafe { libc::timerfd_gettime(fd, &mut left) }, 0);
            let (seconds, nanoseconds) =
                (left.it_value.tv_sec as u64, left.it_value.tv_nsec as u32);
            let readable = Instant::now() + Duration::new(seconds, nanoseconds);
            assert!(timer.due.get().unwrap() <= readable);
        }
    }
}
