// SPDX-License-Identifier: MIT OR Apache-2.0

//! One request: the entry that the kernel sees, and its pinned life from acceptance to completion.

mod io;
mod outcome;
#[cfg(test)]
mod tests;

use std::cell::{Cell, UnsafeCell};
use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicI32, Ordering};

use crate::host::Coroutine;
use crate::kernel::Entry;

pub use io::{Io, Operation, REQ_FUA, aio_type};
pub use outcome::Outcome;
use outcome::Rest;

/// The function that learns the result of a request: 0, or a negative errno.
pub type CompletionCallback = unsafe extern "C" fn(opaque: *mut c_void, ret: c_int);

/// Who learns the result.
#[derive(Clone, Copy)]
pub enum Owner {
    /// Is woken, and finds the result in the request, which lies on its stack.
    Coroutine(*mut Coroutine),
    /// Is called. The request is the pool's and goes back there first.
    Callback {
        /// The function.
        function: CompletionCallback,
        /// Its first argument.
        opaque: *mut c_void,
    },
}

/// No result is positive.
const PENDING: c_int = 1;

/// A request from acceptance to completion. It does not move: the kernel has its address.
pub struct Request {
    entry: UnsafeCell<Entry>,
    operation: Operation,
    /// Bytes to transfer still.
    left: Cell<usize>,
    owner: Owner,
    /// How many queued requests its device wants submitted at once; 0 for the default.
    dev_max_batch: u64,
    /// The result for a coroutine; [`PENDING`] until there is one. Atomic, because a plain thread may
    /// wait for it whose state was detached and is served by another thread now.
    result: AtomicI32,
    /// Set after a short transfer.
    rest: UnsafeCell<Option<Box<Rest>>>,
}

impl Request {
    /// A request for `io`, which has to be prepared and pinned.
    #[inline]
    pub fn new(io: Io, owner: Owner, dev_max_batch: u64) -> Self {
        Self {
            entry: UnsafeCell::new(io.entry),
            operation: io.operation,
            left: Cell::new(io.bytes),
            owner,
            dev_max_batch,
            result: AtomicI32::new(PENDING),
            rest: UnsafeCell::new(None),
        }
    }

    /// Lets `prepare` make its entry one of a kernel's.
    #[inline]
    pub fn prepare(&mut self, prepare: impl FnOnce(&mut Entry)) {
        prepare(self.entry.get_mut());
    }

    /// Lets the entry of the pinned request `this` name it, so that [`of_token`](Self::of_token)
    /// finds it again.
    ///
    /// # Safety
    ///
    /// `this` is valid, and not with the kernel.
    #[inline]
    pub unsafe fn pin(this: *mut Self) {
        // SAFETY: the caller's promise; nobody else looks at the entry before it is submitted.
        let entry = unsafe { &mut *(*this).entry.get() };
        entry.set_token(this.expose_provenance() as u64);
    }

    /// The request whose entry has this token.
    pub fn of_token(token: u64) -> *mut Self {
        std::ptr::with_exposed_provenance_mut(token as usize)
    }

    /// The entry of the pinned request `this`, for the queue.
    ///
    /// # Safety
    ///
    /// `this` is valid.
    pub unsafe fn entry(this: *mut Self) -> *mut Entry {
        // SAFETY: the caller's promise. No reference: this pointer lives as long as the request.
        UnsafeCell::raw_get(unsafe { &raw const (*this).entry })
    }

    /// Changes who learns the result, of a request that is not accepted yet.
    pub fn set_owner(&mut self, owner: Owner) {
        self.owner = owner;
    }

    /// Who learns the result.
    pub fn owner(&self) -> Owner {
        self.owner
    }

    /// How many queued requests its device wants submitted at once; 0 for the default.
    pub fn dev_max_batch(&self) -> u64 {
        self.dev_max_batch
    }

    /// The result for a coroutine; `None` until there is one.
    pub fn result(&self) -> Option<c_int> {
        match self.result.load(Ordering::Acquire) {
            PENDING => None,
            result => Some(result),
        }
    }

    /// Gives a coroutine its result.
    pub fn set_result(&self, result: c_int) {
        debug_assert!(result <= 0, "a result is 0 or a negative errno");
        debug_assert!(self.result().is_none(), "a request completes twice");
        self.result.store(result, Ordering::Release);
    }
}
