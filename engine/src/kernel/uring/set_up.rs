// SPDX-License-Identifier: MIT OR Apache-2.0

//! io_uring_setup(2), its mappings, and why it may be refused.

use std::ffi::{CStr, c_long};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::{self, NonNull};

use super::sys::*;
use crate::errno::Errno;
use crate::kernel::SetupError;

/// The smallest ring that is tried: a smaller one takes as many pages.
const SMALLEST: u32 = 32;

const KNOWN: u32 = IORING_FEAT_SINGLE_MMAP | IORING_FEAT_NODROP;

pub fn check(result: c_long) -> Result<usize, Errno> {
    usize::try_from(result).map_err(|_| Errno::last())
}

/// Memory that is shared with the kernel.
pub struct Mapping {
    start: NonNull<u8>,
    size: usize,
}

impl Mapping {
    fn new(ring: &OwnedFd, size: usize, offset: i64) -> Result<Self, Errno> {
        let (protection, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_POPULATE);
        // SAFETY: a new mapping, at a place of the kernel's choice.
        let start = unsafe {
            libc::mmap(ptr::null_mut(), size, protection, flags, ring.as_raw_fd(), offset)
        };
        if start == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        let start = NonNull::new(start.cast()).ok_or(Errno(libc::EINVAL))?;
        Ok(Self { start, size })
    }

    /// What lies `offset` bytes in, `count` values of `T`. The offset is the kernel's word.
    pub fn at<T>(&self, offset: u32, count: u32) -> NonNull<T> {
        let end = offset as usize + count as usize * size_of::<T>();
        assert!(end <= self.size, "the kernel's ring is not where it says");
        // SAFETY: within the mapping, as asserted.
        unsafe { self.start.byte_add(offset as usize) }.cast()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: our own mapping, of which no reference is left. In a child of a fork it is the
        // child's own.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.size) };
    }
}

/// A ring as the kernel made it.
pub struct SetUp {
    pub fd: OwnedFd,
    pub params: io_uring_params,
    /// Both queues.
    pub rings: Mapping,
    /// The submission queue's entries.
    pub sqes: Mapping,
}

impl SetUp {
    /// A ring for up to `entries` requests: fewer where RLIMIT_MEMLOCK leaves no room for more.
    pub fn new(mut entries: u32) -> Result<Self, SetupError> {
        loop {
            match Self::of_size(entries) {
                Err(SetupError { errno: Errno(libc::ENOMEM), .. }) if entries > SMALLEST => {
                    entries /= 2;
                }
                answer => return answer,
            }
        }
    }

    fn of_size(entries: u32) -> Result<Self, SetupError> {
        let mut params = io_uring_params::default();
        // No flags. IORING_SETUP_SINGLE_ISSUER refuses a thread other than the first, and a state
        // may be made on one and used on another; with DEFER_TASKRUN or COOP_TASKRUN the eventfd is
        // signalled before the completion is in the ring.
        // SAFETY: io_uring_setup(2) reads and writes one `io_uring_params`.
        let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, entries, &raw mut params) };
        let fd = check(fd).map_err(refused)?;
        // SAFETY: the descriptor is new and nobody else's. It closes on exec by itself.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
        if params.features & KNOWN != KNOWN {
            let what = c"the io_uring of this kernel is too old (Linux 5.5 has what it takes)";
            return Err(SetupError::new(Errno(libc::ENOSYS), what));
        }
        let rings = Mapping::new(&fd, size_of_rings(&params), IORING_OFF_SQ_RING);
        let rings = rings.map_err(unmapped)?;
        let size = params.sq_entries as usize * size_of::<io_uring_sqe>();
        let sqes = Mapping::new(&fd, size, IORING_OFF_SQES).map_err(unmapped)?;
        Ok(Self { fd, params, rings, sqes })
    }
}

/// Lets each completion in `ring` signal `eventfd`.
///
/// Each one: with IORING_REGISTER_EVENTFD_ASYNC those of O_DIRECT did not.
pub fn register(ring: &OwnedFd, eventfd: RawFd) -> Result<(), SetupError> {
    let (call, ring) = (libc::SYS_io_uring_register, ring.as_raw_fd());
    // SAFETY: reads one descriptor.
    let answer =
        unsafe { libc::syscall(call, ring, IORING_REGISTER_EVENTFD, &raw const eventfd, 1) };
    match check(answer) {
        Ok(_) => Ok(()),
        Err(errno) => Err(SetupError::new(errno, c"cannot let io_uring signal an eventfd")),
    }
}

fn size_of_rings(params: &io_uring_params) -> usize {
    let (sq, cq) = (&params.sq_off, &params.cq_off);
    let sq_end = sq.array as usize + params.sq_entries as usize * size_of::<u32>();
    let cq_end = cq.cqes as usize + params.cq_entries as usize * size_of::<io_uring_cqe>();
    sq_end.max(cq_end)
}

fn unmapped(errno: Errno) -> SetupError {
    SetupError::new(errno, c"cannot map the ring of io_uring")
}

fn refused(errno: Errno) -> SetupError {
    let what: &CStr = match errno.0 {
        libc::ENOMEM => c"no memory for a ring of io_uring; see RLIMIT_MEMLOCK (ulimit -l)",
        libc::EPERM => {
            c"io_uring is denied by a seccomp filter or by the sysctl kernel.io_uring_disabled"
        }
        libc::ENOSYS => c"this kernel has no io_uring, or a seccomp filter denies it",
        _ => c"cannot set up io_uring",
    };
    SetupError::new(errno, what)
}
