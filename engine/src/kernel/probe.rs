// SPDX-License-Identifier: MIT OR Apache-2.0

//! What this kernel's asynchronous I/O can do, found by asking it.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};

use once_cell::race::OnceBool;

use super::aio::Context;
use super::uring::Uring;
use super::{Entry, Interface, LaioKernel, Opcode, is_regular, status};
use crate::errno::Errno;
use crate::wait::Uncancelled;

/// The answers, once there are any. Nobody waits for who asks: two threads may both, and the child of
/// a fork does not hang on a thread that it does not have.
static HAS_FDSYNC: OnceBool = OnceBool::new();
static HAS_FUA: OnceBool = OnceBool::new();

/// How often a kernel is asked that has no room for a question.
const ATTEMPTS: usize = 16;

/// The kernel could not be asked, or did not say. It may the next time.
#[derive(PartialEq, Eq, Debug)]
struct NoAnswer;

/// Whether `fd` can be flushed by [`Opcode::DataSync`] (Linux 4.18). The kernel answers EINVAL where
/// it cannot: for what cannot be flushed at all, which fdatasync(2) tells as well and without the way
/// through a queue. `asked` is the interface to ask with; both answer alike.
pub fn has_fdsync(asked: LaioKernel, fd: RawFd) -> bool {
    let _uncancelled = Uncancelled::enter();
    HAS_FDSYNC.get_or_try_init(|| ask_fdsync(&Oracle::new(asked)?)).unwrap_or(false)
        && can_be_flushed(fd)
}

/// A real flush, and so only where the answer is not known: every block device can, and on one file
/// system all regular files are alike.
fn can_be_flushed(fd: RawFd) -> bool {
    /// The number of the file system that was asked last and could, plus one.
    static FLUSHED: AtomicU64 = AtomicU64::new(0);
    let stat = status(fd);
    let file_system = stat.filter(is_regular).map(|stat| stat.st_dev.wrapping_add(1));
    let is_device = stat.is_some_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFBLK);
    if is_device || file_system == Some(FLUSHED.load(Ordering::Relaxed)) {
        return true;
    }
    // SAFETY: fdatasync(2) takes no pointer.
    let flushed = unsafe { libc::syscall(libc::SYS_fdatasync, fd) } == 0;
    if let Some(file_system) = file_system.filter(|_| flushed) {
        FLUSHED.store(file_system, Ordering::Relaxed);
    }
    flushed || Errno::last() != Errno(libc::EINVAL)
}

/// Whether a write can carry RWF_DSYNC (Linux 4.13).
///
/// Asked once, of an empty write to an anonymous file. While that cannot even be asked (no
/// interface or descriptor to be had) the answer is no, which costs the host a flush and never data.
pub fn has_fua(asked: LaioKernel) -> bool {
    let _uncancelled = Uncancelled::enter();
    HAS_FUA.get_or_try_init(|| ask_fua(&Oracle::new(asked)?)).unwrap_or(false)
}

fn ask_fdsync(oracle: &Oracle) -> Result<bool, NoAnswer> {
    let file = anonymous_file()?;
    Ok(oracle.result_of(Entry::data_sync(file.as_raw_fd()))? >= 0)
}

fn ask_fua(oracle: &Oracle) -> Result<bool, NoAnswer> {
    let file = anonymous_file()?;
    let empty = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
    let write = Entry::transfer(Opcode::Write, file.as_raw_fd(), (&raw const empty, 1), 0);
    let write = write.with_flags(libc::RWF_DSYNC);
    Ok(oracle.result_of(write)? >= 0)
}

fn anonymous_file() -> Result<OwnedFd, NoAnswer> {
    // SAFETY: the name is a C string.
    let fd = unsafe { libc::memfd_create(c"laio".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(NoAnswer);
    }
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// An interface, without an eventfd.
enum Oracle {
    Aio(Context),
    Uring(Uring),
}

impl Oracle {
    /// As states get theirs.
    fn new(asked: LaioKernel) -> Result<Self, NoAnswer> {
        let aio = || Context::new().ok().map(Self::Aio);
        let uring = || Uring::without_eventfd(1).ok().map(Self::Uring);
        let made = match asked {
            LaioKernel::Auto => aio().or_else(uring),
            LaioKernel::LinuxAio => aio(),
            LaioKernel::IoUring => uring(),
        };
        made.ok_or(NoAnswer)
    }

    /// The result of `request`, or the negative errno that refused it.
    fn result_of(&self, request: Entry) -> Result<i64, NoAnswer> {
        let request = Box::into_raw(Box::new(request));
        // SAFETY: the entry is freed below, when it is not with the kernel; what it names (an empty
        // vector) the kernel reads before this returns.
        let result = match unsafe { self.offer(request) } {
            // Should waiting fail, the kernel may still have it, and it is left to it.
            Ok(true) => Ok(self.wait().ok_or(NoAnswer)?),
            Ok(false) => Err(NoAnswer),
            Err(errno) => Ok(i64::from(errno.negative())),
        };
        // SAFETY: complete, or never taken.
        drop(unsafe { Box::from_raw(request) });
        if let Self::Aio(context) = self {
            context.done(); // One request at a time, and this was it.
        }
        result
    }

    /// Whether the kernel took the request. That it has no room says nothing about the request.
    ///
    /// # Safety
    ///
    /// As [`Interface::submit`].
    unsafe fn offer(&self, request: *mut Entry) -> Result<bool, Errno> {
        for _ in 0..ATTEMPTS {
            // SAFETY: the caller's promise.
            match unsafe { self.submit(&[request]) } {
                Ok(0) | Err(Errno(libc::EAGAIN | libc::EINTR)) => std::thread::yield_now(),
                Ok(_) => return Ok(true),
                Err(errno) => return Err(errno),
            }
        }
        Ok(false)
    }

    /// # Safety
    ///
    /// As [`Interface::submit`].
    unsafe fn submit(&self, requests: &[*mut Entry]) -> Result<usize, Errno> {
        match self {
            // SAFETY: the caller's promise.
            Self::Aio(context) => unsafe { context.submit(requests) },
            // SAFETY: the caller's promise.
            Self::Uring(uring) => unsafe { uring.submit(requests) },
        }
    }

    fn wait(&self) -> Option<i64> {
        match self {
            Self::Aio(context) => Some(context.get_event(1)?.res),
            Self::Uring(uring) => Some(uring.wait().res),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    const ALL: [LaioKernel; 3] = [LaioKernel::Auto, LaioKernel::LinuxAio, LaioKernel::IoUring];

    #[test]
    fn this_kernel_has_fua() {
        // Every kernel since 4.13; the tests run on nothing older.
        for asked in ALL {
            assert!(has_fua(asked));
            // Known from then on, without asking.
            assert_eq!(HAS_FUA.get(), Some(true));
            let oracle = Oracle::new(asked).unwrap();
            assert_eq!(ask_fua(&oracle), Ok(true));
            assert_eq!(ask_fdsync(&oracle), Ok(true));
        }
    }

    #[test]
    fn a_file_can_be_flushed_and_a_socket_cannot() {
        let file = File::open(env!("CARGO_MANIFEST_DIR").to_owned() + "/Cargo.toml").unwrap();
        let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        for asked in ALL {
            assert!(has_fdsync(asked, file.as_raw_fd()));
            assert!(!has_fdsync(asked, socket.as_raw_fd()));
        }
    }
}
