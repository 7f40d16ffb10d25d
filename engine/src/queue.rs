// SPDX-License-Identifier: MIT OR Apache-2.0

//! The requests that wait for io_submit(2), in their order.

use std::cell::{Cell, UnsafeCell};
use std::ptr;

use crate::errno::Errno;
use crate::kernel::Entry;

/// Room that is kept whatever is queued. More than any kernel has in flight: what is in flight may come
/// back into the queue at any time.
const KEPT_ROOM: usize = 8192;

/// A FIFO of pointers to entries that lie one after the other in memory, as io_submit(2) takes them.
///
/// No reference into it leaves a method, so it can be used from within any callback. (A `VecDeque`
/// does the same in three times as many instructions, in the innermost loop.)
#[derive(Default)]
pub struct Queue {
    slots: UnsafeCell<Vec<*mut Entry>>,
    /// The first request's slot. `first + len` is a slot too, or the end, whatever a kernel says.
    first: Cell<usize>,
    len: Cell<usize>,
    /// Half of the slots: how many requests there is room for. When the last slot is used, half of
    /// the slots are free then, and moving the other half to the start costs each request a
    /// constant.
    room: Cell<usize>,
}

impl Queue {
    /// Runs `f`, which does not come back to this queue, on the slots.
    fn with<'a, R>(&'a self, f: impl FnOnce(&'a mut [*mut Entry]) -> R) -> R {
        // SAFETY: a state is used by one thread at a time, and `f` does not come back here, so
        // this is the only reference. The functions of this module see to that, and a kernel
        // (`submit`) knows no queue.
        f(unsafe { &mut *self.slots.get() })
    }

    pub fn len(&self) -> usize {
        self.len.get()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Makes room for one request, and for `others` that may come as well, so that as many pushes cannot
    /// fail.
    pub fn reserve(&self, others: usize) -> Result<(), Errno> {
        let before = self.len() + others;
        if before < self.room.get() { Ok(()) } else { self.grow(before + 1) }
    }

    #[cold]
    fn grow(&self, wanted: usize) -> Result<(), Errno> {
        // SAFETY: as in `with`.
        let slots = unsafe { &mut *self.slots.get() };
        slots.try_reserve(2 * wanted - slots.len()).map_err(|_| Errno(libc::ENOMEM))?;
        slots.resize(slots.capacity(), ptr::null_mut());
        self.room.set(slots.len() / 2);
        Ok(())
    }

    /// Moves the requests to the first slots.
    #[cold]
    fn compact(&self) {
        let first = self.first.replace(0);
        self.with(|slots| slots.copy_within(first..first + self.len(), 0));
        if self.room.get() > KEPT_ROOM && self.len() < KEPT_ROOM {
            self.give_back();
        }
    }

    /// Gives back what a storm took, when it is over.
    #[inline]
    pub fn trim(&self) {
        if self.room.get() > KEPT_ROOM && self.is_empty() {
            self.give_back();
        }
    }

    /// Gives back the slots beyond those that are always kept. The requests are in the first ones, and
    /// fewer than there is room for then.
    #[cold]
    #[inline(never)]
    fn give_back(&self) {
        debug_assert!(self.first.get() == 0 && self.len() < KEPT_ROOM);
        let mut fewer = Vec::new();
        if fewer.try_reserve_exact(2 * KEPT_ROOM).is_err() {
            return; // Later, then.
        }
        fewer.extend_from_slice(self.with(|slots| &slots[..2 * KEPT_ROOM]));
        // SAFETY: as in `with`.
        unsafe { *self.slots.get() = fewer };
        self.room.set(KEPT_ROOM);
    }

    /// Appends a request for which there is room.
    #[inline(always)] // Once for each request; the other caller is cold.
    pub fn push(&self, entry: *mut Entry) {
        let end = self.first.get() + self.len();
        let room = self.with(|slots| slots.get_mut(end).map(|slot| *slot = entry));
        if room.is_none() {
            self.compact();
            self.with(|slots| slots[self.len()] = entry);
        }
        self.len.set(self.len() + 1);
    }

    /// Takes the first request.
    pub fn pop(&self) -> Option<*mut Entry> {
        if self.is_empty() {
            return None;
        }
        let first = self.with(|slots| slots[self.first.get()]);
        self.remove(1);
        Some(first)
    }

    /// Offers the first `count` requests, of as many that there are, to `submit`, and removes as many
    /// as it says it took. `None` if that would be none.
    #[inline]
    pub fn submit<E>(
        &self,
        count: usize,
        submit: impl FnOnce(&[*mut Entry]) -> Result<usize, E>,
    ) -> Option<Result<usize, E>> {
        let first = self.first.get();
        assert!(count <= self.len(), "more are offered than are queued");
        if count == 0 {
            return None;
        }
        let answer = self.with(|slots| {
            // SAFETY: `first + len` is not beyond the end, and `count` is not above `len`.
            submit(unsafe { slots.get_unchecked(first..first + count) })
        });
        Some(answer.inspect(|&taken| {
            assert!(taken <= count, "the kernel took more than it was offered");
            self.remove(taken);
        }))
    }

    /// Removes the first `count` requests, of as many at least.
    fn remove(&self, count: usize) {
        let left = self.len() - count;
        self.len.set(left);
        self.first.set(if left == 0 { 0 } else { self.first.get() + count });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(number: usize) -> *mut Entry {
        std::ptr::without_provenance_mut(number)
    }

    #[test]
    fn order_is_kept_and_memory_is_used_again() {
        let queue = Queue::default();
        let (mut pushed, mut taken) = (0, 0);
        for round in 0..10_000 {
            for _ in 0..round % 7 + 1 {
                queue.reserve(99).unwrap();
                queue.push(entry(pushed));
                pushed += 1;
            }
            let limit = 3 + round % 4;
            let took = queue.submit(limit.min(queue.len()), |batch| {
                assert!(batch.len() <= limit);
                for &found in batch {
                    assert_eq!(found, entry(taken));
                    taken += 1;
                }
                Ok::<_, ()>(batch.len())
            });
            assert!(took.unwrap().is_ok());
            assert_eq!(queue.len(), pushed - taken);
        }
        while let Some(found) = queue.pop() {
            assert_eq!(found, entry(taken));
            taken += 1;
        }
        assert!(taken == pushed && queue.is_empty() && queue.pop().is_none());
        // A few requests were waiting at most.
        assert!(queue.with(|slots| slots.len()) < 1000);
    }

    #[test]
    fn what_was_reserved_is_there_without_more_memory() {
        let queue = Queue::default();
        queue.reserve(49).unwrap();
        let memory = || queue.with(|slots| (slots.as_ptr(), slots.len()));
        let reserved = memory();
        for number in 0..5000 {
            queue.push(entry(number));
            if number >= 49 {
                assert_eq!(queue.pop(), Some(entry(number - 49)));
            }
        }
        assert_eq!(memory(), reserved);
    }

    #[test]
    fn what_a_storm_took_is_given_back_and_nothing_of_the_rest_is_lost() {
        let queue = Queue::default();
        let mut next = 0;
        for round in 0..3 {
            queue.reserve(299_999).unwrap();
            let first = next;
            (0..300_000).for_each(|number| queue.push(entry(first + number)));
            next += 300_000;
            // A few are left in the second round, and pushed on behind.
            let left = if round == 1 { 5 } else { 0 };
            (0..300_000 - left)
                .for_each(|number| assert_eq!(queue.pop(), Some(entry(first + number))));
            (0..700_000).for_each(|number| {
                queue.push(entry(next + number));
                let expected = (next + number).checked_sub(left);
                assert_eq!(queue.pop(), expected.map(entry));
            });
            next += 700_000;
            while queue.pop().is_some() {}
            queue.trim();
            assert_eq!((queue.room.get(), queue.len()), (KEPT_ROOM, 0));
        }
    }

    #[test]
    fn what_is_refused_stays() {
        let queue = Queue::default();
        queue.reserve(2).unwrap();
        (1..=3).for_each(|number| queue.push(entry(number)));
        assert_eq!(queue.submit(3, |_| Err::<usize, _>("busy")), Some(Err("busy")));
        assert_eq!(queue.submit(3, |_| Ok::<_, ()>(2)), Some(Ok(2)));
        assert_eq!(queue.submit(0, |_| Ok::<_, ()>(1)), None);
        assert_eq!(queue.submit(1, |rest| Ok::<_, ()>(rest.len())), Some(Ok(1)));
        assert_eq!(queue.submit(0, |_| Ok::<_, ()>(1)), None);
    }

    #[test]
    #[should_panic = "more than it was offered"]
    fn what_was_not_offered_cannot_be_taken() {
        let queue = Queue::default();
        queue.reserve(0).unwrap();
        queue.push(entry(1));
        let _ = queue.submit(1, |_| Ok::<_, ()>(2));
    }
}
