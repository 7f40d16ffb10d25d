// SPDX-License-Identifier: MIT OR Apache-2.0

//! What a state counts.

use std::cell::Cell;

/// Statistics of one state since laio_init(). All are numbers of requests unless said otherwise.
///
/// Every accepted request is in `in_queue`, in `in_flight`, or counted in `completed`; requests
/// that a function refused with a negative errno are counted nowhere.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaioStats {
    /// Accepted.
    pub submitted: u64,
    /// Completed, with success or not.
    pub completed: u64,
    /// Completed with a negative errno.
    pub failed: u64,
    /// Resubmissions of what a short transfer left over. One request may need several.
    pub retried: u64,
    /// Calls of io_submit(2), whatever came of them.
    pub io_submit_calls: u64,
    /// The most requests that one io_submit(2) accepted.
    pub largest_batch: u64,
    /// Times that io_submit(2) answered EAGAIN.
    pub eagain: u64,
    /// Times that a submission was refused at the depth bound and left to completion_bh.
    pub at_bound: u64,
    /// Times that completion_bh ran and found requests in the queue to submit.
    pub bh_resumptions: u64,
    /// The deepest nesting of submission seen, in frames; never above the bound.
    pub deepest_nesting: u64,
    /// Accepted and not yet with the kernel, now.
    pub in_queue: u64,
    /// With the kernel, now.
    pub in_flight: u64,
    /// Zero, for later.
    pub reserved: [u64; 4],
}

/// A count that goes up.
#[derive(Default)]
pub struct Counter(Cell<u64>);

impl Counter {
    pub fn increment(&self) {
        self.0.set(self.0.get() + 1);
    }

    /// Keeps the larger of the value and `seen`.
    pub fn maximum(&self, seen: u64) {
        if seen > self.0.get() {
            self.0.set(seen);
        }
    }

    pub fn get(&self) -> u64 {
        self.0.get()
    }
}

/// The counts behind [`LaioStats`]; what is in the queue and in flight the state knows itself.
///
/// `submitted` is counted although it follows from others: that they agree is checked by tests.
#[derive(Default)]
pub struct Counters {
    pub submitted: Counter,
    pub completed: Counter,
    pub failed: Counter,
    pub retried: Counter,
    pub io_submit_calls: Counter,
    pub largest_batch: Counter,
    pub eagain: Counter,
    pub at_bound: Counter,
    pub bh_resumptions: Counter,
    pub deepest_nesting: Counter,
}

impl Counters {
    pub fn snapshot(&self, in_queue: usize, in_flight: usize) -> LaioStats {
        LaioStats {
            submitted: self.submitted.get(),
            completed: self.completed.get(),
            failed: self.failed.get(),
            retried: self.retried.get(),
            io_submit_calls: self.io_submit_calls.get(),
            largest_batch: self.largest_batch.get(),
            eagain: self.eagain.get(),
            at_bound: self.at_bound.get(),
            bh_resumptions: self.bh_resumptions.get(),
            deepest_nesting: self.deepest_nesting.get(),
            in_queue: in_queue as u64,
            in_flight: in_flight as u64,
            reserved: [0; 4],
        }
    }
}
