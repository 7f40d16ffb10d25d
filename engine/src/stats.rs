// SPDX-License-Identifier: MIT OR Apache-2.0

//! What a state counts.

use std::cell::UnsafeCell;

/// Statistics of one state since laio_init(). All are numbers of requests unless said otherwise.
///
/// Every accepted request is in `in_queue`, in `in_flight`, or counted in `completed`; requests
/// that a function refused with a negative errno are counted nowhere.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaioStats {
    /// sizeof(LaioStats), as the program was compiled; the program sets it. Of a larger one the library
    /// fills what it knows, and zeroes the rest; later versions take the size of any earlier one.
    pub size: usize,
    /// Accepted.
    pub submitted: u64,
    /// Completed, with success or not.
    pub completed: u64,
    /// Completed with a negative errno.
    pub failed: u64,
    /// Resubmissions: of what a short transfer left over and, with io_uring, of a request of which the
    /// result said nothing. One request may need several.
    pub retried: u64,
    /// Submission calls, whatever came of them: io_submit(2), or io_uring_enter(2).
    pub io_submit_calls: u64,
    /// The most requests that one submission call accepted.
    pub largest_batch: u64,
    /// Times that a submission call answered EAGAIN.
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
    /// Which interface of the kernel it is: LAIO_KERNEL_LINUX_AIO or LAIO_KERNEL_IO_URING.
    pub kernel: u64,
    /// Zero, for later.
    pub reserved: [u64; 2],
}

/// The counts of a state, kept as they are told. What is in the queue and in flight the state knows
/// itself.
///
/// `submitted` is counted although it follows from others: that they agree is checked by tests.
#[derive(Default)]
pub struct Counters(UnsafeCell<LaioStats>);

impl Counters {
    /// Changes them by `change`, which does not come back here.
    #[inline(always)] // One instruction, most of the time.
    pub fn count(&self, change: impl FnOnce(&mut LaioStats)) {
        // SAFETY: a state is used by one thread at a time, and `change` calls nothing of it, so this
        // is the only reference.
        change(unsafe { &mut *self.0.get() });
    }

    /// The statistics of a state with so many requests queued and in flight.
    pub fn snapshot(&self, in_queue: usize, in_flight: usize) -> LaioStats {
        // SAFETY: as in `count`.
        let counts = unsafe { *self.0.get() };
        let (in_queue, in_flight) = (in_queue as u64, in_flight as u64);
        // Each request that was accepted is in one of three places.
        let submitted = counts.completed + in_queue + in_flight;
        LaioStats { submitted, in_queue, in_flight, ..counts }
    }
}
