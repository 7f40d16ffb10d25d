// SPDX-License-Identifier: MIT OR Apache-2.0

//! Descriptors that a loop watches for states.

use std::ffi::{c_int, c_void};
use std::os::fd::RawFd;
use std::ptr;

use laio_engine::depth;
use laio_engine::errno::Errno;
use laio_engine::host::{AioContext, LinuxAioState, NotifierHandlers};

use super::{Loop, epoll_of};

/// A descriptor that is watched for the state at `opaque`.
#[derive(Clone, Copy)]
pub struct Notifier {
    fd: RawFd,
    handlers: NotifierHandlers,
    opaque: *mut c_void,
}

impl Loop {
    /// Calls the handlers of what is ready. Whether that was progress.
    pub(super) fn run_notifiers(&self) -> bool {
        let mut ran = false;
        let mut index = 0;
        // As for bottom halves: without a borrow across the call.
        while let Some(notifier) = self.notifier(index) {
            // SAFETY: given together by the engine, and still watched.
            if unsafe { (notifier.handlers.poll)(notifier.opaque) } {
                let told = depth::told();
                // SAFETY: as above.
                unsafe { (notifier.handlers.poll_ready)(notifier.opaque) };
                ran |= !notifier.handlers.is_timer || depth::told() != told;
            }
            index += 1;
        }
        ran
    }

    /// Whether any of the descriptors will become readable some time.
    pub(super) fn expects_any(&self) -> bool {
        // SAFETY: given together by the engine, and still watched. It only looks.
        let expected = |of: &Notifier| unsafe { (of.handlers.expected)(of.opaque) };
        self.notifiers.borrow().iter().any(expected)
    }

    /// Whether any of them would be served now.
    pub(super) fn has_ready(&self) -> bool {
        // SAFETY: as in `expects_any`.
        let ready = |of: &Notifier| unsafe { (of.handlers.poll)(of.opaque) };
        self.notifiers.borrow().iter().any(ready)
    }

    fn notifier(&self, index: usize) -> Option<Notifier> {
        self.notifiers.borrow().get(index).copied()
    }

    pub(super) fn control_epoll(&self, operation: c_int, fd: RawFd) -> Result<(), Errno> {
        if !self.process.is_current() {
            return Ok(()); // The set is the parent's.
        }
        let events = (libc::EPOLLIN | libc::EPOLLET) as u32;
        let mut event = libc::epoll_event { events, u64: 0 };
        // SAFETY: reads one event.
        match unsafe { libc::epoll_ctl(epoll_of(self), operation, fd, &mut event) } {
            0 => Ok(()),
            _ => Err(Errno::last()),
        }
    }
}

/// Watches `fd`; no handlers ends that, which cannot fail.
pub fn watch(
    context: *mut AioContext,
    fd: RawFd,
    handlers: Option<NotifierHandlers>,
    opaque: *mut c_void,
) -> Result<(), Errno> {
    // SAFETY: from `new`, by the contract of laio_attach_aio_context().
    let Some(watching) = (unsafe { Loop::from_context(context) }) else {
        return Err(Errno(libc::EINVAL));
    };
    match handlers {
        Some(handlers) => {
            watching.control_epoll(libc::EPOLL_CTL_ADD, fd)?;
            watching.notifiers.borrow_mut().push(Notifier { fd, handlers, opaque });
        }
        None => {
            watching.notifiers.borrow_mut().retain(|notifier| notifier.fd != fd);
            // What is not in the set need not be taken out.
            let _ = watching.control_epoll(libc::EPOLL_CTL_DEL, fd);
        }
    }
    Ok(())
}

/// The state that was attached to `context` first.
///
/// # Safety
///
/// `context` is null or a loop.
pub unsafe extern "C" fn first_state(context: *mut AioContext) -> *mut LinuxAioState {
    // SAFETY: the caller's promise.
    let first = unsafe { Loop::from_context(context) }.and_then(|of| of.notifier(0));
    first.map_or(ptr::null_mut(), |notifier| notifier.opaque.cast())
}
