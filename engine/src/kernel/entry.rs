// SPDX-License-Identifier: MIT OR Apache-2.0

//! One operation, as the engine queues it.

use std::ffi::c_int;
use std::os::fd::RawFd;

use libc::iovec;

use super::aio::sys::{IOCB_CMD_FDSYNC, IOCB_CMD_PREADV, IOCB_CMD_PWRITEV, IOCB_FLAG_RESFD, iocb};

/// What an [`Entry`] asks for. The numbers are those of Linux AIO.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub enum Opcode {
    /// Reads into a vector.
    Read = IOCB_CMD_PREADV as u16,
    /// Writes from a vector.
    Write = IOCB_CMD_PWRITEV as u16,
    /// Makes the file's data durable, as fdatasync(2).
    DataSync = IOCB_CMD_FDSYNC as u16,
}

/// One operation on a file, laid out as an iocb, so that Linux AIO takes a queue of them as it is.
///
/// Another kernel translates it. Numbers have the widths of the iocb's fields.
#[repr(transparent)]
pub struct Entry(iocb);

impl Entry {
    /// Moves the bytes of the parts of memory, so many at a place, from or to the file, beginning
    /// at `offset`.
    #[inline]
    pub fn transfer(
        opcode: Opcode,
        fd: RawFd,
        (parts, count): (*const iovec, usize),
        offset: i64,
    ) -> Self {
        Self(iocb {
            aio_lio_opcode: opcode as u16,
            aio_fildes: fd as u32,
            aio_buf: parts.expose_provenance() as u64,
            aio_nbytes: count as u64,
            aio_offset: offset,
            ..Default::default()
        })
    }

    /// The same with flags of preadv2(2). With RWF_DSYNC a write is on stable storage when it
    /// completes; no kernel here knows of another.
    #[inline]
    pub fn with_flags(mut self, rwf: c_int) -> Self {
        self.0.aio_rw_flags = rwf;
        self
    }

    /// Makes the data of the file durable.
    #[inline]
    pub fn data_sync(fd: RawFd) -> Self {
        Self::transfer(Opcode::DataSync, fd, (std::ptr::null(), 0), 0)
    }

    /// What it asks for.
    pub fn opcode(&self) -> Opcode {
        match u32::from(self.0.aio_lio_opcode) {
            IOCB_CMD_PREADV => Opcode::Read,
            IOCB_CMD_PWRITEV => Opcode::Write,
            // There is no other way to make one.
            _ => Opcode::DataSync,
        }
    }

    /// The file's descriptor.
    pub fn fd(&self) -> RawFd {
        self.0.aio_fildes as RawFd
    }

    /// Where in the file it begins, in bytes.
    pub fn offset(&self) -> i64 {
        self.0.aio_offset
    }

    /// The parts of the memory: their place and their number. Null and 0 for [`Opcode::DataSync`].
    pub fn vector(&self) -> (*const iovec, usize) {
        let parts = std::ptr::with_exposed_provenance(self.0.aio_buf as usize);
        (parts, self.0.aio_nbytes as usize)
    }

    /// Whether a write is on stable storage when it completes.
    pub fn is_durable(&self) -> bool {
        self.0.aio_rw_flags & libc::RWF_DSYNC != 0
    }

    /// The flags of preadv2(2).
    pub(super) fn flags(&self) -> c_int {
        self.0.aio_rw_flags
    }

    /// Which thread submitted it, where a kernel notes that. The field is the kernel's own in Linux
    /// AIO, which writes a number there.
    pub(super) fn submitter(&self) -> u32 {
        self.0.aio_key
    }

    /// Notes which thread submits it.
    #[inline]
    pub(super) fn set_submitter(&mut self, thread: u32) {
        self.0.aio_key = thread;
    }

    /// Asks for another part of the same transfer.
    pub fn set_range(&mut self, parts: *const iovec, count: usize, offset: i64) {
        self.0.aio_buf = parts.expose_provenance() as u64;
        self.0.aio_nbytes = count as u64;
        self.0.aio_offset = offset;
    }

    /// The number that comes back with its completion.
    pub fn token(&self) -> u64 {
        self.0.aio_data
    }

    /// Sets the number that comes back with its completion.
    #[inline]
    pub fn set_token(&mut self, token: u64) {
        self.0.aio_data = token;
    }

    /// The eventfd that its completion signals by itself, where a kernel wants that in each
    /// operation.
    pub fn eventfd(&self) -> Option<RawFd> {
        (self.0.aio_flags & IOCB_FLAG_RESFD != 0).then_some(self.0.aio_resfd as RawFd)
    }

    /// Lets its completion signal `eventfd`.
    #[inline]
    pub fn set_eventfd(&mut self, eventfd: RawFd) {
        self.0.aio_flags = IOCB_FLAG_RESFD;
        self.0.aio_resfd = eventfd as u32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_an_iocb() {
        assert_eq!(size_of::<Entry>(), size_of::<iocb>());
        assert_eq!(align_of::<Entry>(), align_of::<iocb>());
    }

    #[test]
    fn an_entry_tells_what_it_was_made_of() {
        let part = iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        let vector = (&raw const part, 1);
        let mut entry = Entry::transfer(Opcode::Write, 3, vector, 4096).with_flags(libc::RWF_DSYNC);
        assert_eq!((entry.opcode(), entry.fd(), entry.offset()), (Opcode::Write, 3, 4096));
        assert_eq!(entry.vector(), vector);
        let read = Entry::transfer(Opcode::Read, 3, vector, 0);
        assert!(entry.is_durable() && !read.is_durable());
        assert_eq!(read.opcode(), Opcode::Read);
        assert_eq!(Entry::data_sync(3).opcode(), Opcode::DataSync);
        assert_eq!(entry.eventfd(), None);
        entry.set_eventfd(9);
        entry.set_token(7);
        assert_eq!((entry.eventfd(), entry.token()), (Some(9), 7));
    }
}
