// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the kernel's results mean, by QEMU's rules.

use std::ffi::c_int;

use libc::iovec;

use super::{Operation, Request};
use crate::kernel::Files;

/// What follows from the kernel's result.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The request is over: 0, or a negative errno.
    Done(c_int),
    /// It is to be submitted again: the entry asks for what is to be done still.
    Retry,
}

/// What a request remembers once it was transferred in part.
pub struct Rest {
    /// What the host asked for: its vector, and where in the file it begins.
    whole: (*const iovec, usize),
    start: i64,
    /// A copy of the host's vector from where the first try stopped. The entry's vector is the end
    /// of it.
    parts: Box<[iovec]>,
    /// The request was begun again from its start, when so many bytes had been transferred.
    again_from: Option<usize>,
    /// How often that has brought nothing.
    fruitless: u32,
}

/// How often a request is begun again without any byte more, before that is an error.
const MOST_FRUITLESS: u32 = 8;

/// All of these are called while nobody but the request's state has it: the kernel has given it back.
impl Request {
    /// What the kernel's result `res` (bytes, or a negative errno) means. A short transfer is
    /// prepared for another try. `files` is asked only where an error or a short transfer may have to
    /// do with the end of the file.
    #[inline]
    pub fn outcome(&self, res: i64, files: &impl Files) -> Outcome {
        match usize::try_from(res) {
            // A flush has nothing left from the start.
            Ok(transferred) if transferred >= self.left.get() => Outcome::Done(0),
            Ok(transferred) => self.outcome_of_short(transferred, files),
            Err(_) => self.outcome_of_error(res as c_int, files),
        }
    }

    #[cold]
    fn outcome_of_short(&self, transferred: usize, files: &impl Files) -> Outcome {
        let before = self.rest().and_then(|rest| rest.again_from);
        match (self.operation, before) {
            (Operation::ZoneAppend, _) => Outcome::Done(-libc::ENOSPC),
            (_, Some(before)) if transferred <= before => self.outcome_of_no_more(before, files),
            (Operation::Write, _) if transferred == 0 => Outcome::Done(-libc::ENOSPC),
            // Nothing more to read: the end of the file.
            _ if transferred == 0 => self.zero_fill(0),
            _ => self.retry(transferred, files),
        }
    }

    /// A direct transfer that ends inside a block leaves a rest that begins where the device cannot.
    /// At the end of a file ext4 and xfs answer 0 to that; but the file may have grown since, and
    /// then, or on FAT and the like in any case, the answer is EINVAL.
    ///
    /// So EINVAL for a rest says nothing of the request. A read whose rest lies behind the end of the
    /// file is over. Any other is begun again from its start, which was a place where the device
    /// could: what was transferred is transferred once more.
    #[cold]
    fn outcome_of_error(&self, error: c_int, files: &impl Files) -> Outcome {
        let Some(rest) = self.rest() else { return Outcome::Done(error) };
        match (self.operation, error) {
            // Continued up to the largest size that the file may have. Nothing more goes in.
            (Operation::Write, _) if error == -libc::EFBIG => Outcome::Done(-libc::ENOSPC),
            (Operation::Read, _) if error == -libc::EINVAL && self.is_at_end(0, files) => {
                self.zero_fill(0)
            }
            _ if error == -libc::EINVAL && rest.again_from.is_none() => self.begin_again(),
            _ => Outcome::Done(error),
        }
    }

    /// Begun again, the request has come no further than `before`.
    fn outcome_of_no_more(&self, before: usize, files: &impl Files) -> Outcome {
        if self.operation == Operation::Write {
            return Outcome::Done(-libc::ENOSPC);
        }
        if self.is_at_end(before, files) {
            return self.zero_fill(before);
        }
        // It must have grown since the answer, or this is no file with an end: a few times more.
        // SAFETY: as for all of these functions.
        let Some(rest) = (unsafe { &mut *self.rest.get() }) else {
            return Outcome::Done(-libc::EINVAL);
        };
        rest.fruitless += 1;
        if rest.fruitless < MOST_FRUITLESS { Outcome::Retry } else { Outcome::Done(-libc::EINVAL) }
    }

    fn rest(&self) -> Option<&Rest> {
        // SAFETY: the kernel has given the request back, so nobody changes it now.
        unsafe { &*self.rest.get() }.as_deref()
    }

    /// Whether the file ends at or before the `skipped`th byte of what the entry asks for.
    fn is_at_end(&self, skipped: usize, files: &impl Files) -> bool {
        // SAFETY: as in `rest`.
        let entry = unsafe { &*self.entry.get() };
        let position = entry.offset() as u64 + skipped as u64;
        files.file_size(entry.fd()).is_some_and(|size| position >= size)
    }

    /// What the entry asks for.
    fn vector(&self) -> &[iovec] {
        // SAFETY: the kernel has given the request back, so nobody changes it now.
        let (parts, count) = unsafe { &*self.entry.get() }.vector();
        // SAFETY: the host's vector, checked on acceptance (only a flush has none, and it never
        // comes here) and kept by the host until the request completes; or the end of `rest`.
        unsafe { std::slice::from_raw_parts(parts, count) }
    }

    /// Fills what the entry asks for with zeros, but for the first `skipped` bytes.
    fn zero_fill(&self, mut skipped: usize) -> Outcome {
        for part in self.vector() {
            let kept = skipped.min(part.iov_len);
            skipped -= kept;
            // SAFETY: a part of a buffer that the host gave to be read into.
            unsafe {
                part.iov_base.cast::<u8>().add(kept).write_bytes(0, part.iov_len - kept);
            }
        }
        Outcome::Done(0)
    }

    /// Points the entry at what is left after `transferred` more bytes.
    fn retry(&self, transferred: usize, files: &impl Files) -> Outcome {
        debug_assert!(transferred < self.left.get(), "nothing is left");
        self.left.set(self.left.get() - transferred);
        // SAFETY: the kernel has given the request back, so nobody else looks at these.
        let (entry, rest) = unsafe { (&mut *self.entry.get(), &mut *self.rest.get()) };
        let offset = entry.offset() + transferred as i64;
        if self.operation == Operation::Write && is_beyond_limit(entry.fd(), offset, files) {
            return Outcome::Done(-libc::ENOSPC);
        }
        let (whole, skipped) = whole_parts(self.vector(), transferred);
        let unfinished = &self.vector()[whole..];
        let count = unfinished.len();
        if rest.is_none() {
            *rest = Rest::new(entry.vector(), entry.offset(), unfinished);
        }
        let Some(rest) = rest else {
            return Outcome::Done(-libc::ENOMEM);
        };
        if rest.again_from.take().is_some() {
            // The entry has the host's own vector again.
            let Some(parts) = copy_of(unfinished) else { return Outcome::Done(-libc::ENOMEM) };
            rest.parts = parts;
            rest.fruitless = 0;
        }
        let start = rest.parts.len() - count;
        let vector = &mut rest.parts[start..];
        vector[0].iov_base = vector[0].iov_base.wrapping_byte_add(skipped);
        vector[0].iov_len -= skipped;
        entry.set_range(vector.as_ptr(), count, offset);
        Outcome::Retry
    }

    /// Points the entry at all that the host asked for.
    fn begin_again(&self) -> Outcome {
        // SAFETY: as in `retry`.
        let (entry, rest) = unsafe { (&mut *self.entry.get(), &mut *self.rest.get()) };
        let Some(rest) = rest else { return Outcome::Done(-libc::EINVAL) };
        let done = (entry.offset() - rest.start) as usize;
        self.left.set(self.left.get() + done);
        rest.again_from = Some(done);
        let (parts, count) = rest.whole;
        entry.set_range(parts, count, rest.start);
        Outcome::Retry
    }
}

impl Rest {
    /// `None` if there is no memory for it.
    fn new(whole: (*const iovec, usize), start: i64, unfinished: &[iovec]) -> Option<Box<Self>> {
        let parts = copy_of(unfinished)?;
        Some(Box::new(Self { whole, start, parts, again_from: None, fruitless: 0 }))
    }
}

/// Whether a write there would end the process by SIGXFSZ, as QEMU's own engine, which does not
/// continue a short write, never does.
fn is_beyond_limit(fd: c_int, offset: i64, files: &impl Files) -> bool {
    offset as u64 >= files.size_limit() && files.file_size(fd).is_some()
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
