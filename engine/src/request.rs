// SPDX-License-Identifier: MIT OR Apache-2.0

//! One request: what was asked, the iocb that the kernel sees, and what a result means.

use std::cell::{Cell, UnsafeCell};
use std::ffi::{c_int, c_void};
use std::os::fd::RawFd;

use libc::iovec;

use crate::errno::Errno;
use crate::host::Coroutine;
use crate::kernel::iocb;
use crate::kernel::sys::{IOCB_CMD_FDSYNC, IOCB_CMD_PREADV, IOCB_CMD_PWRITEV, IOCB_FLAG_RESFD};

/// QEMU's numbers for the types of requests.
pub mod aio_type {
    use std::ffi::c_int;

    pub const READ: c_int = 0x1;
    pub const WRITE: c_int = 0x2;
    pub const FLUSH: c_int = 0x8;
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
    Read,
    Write,
    Flush,
    /// A write whose place the device chooses, so that a second try would append twice.
    ZoneAppend,
}

/// What was asked for, checked, in the kernel's words.
pub struct Io {
    /// But for `aio_data` and `aio_resfd`. `aio_offset` plus the bytes does not overflow.
    iocb: iocb,
    operation: Operation,
    /// The sum over the vector.
    bytes: usize,
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
        vector: (*const iovec, c_int),
    ) -> Result<Self, Errno> {
        if kind == aio_type::FLUSH {
            return Self::flush(fd);
        }
        const EINVAL: Errno = Errno(libc::EINVAL);
        let (operation, opcode, known_flags) = match kind {
            aio_type::READ => (Operation::Read, IOCB_CMD_PREADV, 0),
            aio_type::WRITE => (Operation::Write, IOCB_CMD_PWRITEV, REQ_FUA),
            aio_type::ZONE_APPEND => (Operation::ZoneAppend, IOCB_CMD_PWRITEV, REQ_FUA),
            _ => return Err(EINVAL),
        };
        let mut iocb = Self::iocb_for(fd, opcode)?;
        let (iov, iov_count) = vector;
        if iov.is_null() || iov_count < 1 {
            return Err(EINVAL);
        }
        // SAFETY: the caller's promise.
        let parts = unsafe { std::slice::from_raw_parts(iov, iov_count as usize) };
        // The first part apart: most vectors have no other, and it costs no loop.
        let (first, rest) = parts.split_first().ok_or(EINVAL)?;
        let sum = rest.iter().try_fold(first.iov_len, |sum, part| sum.checked_add(part.iov_len));
        let bytes = sum.ok_or(EINVAL)?;
        let signed_bytes = i64::try_from(bytes).map_err(|_| EINVAL)?;
        let signed_offset = i64::try_from(offset).map_err(|_| EINVAL)?;
        signed_offset.checked_add(signed_bytes).ok_or(EINVAL)?;
        iocb.aio_buf = iov.expose_provenance() as u64;
        iocb.aio_nbytes = iov_count as u64;
        iocb.aio_offset = signed_offset;
        iocb.aio_rw_flags = ((flags & known_flags) >> FUA_TO_DSYNC) as i32;
        Ok(Self { iocb, operation, bytes })
    }

    /// As `new`, for a flush.
    pub fn flush(fd: RawFd) -> Result<Self, Errno> {
        let iocb = Self::iocb_for(fd, IOCB_CMD_FDSYNC)?;
        Ok(Self { iocb, operation: Operation::Flush, bytes: 0 })
    }

    #[inline]
    fn iocb_for(fd: RawFd, opcode: u32) -> Result<iocb, Errno> {
        if fd < 0 {
            return Err(Errno(libc::EBADF));
        }
        Ok(iocb {
            aio_lio_opcode: opcode as u16,
            aio_fildes: fd as u32,
            aio_flags: IOCB_FLAG_RESFD,
            ..Default::default()
        })
    }

    /// The bytes that this request transfers when nothing goes wrong.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// The function that learns the result of a request: 0, or a negative errno.
pub type CompletionCallback = unsafe extern "C" fn(opaque: *mut c_void, ret: c_int);

/// Who learns the result.
#[derive(Clone, Copy)]
pub enum Owner {
    /// Is woken, and finds the result in the request, which lies on its stack.
    Coroutine(*mut Coroutine),
    /// Is called. The request is the pool's and goes back there first.
    Callback { function: CompletionCallback, opaque: *mut c_void },
}

/// What follows from the kernel's result.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The request is over: 0, or a negative errno.
    Done(c_int),
    /// Part was transferred, and the iocb now asks for the rest.
    Retry,
}

/// A request from acceptance to completion. It does not move: the kernel has its address.
#[repr(C)]
pub struct Request {
    // First, so that the address of the one is the address of the other.
    iocb: UnsafeCell<iocb>,
    operation: Operation,
    /// Bytes to transfer still.
    left: Cell<usize>,
    owner: Owner,
    /// How many queued requests its device wants submitted at once; 0 for the default.
    dev_max_batch: u64,
    /// The result for a coroutine; `None` until there is one.
    result: Cell<Option<c_int>>,
    /// After a short transfer, a copy of the host's vector from where that stopped. The iocb's
    /// vector is the end of it.
    rest: UnsafeCell<Option<Box<[iovec]>>>,
}

impl Request {
    /// A request whose completion signals `eventfd`.
    #[inline]
    pub fn new(io: Io, owner: Owner, dev_max_batch: u64, eventfd: RawFd) -> Self {
        Self {
            iocb: UnsafeCell::new(iocb { aio_resfd: eventfd as u32, ..io.iocb }),
            operation: io.operation,
            left: Cell::new(io.bytes),
            owner,
            dev_max_batch,
            result: Cell::new(None),
            rest: UnsafeCell::new(None),
        }
    }

    /// Lets the iocb of the pinned request `this` name it, so that [`of_data`](Self::of_data)
    /// finds it again.
    ///
    /// # Safety
    ///
    /// `this` is valid, and not with the kernel.
    #[inline]
    pub unsafe fn prepare(this: *mut Self) {
        // SAFETY: the caller's promise; nobody else looks at the iocb before it is submitted.
        unsafe { (*(*this).iocb.get()).aio_data = this.expose_provenance() as u64 };
    }

    /// The request whose iocb this is.
    pub fn of_iocb(iocb: *mut iocb) -> *mut Self {
        iocb.cast()
    }

    /// The request whose iocb has this `aio_data`.
    pub fn of_data(data: u64) -> *mut Self {
        std::ptr::with_exposed_provenance_mut(data as usize)
    }

    pub fn iocb(&self) -> *mut iocb {
        self.iocb.get()
    }

    pub fn owner(&self) -> Owner {
        self.owner
    }

    pub fn dev_max_batch(&self) -> u64 {
        self.dev_max_batch
    }

    pub fn result(&self) -> Option<c_int> {
        self.result.get()
    }

    pub fn set_result(&self, result: c_int) {
        self.result.set(Some(result));
    }

    /// What the kernel's result `res` (bytes, or a negative errno) means, by QEMU's rules. A
    /// short transfer is prepared for another try. `file_size` is asked only where an error may
    /// be the end of the file.
    #[inline]
    pub fn outcome(&self, res: i64, file_size: impl FnOnce(RawFd) -> Option<u64>) -> Outcome {
        match usize::try_from(res) {
            // A flush has nothing left from the start.
            Ok(transferred) if transferred >= self.left.get() => Outcome::Done(0),
            Ok(transferred) => self.outcome_of_short(transferred),
            Err(_) => self.outcome_of_error(res as c_int, file_size),
        }
    }

    #[cold]
    fn outcome_of_short(&self, transferred: usize) -> Outcome {
        match self.operation {
            Operation::ZoneAppend => Outcome::Done(-libc::ENOSPC),
            Operation::Write if transferred == 0 => Outcome::Done(-libc::ENOSPC),
            // Nothing more to read: the end of the file.
            _ if transferred == 0 => self.zero_fill(),
            _ => self.retry(transferred),
        }
    }

    /// An O_DIRECT read that ends inside a block, at the end of the file, leaves a rest that is
    /// misaligned. Some file systems answer EINVAL to that (ext4 and xfs answer 0), so EINVAL for a
    /// rest that lies behind the end of the file is the end of the file.
    #[cold]
    fn outcome_of_error(
        &self,
        error: c_int,
        file_size: impl FnOnce(RawFd) -> Option<u64>,
    ) -> Outcome {
        // SAFETY: the kernel has given the request back, so nobody changes these now.
        let (iocb, rest) = unsafe { (&*self.iocb.get(), &*self.rest.get()) };
        let may_be_end =
            error == -libc::EINVAL && self.operation == Operation::Read && rest.is_some();
        let is_end = |size| iocb.aio_offset as u64 >= size;
        if may_be_end && file_size(iocb.aio_fildes as RawFd).is_some_and(is_end) {
            return self.zero_fill();
        }
        Outcome::Done(error)
    }

    /// What the iocb asks for.
    fn vector(&self) -> &[iovec] {
        // SAFETY: the kernel has given the request back, so nobody changes it now.
        let iocb = unsafe { &*self.iocb.get() };
        let parts = std::ptr::with_exposed_provenance(iocb.aio_buf as usize);
        // SAFETY: the host's vector, checked on acceptance (only a flush has none, and it never
        // comes here) and kept by the host until the request completes; or the end of `rest`.
        unsafe { std::slice::from_raw_parts(parts, iocb.aio_nbytes as usize) }
    }

    fn zero_fill(&self) -> Outcome {
        for part in self.vector() {
            // SAFETY: a part of a buffer that the host gave to be read into.
            unsafe { part.iov_base.cast::<u8>().write_bytes(0, part.iov_len) };
        }
        Outcome::Done(0)
    }

    /// Points the iocb at what is left after `transferred` more bytes.
    fn retry(&self, transferred: usize) -> Outcome {
        self.left.set(self.left.get() - transferred);
        let (whole, skipped) = whole_parts(self.vector(), transferred);
        let unfinished = &self.vector()[whole..];
        let count = unfinished.len();
        // SAFETY: the kernel has given the request back, so nobody else looks at these.
        let (iocb, rest) = unsafe { (&mut *self.iocb.get(), &mut *self.rest.get()) };
        if rest.is_none() {
            *rest = copy_of(unfinished);
        }
        let Some(rest) = rest else {
            return Outcome::Done(-libc::ENOMEM);
        };
        let start = rest.len() - count;
        let vector = &mut rest[start..];
        vector[0].iov_base = vector[0].iov_base.wrapping_byte_add(skipped);
        vector[0].iov_len -= skipped;
        iocb.aio_buf = vector.as_mut_ptr().expose_provenance() as u64;
        iocb.aio_nbytes = count as u64;
        iocb.aio_offset += transferred as i64;
        Outcome::Retry
    }
}

/// How many parts of `vector` are over after `bytes`, and how many bytes of the next are.
fn whole_parts(vector: &[iovec], mut bytes: usize) -> (usize, usize) {
    let unfinished = |part: &iovec| {
        let over = part.iov_len <= bytes;
        if over {
            bytes -= part.iov_len;
        }
        !over
    };
    let whole = vector.iter().position(unfinished).unwrap_or(vector.len());
    (whole, bytes)
}

/// A copy of `parts`, if there is memory for it.
fn copy_of(parts: &[iovec]) -> Option<Box<[iovec]>> {
    let mut copy = Vec::new();
    copy.try_reserve_exact(parts.len()).ok()?;
    copy.extend_from_slice(parts);
    Some(copy.into_boxed_slice())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FD: RawFd = 7;
    const EVENTFD: RawFd = 8;

    fn parts<const N: usize>(buffers: &mut [Vec<u8>; N]) -> [iovec; N] {
        buffers
            .each_mut()
            .map(|buffer| iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() })
    }

    fn io(kind: c_int, offset: u64, iov: &[iovec]) -> Result<Io, Errno> {
        // SAFETY: the slice is its own vector.
        unsafe { Io::new(kind, 0, FD, offset, (iov.as_ptr(), iov.len() as c_int)) }
    }

    fn request(kind: c_int, offset: u64, iov: &[iovec]) -> Request {
        let owner = Owner::Coroutine(std::ptr::null_mut());
        Request::new(io(kind, offset, iov).unwrap(), owner, 0, EVENTFD)
    }

    fn no_size(_: RawFd) -> Option<u64> {
        panic!("nothing here asks for the size")
    }

    fn refused(io: Result<Io, Errno>) -> c_int {
        io.err().expect("refused").0
    }

    #[test]
    fn nonsense_is_refused() {
        let mut buffers = [vec![0; 8]];
        let iov = parts(&mut buffers);
        assert_eq!(refused(io(0x4, 0, &iov)), libc::EINVAL);
        assert_eq!(refused(io(aio_type::READ, 0, &[])), libc::EINVAL);
        assert_eq!(refused(io(aio_type::READ, u64::MAX, &iov)), libc::EINVAL);
        assert_eq!(refused(io(aio_type::READ, i64::MAX as u64 - 7, &iov)), libc::EINVAL);
        assert!(io(aio_type::READ, i64::MAX as u64 - 8, &iov).is_ok());
        let huge = iovec { iov_base: iov[0].iov_base, iov_len: usize::MAX };
        assert_eq!(refused(io(aio_type::WRITE, 0, &[huge, huge])), libc::EINVAL);
        assert_eq!(refused(io(aio_type::WRITE, 0, &[huge])), libc::EINVAL);
        // SAFETY: a null vector, and one whose length is never used.
        unsafe {
            let null = (std::ptr::null(), 1);
            assert_eq!(refused(Io::new(aio_type::READ, 0, FD, 0, null)), libc::EINVAL);
            let negative = (iov.as_ptr(), -1);
            assert_eq!(refused(Io::new(aio_type::READ, 0, FD, 0, negative)), libc::EINVAL);
            let fine = (iov.as_ptr(), 1);
            assert_eq!(refused(Io::new(aio_type::READ, 0, -1, 0, fine)), libc::EBADF);
            assert!(Io::new(aio_type::FLUSH, 0, FD, 0, null).is_ok());
        }
    }

    #[test]
    fn results_mean_what_they_mean_in_qemu() {
        let mut buffers = [vec![0; 8]];
        let iov = parts(&mut buffers);
        for kind in [aio_type::READ, aio_type::WRITE, aio_type::ZONE_APPEND] {
            assert_eq!(request(kind, 0, &iov).outcome(8, no_size), Outcome::Done(0));
            let failed = request(kind, 0, &iov).outcome(-5, no_size);
            assert_eq!(failed, Outcome::Done(-libc::EIO));
        }
        let full = Outcome::Done(-libc::ENOSPC);
        assert_eq!(request(aio_type::WRITE, 0, &iov).outcome(0, no_size), full);
        assert_eq!(request(aio_type::WRITE, 0, &iov).outcome(3, no_size), Outcome::Retry);
        assert_eq!(request(aio_type::ZONE_APPEND, 0, &iov).outcome(3, no_size), full);
        assert_eq!(request(aio_type::FLUSH, 0, &[]).outcome(0, no_size), Outcome::Done(0));
    }

    #[test]
    fn a_retry_asks_for_exactly_what_is_left() {
        let mut buffers = [vec![1u8; 4], vec![], vec![2; 6], vec![3; 2]];
        let iov = parts(&mut buffers);
        let request = request(aio_type::READ, 100, &iov);
        assert_eq!(request.outcome(5, no_size), Outcome::Retry);
        // SAFETY: the request is not with any kernel.
        let asked = unsafe { &*request.iocb() };
        assert_eq!((asked.aio_offset, asked.aio_nbytes), (105, 2));
        let rest = std::ptr::with_exposed_provenance::<iovec>(asked.aio_buf as usize);
        // SAFETY: two entries, as the line above the last says.
        let rest = unsafe { std::slice::from_raw_parts(rest, 2) };
        assert_eq!(rest[0].iov_base, iov[2].iov_base.wrapping_byte_add(1));
        assert_eq!((rest[0].iov_len, rest[1].iov_len), (5, 2));
        assert_eq!(request.outcome(6, no_size), Outcome::Retry);
        assert_eq!(request.outcome(0, no_size), Outcome::Done(0));
        assert_eq!(buffers.concat(), [1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 3, 0]);
    }

    /// FAT and other users of the old direct I/O code check the alignment before the end of the
    /// file: the rest of an unaligned end gets EINVAL there, and the guest would see an error that
    /// it does not see without retries.
    #[test]
    fn a_misaligned_rest_behind_the_end_of_the_file_is_the_end_of_the_file() {
        for (size, expected) in [
            (Some(105), Outcome::Done(0)),
            (Some(106), Outcome::Done(-22)),
            (None, Outcome::Done(-22)),
        ] {
            let mut buffers = [vec![1u8; 8]];
            let iov = parts(&mut buffers);
            let request = request(aio_type::READ, 100, &iov);
            assert_eq!(request.outcome(5, no_size), Outcome::Retry);
            assert_eq!(request.outcome(-22, |_| size), expected);
            if expected == Outcome::Done(0) {
                assert_eq!(buffers[0], [1, 1, 1, 1, 1, 0, 0, 0]);
            }
        }
        let mut buffers = [vec![1u8; 8]];
        let first_try = request(aio_type::READ, 100, &parts(&mut buffers));
        assert_eq!(first_try.outcome(-22, no_size), Outcome::Done(-22));
    }
}
