// SPDX-License-Identifier: MIT OR Apache-2.0

//! Which interface of the kernel it is, chosen once for each state.

use std::borrow::Cow;
use std::ffi::{CString, OsStr, OsString, c_uint};
use std::os::fd::RawFd;

use super::aio::{Aio, Completions};
use super::uring::Uring;
use super::{Completion, Entry, Interface, SetupError, WithEventfd};
use crate::errno::Errno;
use crate::trace;

/// An interface of the kernel for asynchronous I/O.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LaioKernel {
    /// What the environment's LAIO_KERNEL says ("auto", "linux-aio" or "io_uring"); without it
    /// Linux AIO, and io_uring where no AIO context is left or io_setup(2) is denied.
    Auto,
    /// io_submit(2).
    LinuxAio,
    /// io_uring_enter(2).
    IoUring,
}

impl LaioKernel {
    /// The one of this number in C.
    pub fn of_number(number: c_uint) -> Option<Self> {
        [Self::Auto, Self::LinuxAio, Self::IoUring].into_iter().find(|&one| one as c_uint == number)
    }

    /// What the environment says, which decides for [`Auto`](Self::Auto). An error is its value,
    /// if that makes no sense.
    pub fn of_environment() -> Result<Self, OsString> {
        let value = std::env::var_os("LAIO_KERNEL").unwrap_or_default();
        Self::of_name(&value).ok_or(value)
    }

    fn of_name(name: &OsStr) -> Option<Self> {
        match name.to_str()? {
            "" | "auto" => Some(Self::Auto),
            "linux-aio" => Some(Self::LinuxAio),
            "io_uring" => Some(Self::IoUring),
            _ => None,
        }
    }
}

/// One of the two.
pub enum Either {
    /// Linux AIO.
    LinuxAio(Aio),
    /// io_uring. In a box: it takes no more place than the other then, and the tag of this becomes
    /// one with that of how Linux AIO is reaped, so that Linux AIO does not pay for the choice.
    IoUring(Box<Uring>),
}

/// The kernel of the shipped library.
pub type Chosen = WithEventfd<Either>;

impl Chosen {
    /// Sets up what is `asked` for. [`Auto`](LaioKernel::Auto) is Linux AIO, or else io_uring: the
    /// environment is not looked at.
    pub fn new(asked: LaioKernel) -> Result<Self, SetupError> {
        Self::set_up(|eventfd| match asked {
            LaioKernel::Auto => Either::first_there_is(eventfd),
            LaioKernel::LinuxAio => Either::linux_aio(),
            LaioKernel::IoUring => Either::io_uring(eventfd),
        })
    }

    /// Which one it became.
    pub fn which(&self) -> LaioKernel {
        match self.interface {
            Either::LinuxAio(_) => LaioKernel::LinuxAio,
            Either::IoUring(_) => LaioKernel::IoUring,
        }
    }
}

impl Either {
    /// The rest of [`reap`](Interface::reap): the one way, which is the common one, is told from the
    /// two others at once.
    #[inline(never)]
    fn reap_otherwise(&self) -> Option<Completion> {
        match self {
            Self::LinuxAio(aio) => aio.reap(),
            Self::IoUring(uring) => uring.reap(),
        }
    }

    fn linux_aio() -> Result<Self, SetupError> {
        Aio::new().map(Self::LinuxAio)
    }

    fn io_uring(eventfd: RawFd) -> Result<Self, SetupError> {
        Ok(Self::IoUring(Box::new(Uring::new(eventfd)?)))
    }

    /// io_uring is not so much as tried where there is Linux AIO: a seccomp filter may end the
    /// process for it.
    fn first_there_is(eventfd: RawFd) -> Result<Self, SetupError> {
        Self::linux_aio().or_else(|no_aio| {
            trace::fallback(no_aio.errno);
            Self::io_uring(eventfd).map_err(|no_uring| neither(no_aio, no_uring))
        })
    }
}

/// One error that names both reasons.
fn neither(no_aio: SetupError, no_uring: SetupError) -> SetupError {
    let (aio, uring) = (no_aio.what.to_string_lossy(), no_uring.what.to_string_lossy());
    let both = format!("{uring} ({:?}), and {aio}", no_uring.errno);
    // Made of C strings and an errno's text, so there is no NUL in it.
    let what = CString::new(both).map_or(no_aio.what, Cow::Owned);
    SetupError { errno: no_aio.errno, what }
}

impl Interface for Either {
    fn capacity(&self) -> usize {
        match self {
            Self::LinuxAio(aio) => aio.capacity(),
            Self::IoUring(uring) => uring.capacity(),
        }
    }

    #[inline]
    unsafe fn submit(&self, entries: &[*mut Entry]) -> Result<usize, Errno> {
        match self {
            // SAFETY: the caller's promise.
            Self::LinuxAio(aio) => unsafe { aio.submit(entries) },
            // SAFETY: the caller's promise.
            Self::IoUring(uring) => unsafe { uring.submit(entries) },
        }
    }

    #[inline]
    fn reap(&self) -> Option<Completion> {
        match self {
            Self::LinuxAio(Aio { completions: Completions::Mapped(ring), .. }) => ring.take(),
            _ => {
                // Taken apart: the way above keeps to registers then.
                let Completion { token, res } = self.reap_otherwise()?;
                Some(Completion { token, res })
            }
        }
    }

    fn done(&self) {
        match self {
            Self::LinuxAio(aio) => aio.done(),
            Self::IoUring(uring) => uring.done(),
        }
    }

    fn has_completions(&self) -> bool {
        match self {
            Self::LinuxAio(aio) => aio.has_completions(),
            Self::IoUring(uring) => uring.has_completions(),
        }
    }

    #[inline]
    fn is_transient(&self, res: i64) -> bool {
        match self {
            Self::LinuxAio(aio) => aio.is_transient(res),
            Self::IoUring(uring) => uring.is_transient(res),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_choice_has_no_tag_of_its_own() {
        assert_eq!(size_of::<Either>(), size_of::<Aio>());
    }

    #[test]
    fn a_kernel_is_known_by_its_number_and_by_its_name() {
        for kernel in [LaioKernel::Auto, LaioKernel::LinuxAio, LaioKernel::IoUring] {
            assert_eq!(LaioKernel::of_number(kernel as c_uint), Some(kernel));
        }
        assert_eq!(LaioKernel::of_number(3), None);
        for (name, kernel) in [
            ("", LaioKernel::Auto),
            ("auto", LaioKernel::Auto),
            ("linux-aio", LaioKernel::LinuxAio),
            ("io_uring", LaioKernel::IoUring),
        ] {
            assert_eq!(LaioKernel::of_name(OsStr::new(name)), Some(kernel));
        }
        assert_eq!(LaioKernel::of_name(OsStr::new("io-uring")), None);
    }

    #[test]
    fn the_error_of_neither_names_both_reasons() {
        let error = neither(
            SetupError::new(Errno(libc::EAGAIN), c"no AIO context left"),
            SetupError::new(Errno(libc::EPERM), c"io_uring is denied"),
        );
        assert_eq!(error.errno, Errno(libc::EAGAIN));
        let text = error.what.to_str().unwrap();
        assert!(text.starts_with("io_uring is denied (Operation not permitted"), "{text}");
        assert!(text.ends_with("), and no AIO context left"), "{text}");
    }
}
