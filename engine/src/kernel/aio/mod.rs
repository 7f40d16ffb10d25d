// SPDX-License-Identifier: MIT OR Apache-2.0

//! Linux AIO: io_setup(2), io_submit(2), io_destroy(2), and the mapped ring.

mod ring;
mod spare;
#[allow(missing_docs, non_camel_case_types, clippy::all, clippy::undocumented_unsafe_blocks)]
pub mod sys;

#[cfg(target_endian = "big")]
compile_error!("sys.rs was generated for little-endian targets: generate it for this one");

use std::cell::Cell;
use std::ffi::c_long;
use std::ptr;

use ring::Ring;
use sys::{aio_context_t, io_event};

use super::{Completion, Entry, Interface, SetupError, WithEventfd};
use crate::errno::Errno;
use crate::process::Process;

/// Requests that one context can have in flight: the size of its completion ring, as in QEMU.
const CAPACITY: usize = 1024;

fn no_context(errno: Errno) -> SetupError {
    let what = match errno.0 {
        libc::EAGAIN => c"no AIO context left; see the sysctl fs.aio-max-nr",
        _ => c"cannot set up an AIO context",
    };
    SetupError::new(errno, what)
}

/// A context of io_setup(2) for as many requests as a state may have in flight.
///
/// On drop it is destroyed, which waits for whatever is still in flight; or it is kept for the next,
/// if its user was done with it.
pub(super) struct Context {
    id: aio_context_t,
    /// The process that has it. The child of a fork has not, but it shares the mapped ring.
    process: Process,
    is_done: Cell<bool>,
}

impl Context {
    pub(super) fn new() -> Result<Self, Errno> {
        let id = spare::take().map_or_else(set_up, Ok)?;
        Ok(Self { id, process: Process::current(), is_done: Cell::new(false) })
    }

    /// Nothing is in flight, and nothing will be.
    pub(super) fn done(&self) {
        self.is_done.set(true);
    }

    /// # Safety
    ///
    /// As [`Interface::submit`].
    pub(super) unsafe fn submit(&self, entries: &[*mut Entry]) -> Result<usize, Errno> {
        let (count, iocbs) = (entries.len(), entries.as_ptr());
        // SAFETY: io_submit(2) reads `count` pointers to iocbs, which entries are; that they stay
        // is the caller's promise.
        check(unsafe { libc::syscall(libc::SYS_io_submit, self.id, count, iocbs) })
    }

    /// Takes up to one event by system call; waits for it when `min` is 1.
    pub(super) fn get_event(&self, min: c_long) -> Option<Completion> {
        let mut event = io_event::default();
        let zero = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let timeout = if min == 0 { &raw const zero } else { ptr::null() };
        loop {
            // SAFETY: io_getevents(2) writes at most one event to a place that holds one.
            let taken = check(unsafe {
                libc::syscall(libc::SYS_io_getevents, self.id, min, 1, &mut event, timeout)
            });
            match taken {
                Ok(taken) => return (taken > 0).then(|| Completion::from(&event)),
                Err(Errno(libc::EINTR)) => continue,
                Err(_) => return None,
            }
        }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        if !self.process.is_current() {
            return; // The parent's, whatever the child has of that number.
        }
        // SAFETY: the context is ours and is not used again here.
        if !(self.is_done.get() && unsafe { spare::keep(self.id) }) {
            // SAFETY: nor by anybody else.
            unsafe { libc::syscall(libc::SYS_io_destroy, self.id) };
        }
    }
}

fn set_up() -> Result<aio_context_t, Errno> {
    let mut id: aio_context_t = 0;
    // SAFETY: io_setup(2) writes one context to a place that holds one.
    check(unsafe { libc::syscall(libc::SYS_io_setup, CAPACITY, &mut id) })?;
    Ok(id)
}

fn check(result: c_long) -> Result<usize, Errno> {
    usize::try_from(result).map_err(|_| Errno::last())
}

impl From<&io_event> for Completion {
    fn from(event: &io_event) -> Self {
        Self { token: event.data, res: event.res }
    }
}

/// How completions leave the kernel.
pub(super) enum Completions {
    /// From the mapped ring, without a system call.
    Mapped(Ring),
    /// By io_getevents(2), where the ring is not of a known kind. An event that was only looked
    /// for waits here.
    SystemCall(Cell<Option<Completion>>),
}

/// A context, and the way to reap from it.
pub struct Aio {
    // Before the context: the ring is gone once the context is destroyed.
    pub(super) completions: Completions,
    context: Context,
}

impl Aio {
    /// Sets up a context of 1024 requests.
    pub(super) fn new() -> Result<Self, SetupError> {
        let mut aio = Self::with_getevents()?;
        // SAFETY: the context comes from io_setup(2) and is dropped after the ring.
        if let Some(ring) = unsafe { Ring::of(aio.context.id) } {
            aio.completions = Completions::Mapped(ring);
        }
        Ok(aio)
    }

    fn with_getevents() -> Result<Self, SetupError> {
        let context = Context::new().map_err(no_context)?;
        let completions = Completions::SystemCall(Cell::new(None));
        Ok(Self { completions, context })
    }

    #[cold]
    fn reap_by_system_call(&self, seen: &Cell<Option<Completion>>) -> Option<Completion> {
        seen.take().or_else(|| self.context.get_event(0))
    }
}

/// Linux AIO as a kernel.
pub type LinuxAio = WithEventfd<Aio>;

impl LinuxAio {
    /// Sets up a context of 1024 requests and its eventfd.
    pub fn new() -> Result<Self, SetupError> {
        Self::set_up(|_| Aio::new())
    }

    /// The same, with completions taken by io_getevents(2) alone. [`new`](Self::new) falls back to
    /// this where the mapped ring is not of a known kind.
    pub fn with_getevents() -> Result<Self, SetupError> {
        Self::set_up(|_| Aio::with_getevents())
    }
}

/// Each entry names the eventfd.
impl Interface for Aio {
    fn capacity(&self) -> usize {
        CAPACITY
    }

    #[inline]
    unsafe fn submit(&self, entries: &[*mut Entry]) -> Result<usize, Errno> {
        // SAFETY: the caller's promise.
        unsafe { self.context.submit(entries) }
    }

    #[inline]
    fn reap(&self) -> Option<Completion> {
        match &self.completions {
            Completions::Mapped(ring) => ring.take(),
            Completions::SystemCall(seen) => {
                // Taken apart: the common way keeps it in registers then.
                let Completion { token, res } = self.reap_by_system_call(seen)?;
                Some(Completion { token, res })
            }
        }
    }

    fn done(&self) {
        self.context.done();
    }

    fn has_completions(&self) -> bool {
        match &self.completions {
            Completions::Mapped(ring) => ring.has_events(),
            Completions::SystemCall(seen) => {
                seen.set(self.reap_by_system_call(seen));
                // `Cell<Option<_>>` shows its content only by giving it away.
                let event = seen.take();
                seen.set(event);
                event.is_some()
            }
        }
    }

    /// What Linux AIO tells, it tells of the request, as QEMU's own engine takes it.
    #[inline]
    fn is_transient(&self, _res: i64) -> bool {
        false
    }
}
