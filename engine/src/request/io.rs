// SPDX-License-Identifier: MIT OR Apache-2.0

//! What was asked for, checked.

use std::ffi::c_int;
use std::os::fd::RawFd;

use libc::iovec;

use crate::errno::Errno;
use crate::kernel::{Entry, Opcode};

/// QEMU's numbers for the types of requests.
pub mod aio_type {
    use std::ffi::c_int;

    /// QEMU_AIO_READ.
    pub const READ: c_int = 0x1;
    /// QEMU_AIO_WRITE.
    pub const WRITE: c_int = 0x2;
    /// QEMU_AIO_FLUSH.
    pub const FLUSH: c_int = 0x8;
    /// QEMU_AIO_ZONE_APPEND.
    pub const ZONE_APPEND: c_int = 0x400;
}

/// QEMU's flag for a write that is on stable storage when it completes.
pub const REQ_FUA: u32 = 0x10;

/// By how much that flag has to move down to become the kernel's.
const FUA_TO_DSYNC: u32 = REQ_FUA.trailing_zeros() - libc::RWF_DSYNC.trailing_zeros();
const _: () = assert!(REQ_FUA >> FUA_TO_DSYNC == libc::RWF_DSYNC as u32);

/// What a request does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Fills the vector.
    Read,
    /// Writes the vector.
    Write,
    /// Makes what was written durable.
    Flush,
    /// A write whose place the device chooses, so that a second try would append twice.
    ZoneAppend,
}

/// What was asked for, checked, as the kernel's entry.
pub struct Io {
    /// But for what the kernel and the pinned request set. Its offset plus `bytes` does not overflow.
    pub(super) entry: Entry,
    pub(super) operation: Operation,
    /// The sum over the vector.
    pub(super) bytes: usize,
}

impl Io {
    /// Checks a request: EBADF for a negative descriptor, EINVAL for anything else that makes no
    /// sense.
    ///
    /// # Safety
    ///
    /// `iov` is null, or points to `iov_count` entries.
    #[inline]
    pub unsafe fn new(
        kind: c_int,
        flags: u32,
        fd: RawFd,
        offset: u64,
        (iov, iov_count): (*const iovec, c_int),
    ) -> Result<Self, Errno> {
        const EINVAL: Errno = Errno(libc::EINVAL);
        let (operation, opcode, known_flags) = match kind {
            aio_type::READ => (Operation::Read, Opcode::Read, 0),
            aio_type::WRITE => (Operation::Write, Opcode::Write, REQ_FUA),
            aio_type::ZONE_APPEND => (Operation::ZoneAppend, Opcode::Write, REQ_FUA),
            aio_type::FLUSH => return Self::flush(fd),
            _ => return Err(EINVAL),
        };
        if fd < 0 {
            return Err(Errno(libc::EBADF));
        }
        let count = usize::try_from(iov_count).map_err(|_| EINVAL)?;
        if iov.is_null() {
            return Err(EINVAL);
        }
        // SAFETY: the caller's promise.
        let parts = unsafe { std::slice::from_raw_parts(iov, count) };
        let bytes = total(parts).ok_or(EINVAL)?;
        let signed_bytes = i64::try_from(bytes).map_err(|_| EINVAL)?;
        let offset = i64::try_from(offset).map_err(|_| EINVAL)?;
        offset.checked_add(signed_bytes).ok_or(EINVAL)?;
        let entry = Entry::transfer(opcode, fd, (iov, count), offset)
            .with_flags(((flags & known_flags) >> FUA_TO_DSYNC) as c_int);
        Ok(Self { entry, operation, bytes })
    }

    /// As `new`, for a flush.
    pub fn flush(fd: RawFd) -> Result<Self, Errno> {
        if fd < 0 {
            return Err(Errno(libc::EBADF));
        }
        Ok(Self { entry: Entry::data_sync(fd), operation: Operation::Flush, bytes: 0 })
    }

    /// The bytes that this request transfers when nothing goes wrong.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// The sum of the lengths; `None` if it overflows or there is no part.
#[inline]
fn total(parts: &[iovec]) -> Option<usize> {
    // Most vectors have one part, and cost no loop.
    if let [only] = parts {
        return Some(only.iov_len);
    }
    let (first, rest) = parts.split_first()?;
    rest.iter().try_fold(first.iov_len, |sum, part| sum.checked_add(part.iov_len))
}
