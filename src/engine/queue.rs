//! The requests that wait for io_submit(2), in their order.

use std::cell::{Cell, UnsafeCell};

use crate::kernel::{Errno, iocb};

/// A FIFO of iocb pointers that lie one after the other in memory, as io_submit(2) takes them.
///
/// No reference into it leaves a method, so it can be used from within any callback. (A `VecDeque`
/// does the same in three times as many instructions, in the innermost loop.)
#[derive(Default)]
pub struct Queue {
    list: UnsafeCell<Vec<*mut iocb>>,
    /// Entries at the start of the list that are gone.
    gone: Cell<usize>,
}

impl Queue {
    /// Runs `f`, which calls nothing of the engine or of the host, on the list.
    fn with<R>(&self, f: impl FnOnce(&mut Vec<*mut iocb>) -> R) -> R {
        // SAFETY: a state is used by one thread at a time, and `f` does not come back here, so
        // this is the only reference. The functions of this module see to that.
        f(unsafe { &mut *self.list.get() })
    }

    pub fn len(&self) -> usize {
        self.with(|list| list.len() - self.gone.get())
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Makes room for `additional` requests, so that as many pushes cannot fail.
    pub fn reserve(&self, additional: usize) -> Result<(), Errno> {
        // Twice as much: when the list's end is reached, half of it is gone, and moving the other
        // half to the start costs each request a constant.
        let wanted = 2 * (self.len() + additional);
        self.with(|list| if wanted <= list.capacity() { Ok(()) } else { self.grow(list, wanted) })
    }

    #[cold]
    fn grow(&self, list: &mut Vec<*mut iocb>, capacity: usize) -> Result<(), Errno> {
        self.compact(list);
        list.try_reserve(capacity - list.len()).map_err(|_| Errno(libc::ENOMEM))
    }

    /// Moves what is left to the start of the list.
    #[cold]
    fn compact(&self, list: &mut Vec<*mut iocb>) {
        list.drain(..self.gone.replace(0));
    }

    /// Appends a request for which there is room.
    pub fn push(&self, iocb: *mut iocb) {
        self.with(|list| {
            if list.len() == list.capacity() {
                self.compact(list);
            }
            debug_assert!(list.len() < list.capacity(), "reserve() comes before push()");
            list.push(iocb);
        });
    }

    /// Takes the first request.
    pub fn pop(&self) -> Option<*mut iocb> {
        self.with(|list| {
            let first = list.get(self.gone.get()).copied()?;
            self.remove(list, 1);
            Some(first)
        })
    }

    /// Offers the first `limit` requests to `submit`, and removes as many as it says it took.
    pub fn submit<E>(
        &self,
        limit: usize,
        submit: impl FnOnce(&[*mut iocb]) -> Result<usize, E>,
    ) -> Result<usize, E> {
        self.with(|list| {
            let waiting = &list[self.gone.get()..];
            let taken = submit(&waiting[..limit.min(waiting.len())])?;
            self.remove(list, taken);
            Ok(taken)
        })
    }

    fn remove(&self, list: &mut Vec<*mut iocb>, count: usize) {
        let gone = self.gone.get() + count;
        debug_assert!(gone <= list.len());
        if gone == list.len() {
            list.clear();
            self.gone.set(0);
        } else {
            self.gone.set(gone);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn iocb(number: usize) -> *mut iocb {
        std::ptr::without_provenance_mut(number)
    }

    #[test]
    fn order_is_kept_and_memory_is_used_again() {
        let queue = Queue::default();
        let (mut pushed, mut taken) = (0, 0);
        for round in 0..10_000 {
            for _ in 0..round % 7 + 1 {
                queue.reserve(100).unwrap();
                queue.push(iocb(pushed));
                pushed += 1;
            }
            let limit = 3 + round % 4;
            let took = queue.submit(limit, |batch| {
                assert!(batch.len() <= limit);
                for &found in batch {
                    assert_eq!(found, iocb(taken));
                    taken += 1;
                }
                Ok::<_, ()>(batch.len())
            });
            assert!(took.is_ok());
            assert_eq!(queue.len(), pushed - taken);
        }
        while let Some(found) = queue.pop() {
            assert_eq!(found, iocb(taken));
            taken += 1;
        }
        assert!(taken == pushed && queue.is_empty() && queue.pop().is_none());
        // A few requests were waiting at most.
        assert!(queue.with(|list| list.capacity()) < 1000);
    }

    #[test]
    fn what_was_reserved_is_there_without_more_memory() {
        let queue = Queue::default();
        queue.reserve(50).unwrap();
        let memory = || queue.with(|list| (list.as_ptr(), list.capacity()));
        let reserved = memory();
        for number in 0..5000 {
            queue.push(iocb(number));
            if number >= 49 {
                assert_eq!(queue.pop(), Some(iocb(number - 49)));
            }
        }
        assert_eq!(memory(), reserved);
    }

    #[test]
    fn what_is_refused_stays() {
        let queue = Queue::default();
        queue.reserve(3).unwrap();
        (1..=3).for_each(|number| queue.push(iocb(number)));
        assert_eq!(queue.submit(3, |_| Err::<usize, _>("busy")), Err("busy"));
        assert_eq!(queue.submit(3, |_| Ok::<_, ()>(2)), Ok(2));
        assert_eq!(queue.submit(3, |rest| Ok::<_, ()>(rest.len())), Ok(1));
    }
}
