//! The requests that wait for io_submit(2), in their order.

use std::cell::UnsafeCell;
use std::collections::VecDeque;

use crate::kernel::{Errno, iocb};

/// A FIFO of iocb pointers that lie one after the other in memory, as io_submit(2) takes them.
///
/// No reference into it leaves a method, so it can be used from within any callback.
#[derive(Default)]
pub struct Queue(UnsafeCell<VecDeque<*mut iocb>>);

impl Queue {
    /// Runs `f`, which calls nothing of the engine or of the host, on the list.
    fn with<R>(&self, f: impl FnOnce(&mut VecDeque<*mut iocb>) -> R) -> R {
        // SAFETY: a state is used by one thread at a time, and `f` does not come back here, so
        // this is the only reference. The functions of this module see to that.
        f(unsafe { &mut *self.0.get() })
    }

    pub fn len(&self) -> usize {
        self.with(|list| list.len())
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Makes room for `additional` requests, so that as many pushes cannot fail.
    pub fn reserve(&self, additional: usize) -> Result<(), Errno> {
        self.with(|list| list.try_reserve(additional)).map_err(|_| Errno(libc::ENOMEM))
    }

    /// Appends a request for which there is room.
    pub fn push(&self, iocb: *mut iocb) {
        self.with(|list| {
            debug_assert!(list.len() < list.capacity(), "reserve() comes before push()");
            list.push_back(iocb);
        });
    }

    /// Takes the first request.
    pub fn pop(&self) -> Option<*mut iocb> {
        self.with(VecDeque::pop_front)
    }

    /// Offers the first `limit` requests to `submit`, and removes as many as it says it took.
    pub fn submit<E>(
        &self,
        limit: usize,
        submit: impl FnOnce(&[*mut iocb]) -> Result<usize, E>,
    ) -> Result<usize, E> {
        self.with(|list| {
            let batch = limit.min(list.len());
            let taken = submit(&list.make_contiguous()[..batch])?;
            list.drain(..taken);
            Ok(taken)
        })
    }
}
