// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the kernel's results mean, by QEMU's rules.

use std::ffi::c_int;
use std::os::fd::RawFd;

use libc::iovec;

use super::{Operation, Request};

/// What follows from the kernel's result.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The request is over: 0, or a negative errno.
    Done(c_int),
    /// Part was transferred, and the entry now asks for the rest.
    Retry,
}

/// All of these are called while nobody but the request's state has it: the kernel has given it back.
impl Request {
    /// What the kernel's result `res` (bytes, or a negative errno) means. A short transfer is
    /// prepared for another try. `file_size` is asked only where an error may be the end of the
    /// file.
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
        let (entry, rest) = unsafe { (&*self.entry.get(), &*self.rest.get()) };
        let may_be_end =
            error == -libc::EINVAL && self.operation == Operation::Read && rest.is_some();
        let is_end = |size| entry.offset() as u64 >= size;
        if may_be_end && file_size(entry.fd()).is_some_and(is_end) {
            return self.zero_fill();
        }
        Outcome::Done(error)
    }

    /// What the entry asks for.
    fn vector(&self) -> &[iovec] {
        // SAFETY: the kernel has given the request back, so nobody changes it now.
        let (parts, count) = unsafe { &*self.entry.get() }.vector();
        // SAFETY: the host's vector, checked on acceptance (only a flush has none, and it never
        // comes here) and kept by the host until the request completes; or the end of `rest`.
        unsafe { std::slice::from_raw_parts(parts, count) }
    }

    fn zero_fill(&self) -> Outcome {
        for part in self.vector() {
            // SAFETY: a part of a buffer that the host gave to be read into.
            unsafe { part.iov_base.cast::<u8>().write_bytes(0, part.iov_len) };
        }
        Outcome::Done(0)
    }

    /// Points the entry at what is left after `transferred` more bytes.
    fn retry(&self, transferred: usize) -> Outcome {
        debug_assert!(transferred < self.left.get(), "nothing is left");
        self.left.set(self.left.get() - transferred);
        let (whole, skipped) = whole_parts(self.vector(), transferred);
        let unfinished = &self.vector()[whole..];
        let count = unfinished.len();
        // SAFETY: the kernel has given the request back, so nobody else looks at these.
        let (entry, rest) = unsafe { (&mut *self.entry.get(), &mut *self.rest.get()) };
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
        entry.set_range(vector.as_ptr(), count, entry.offset() + transferred as i64);
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
