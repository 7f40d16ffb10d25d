// SPDX-License-Identifier: MIT OR Apache-2.0

//! The requests of owners without a stack to keep them on.

use std::alloc::{Layout, alloc, dealloc};
use std::cell::{Cell, UnsafeCell};
use std::mem::MaybeUninit;
use std::ptr::{self, NonNull};

use crate::errno::Errno;
use crate::request::Request;

#[allow(dead_code)] // Only its address is used.
/// One request's memory. Its size is a power of two, so that a place is numbered by a shift.
#[repr(align(128))]
struct Place(UnsafeCell<MaybeUninit<Request>>);

/// Places in a chunk, and that of its head, which is the first.
const SLOTS: usize = 64;
/// All places of a chunk that is not used: all but its head.
const ALL_FREE: u64 = !1;
const LAYOUT: Layout = Layout::new::<Chunk>();
/// As many chunks are kept whatever is used: about 8,000 requests, 1 MiB. Beyond that, a chunk that
/// is not used any more is given back.
const KEPT: usize = 128;

/// Memory that begins at a multiple of its size, so that a place tells its chunk.
#[repr(C, align(8192))]
struct Chunk {
    head: Head,
    places: [Place; SLOTS - 1],
}

#[repr(align(128))]
struct Head {
    /// A bit for each place that is free.
    free: Cell<u64>,
    /// The pool's list, in which chunks with free places come before those without.
    next: Cell<*mut Chunk>,
    previous: Cell<*mut Chunk>,
}

const _: () = assert!(LAYOUT.size() == 8192 && LAYOUT.size() == SLOTS * size_of::<Place>());

/// Memory for requests that never moves and is used again and again, so that a request costs no
/// allocation unless far more are outstanding than before.
///
/// Chunks are raw allocations and not boxes, because requests are used through pointers of their own
/// while the list changes.
pub struct Pool {
    first: Cell<Option<NonNull<Chunk>>>,
    last: Cell<*mut Chunk>,
    chunks: Cell<usize>,
    /// The place that was given back last, which its chunk counts as used: an owner who is told
    /// usually has the next request at once. Null if there is none.
    spare: Cell<*mut Request>,
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            first: Cell::new(None),
            last: Cell::new(ptr::null_mut()),
            chunks: Cell::new(0),
            spare: Cell::new(ptr::null_mut()),
        }
    }
}

impl Pool {
    /// Puts `request` into a place of its own.
    #[inline]
    pub fn put(&self, request: Request) -> Result<*mut Request, Errno> {
        let spare = self.spare.replace(ptr::null_mut());
        let place = if spare.is_null() { self.free_place()? } else { spare };
        // SAFETY: the place is free, and within a chunk.
        unsafe { place.write(request) };
        Ok(place)
    }

    /// Takes a request that [`put`](Self::put) placed out again.
    ///
    /// # Safety
    ///
    /// `place` came from `put` of this pool and was not taken since.
    #[inline]
    pub unsafe fn take(&self, place: *mut Request) -> Request {
        debug_assert_ne!(place, self.spare.get(), "a place is given back twice");
        // SAFETY: the place holds a request by the caller's promise.
        let request = unsafe { place.read() };
        let before = self.spare.replace(place);
        if !before.is_null() {
            // SAFETY: it was taken, and is in this pool.
            unsafe { self.free(before) };
        }
        request
    }

    #[inline(never)]
    fn free_place(&self) -> Result<*mut Request, Errno> {
        let chunk = match self.first.get() {
            // SAFETY: a chunk in the list is allocated, and what changes in its head are cells.
            Some(first) if unsafe { first.as_ref() }.head.free.get() != 0 => first,
            _ => self.grow()?,
        };
        // SAFETY: as above.
        let head = unsafe { &(*chunk.as_ptr()).head };
        let number = head.free.get().trailing_zeros() as usize;
        head.free.set(head.free.get() & (head.free.get() - 1));
        if head.free.get() == 0 {
            self.move_to_end(chunk.as_ptr());
        }
        // SAFETY: within the chunk, whose first slot is its head.
        Ok(unsafe { chunk.as_ptr().cast::<Place>().add(number) }.cast())
    }

    /// # Safety
    ///
    /// `place` is from [`free_place`](Self::free_place), and no request is in it.
    #[inline(never)]
    unsafe fn free(&self, place: *mut Request) {
        let within = place.addr() % LAYOUT.size();
        let chunk: *mut Chunk = place.wrapping_byte_sub(within).cast();
        // SAFETY: a chunk begins at a multiple of its size, and this one has a request.
        let head = unsafe { &(*chunk).head };
        let bit = 1u64 << (within / size_of::<Place>());
        debug_assert!(head.free.get() & bit == 0, "a place is given back twice");
        let before = head.free.replace(head.free.get() | bit);
        if before == 0 {
            self.move_to_front(chunk);
        }
        if head.free.get() == ALL_FREE && self.chunks.get() > KEPT {
            self.give_back(chunk);
        }
    }

    #[cold]
    #[inline(never)]
    fn grow(&self) -> Result<NonNull<Chunk>, Errno> {
        // SAFETY: the layout has a size.
        let chunk = NonNull::new(unsafe { alloc(LAYOUT) }.cast::<Chunk>());
        let chunk = chunk.ok_or(Errno(libc::ENOMEM))?;
        let (next, previous) = (Cell::new(ptr::null_mut()), Cell::new(ptr::null_mut()));
        // SAFETY: new memory of the chunk's size; the places need no value.
        unsafe {
            (&raw mut (*chunk.as_ptr()).head).write(Head { free: ALL_FREE.into(), next, previous })
        };
        self.chunks.set(self.chunks.get() + 1);
        self.link_first(chunk);
        Ok(chunk)
    }

    #[cold]
    #[inline(never)]
    fn give_back(&self, chunk: *mut Chunk) {
        self.unlink(chunk);
        self.chunks.set(self.chunks.get() - 1);
        // SAFETY: from `alloc` with this layout; out of the list, and no place of it is used.
        unsafe { dealloc(chunk.cast(), LAYOUT) };
    }

    #[cold]
    #[inline(never)]
    fn move_to_front(&self, chunk: *mut Chunk) {
        self.unlink(chunk);
        if let Some(chunk) = NonNull::new(chunk) {
            self.link_first(chunk);
        }
    }

    #[cold]
    #[inline(never)]
    fn move_to_end(&self, chunk: *mut Chunk) {
        if self.last.get() == chunk {
            return;
        }
        self.unlink(chunk);
        let last = self.last.replace(chunk);
        // SAFETY: both are in the list, or about to be: `chunk` was not the last, so there is one.
        unsafe {
            (*chunk).head.next.set(ptr::null_mut());
            (*chunk).head.previous.set(last);
            (*last).head.next.set(chunk);
        }
    }

    fn link_first(&self, chunk: NonNull<Chunk>) {
        let next = self.first.replace(Some(chunk)).map_or(ptr::null_mut(), NonNull::as_ptr);
        // SAFETY: `chunk` is allocated and in no list; `next` is null or in this one.
        unsafe {
            (*chunk.as_ptr()).head.next.set(next);
            (*chunk.as_ptr()).head.previous.set(ptr::null_mut());
            match next.as_ref() {
                Some(next) => next.head.previous.set(chunk.as_ptr()),
                None => self.last.set(chunk.as_ptr()),
            }
        }
    }

    fn unlink(&self, chunk: *mut Chunk) {
        // SAFETY: `chunk` is in the list, and so are its neighbours.
        unsafe {
            let (next, previous) = ((*chunk).head.next.get(), (*chunk).head.previous.get());
            match previous.as_ref() {
                Some(previous) => previous.head.next.set(next),
                None => self.first.set(NonNull::new(next)),
            }
            match next.as_ref() {
                Some(next) => next.head.previous.set(previous),
                None => self.last.set(previous),
            }
        }
    }
}

impl Drop for Pool {
    /// Requests that are still in it are the parent's, in the child of a fork, and are not dropped.
    fn drop(&mut self) {
        while let Some(first) = self.first.get() {
            self.give_back(first.as_ptr());
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
        Request::new(flush.unwrap(), Owner::Coroutine(std::ptr::null_mut()), 0)
    }

    fn put(pool: &Pool, count: usize) -> Vec<*mut Request> {
        (0..count).map(|_| pool.put(request()).unwrap()).collect()
    }

    fn take(pool: &Pool, places: impl IntoIterator<Item = *mut Request>) {
        for place in places {
            // SAFETY: each test takes what it put, once.
            unsafe { pool.take(place) };
        }
    }

    fn chunks_in_list(pool: &Pool) -> usize {
        let mut next = pool.first.get().map_or(ptr::null_mut(), NonNull::as_ptr);
        let mut count = 0;
        // SAFETY: chunks in the list are allocated.
        while let Some(chunk) = unsafe { next.as_ref() } {
            count += 1;
            next = chunk.head.next.get();
        }
        count
    }

    #[test]
    fn places_are_distinct_while_in_use_and_used_again() {
        let pool = Pool::default();
        let count = 3 * (SLOTS - 1);
        let first = put(&pool, count);
        let distinct: HashSet<_> = first.iter().copied().collect();
        assert_eq!(distinct.len(), first.len());
        assert_eq!(pool.chunks.get(), 3);
        take(&pool, first);
        let again = put(&pool, count);
        assert_eq!(distinct, again.iter().copied().collect());
        take(&pool, again);
    }

    #[test]
    fn any_order_of_putting_and_taking_keeps_the_list() {
        let pool = Pool::default();
        let mut random = fastrand::Rng::with_seed(1);
        let mut used = Vec::new();
        for step in 0..200_000 {
            let wants_more = if step / 20_000 % 2 == 0 { 6 } else { 3 };
            if random.usize(..10) < wants_more {
                used.push(pool.put(request()).unwrap());
            } else if !used.is_empty() {
                let place = used.swap_remove(random.usize(..used.len()));
                take(&pool, [place]);
            }
            if step % 1000 == 0 {
                assert_eq!(chunks_in_list(&pool), pool.chunks.get());
                let distinct: HashSet<_> = used.iter().collect();
                assert_eq!(distinct.len(), used.len());
            }
        }
        take(&pool, used);
    }

    /// A million requests that were queued once left 148 MiB behind.
    #[test]
    fn what_a_storm_took_is_given_back_while_a_few_requests_stay() {
        let pool = Pool::default();
        let storm = put(&pool, 200_000);
        assert!(pool.chunks.get() > 3000);
        let (few, most): (Vec<_>, Vec<_>) =
            storm.into_iter().enumerate().partition(|(number, _)| number % 50_000 == 7);
        take(&pool, most.into_iter().map(|(_, place)| place));
        assert!(pool.chunks.get() <= KEPT + few.len());
        assert_eq!(chunks_in_list(&pool), pool.chunks.get());
        take(&pool, few.into_iter().map(|(_, place)| place));
    }
}
