// SPDX-License-Identifier: MIT OR Apache-2.0

//! The requests of owners without a stack to keep them on.

use std::cell::UnsafeCell;

use crate::errno::Errno;
use crate::request::Request;

/// How many requests more there are each time that all are in use.
const CHUNK: usize = 64;

/// Memory for requests that never moves and is used again and again, so that a request costs no
/// allocation unless more are outstanding than ever before.
#[derive(Default)]
pub struct Pool(UnsafeCell<Memory>);

#[derive(Default)]
struct Memory {
    chunks: Vec<Box<[UnsafeCell<std::mem::MaybeUninit<Request>>]>>,
    free: Vec<*mut Request>,
}

impl Memory {
    /// Leaves at least one place free, and room in the list for all of them.
    fn ensure_free(&mut self) -> Result<(), std::collections::TryReserveError> {
        if !self.free.is_empty() {
            return Ok(());
        }
        let mut chunk = Vec::new();
        chunk.try_reserve_exact(CHUNK)?;
        chunk.resize_with(CHUNK, || UnsafeCell::new(std::mem::MaybeUninit::uninit()));
        self.chunks.try_reserve(1)?;
        self.free.try_reserve((self.chunks.len() + 1) * CHUNK)?;
        let chunk = chunk.into_boxed_slice();
        self.free.extend(chunk.iter().rev().map(|place| place.get().cast::<Request>()));
        self.chunks.push(chunk);
        Ok(())
    }
}

impl Pool {
    /// Puts `request` into a place of its own.
    pub fn put(&self, request: Request) -> Result<*mut Request, Errno> {
        // SAFETY: a state is used by one thread at a time, and nothing here calls out.
        let memory = unsafe { &mut *self.0.get() };
        memory.ensure_free().map_err(|_| Errno(libc::ENOMEM))?;
        let place = memory.free.pop().ok_or(Errno(libc::ENOMEM))?;
        // SAFETY: the place is free, in a chunk that lives as long as the pool.
        unsafe { place.write(request) };
        Ok(place)
    }

    /// Takes a request that [`put`](Self::put) placed out again.
    ///
    /// # Safety
    ///
    /// `place` came from `put` of this pool and was not taken since.
    pub unsafe fn take(&self, place: *mut Request) -> Request {
        // SAFETY: as in `put`; the place holds a request by the caller's promise.
        unsafe {
            (*self.0.get()).free.push(place);
            place.read()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{Io, Owner, aio_type};
    use std::collections::HashSet;

    fn request() -> Request {
        // SAFETY: a flush has no vector.
        let flush = unsafe { Io::new(aio_type::FLUSH, 0, 1, 0, (std::ptr::null(), 0)) };
        Request::new(flush.unwrap(), Owner::Coroutine(std::ptr::null_mut()), 0, |_| ())
    }

    #[test]
    fn places_are_distinct_while_in_use_and_used_again() {
        let pool = Pool::default();
        let first: Vec<_> = (0..3 * CHUNK).map(|_| pool.put(request()).unwrap()).collect();
        let distinct: HashSet<_> = first.iter().copied().collect();
        assert_eq!(distinct.len(), first.len());
        for &place in &first {
            // SAFETY: each was put once and is taken once.
            unsafe { pool.take(place) };
        }
        let again: HashSet<_> = (0..3 * CHUNK).map(|_| pool.put(request()).unwrap()).collect();
        assert_eq!(distinct, again);
        // Drops nothing twice: what is left in the pool is the state's to take before it goes.
    }
}
