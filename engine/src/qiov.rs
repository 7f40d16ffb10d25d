// SPDX-License-Identifier: MIT OR Apache-2.0

//! QEMU's types, as far as the library looks into them. The header declares them in QEMU's words,
//! unless it is told that QEMU's own headers did.

use std::ffi::{c_int, c_void};

use libc::iovec;

use crate::errno::Errno;
use crate::request::{Io, aio_type};

/// QEMU's I/O vector: `struct iovec *iov; int niov;` and then a union whose two parts put the total
/// `size` where `local_iov.iov_len` is.
#[repr(C)]
pub struct QEMUIOVector {
    /// The parts.
    pub iov: *mut iovec,
    /// How many.
    pub niov: c_int,
    /// What the union holds.
    pub rest: QEMUIOVectorRest,
}

/// The union of [`QEMUIOVector`], laid flat.
#[repr(C)]
pub struct QEMUIOVectorRest {
    /// QEMU's own affair.
    pub nalloc: c_int,
    /// `local_iov.iov_base`: QEMU's own affair.
    pub local_iov_base: *mut c_void,
    /// Sum of the parts' lengths, in bytes; also `local_iov.iov_len`.
    pub size: usize,
}

/// QEMU's flags of a request; an enum there.
pub type BdrvRequestFlags = u32;

/// Checks a request whose data is in a `QEMUIOVector`.
///
/// # Safety
///
/// `qiov` is null or points to a vector with `niov` parts.
#[inline]
pub unsafe fn io_of_qiov(
    fd: c_int,
    offset: u64,
    qiov: *const QEMUIOVector,
    kind: c_int,
    flags: BdrvRequestFlags,
) -> Result<Io, Errno> {
    if kind == aio_type::FLUSH {
        return Io::flush(fd); // It comes with no vector or an idle one.
    }
    // SAFETY: the caller's promise.
    let Some(qiov) = (unsafe { qiov.as_ref() }) else {
        return Err(Errno(libc::EINVAL));
    };
    // SAFETY: the caller's promise.
    let io = unsafe { Io::new(kind, flags, fd, offset, (qiov.iov, qiov.niov)) }?;
    if io.bytes() == qiov.rest.size { Ok(io) } else { Err(Errno(libc::EINVAL)) }
}
