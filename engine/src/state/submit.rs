// SPDX-License-Identifier: MIT OR Apache-2.0

//! From the queue to the kernel.

use super::State;
use crate::depth::{Frame, Limit, Round};
use crate::errno::Errno;
use crate::first_bound;
use crate::host::Host;
use crate::kernel::{Entry, Kernel};
use crate::request::Request;
use crate::trace;

impl<K: Kernel, H: Host> State<K, H> {
    /// Gives the queue to the kernel, reaps what is complete already, and tells the owners.
    ///
    /// The owners' next requests gather in a section; its end comes here again, one frame deeper.
    /// At the depth bound, or when the budget of owners is spent, the queue stays as it is, and the
    /// rule of [`super`] resumes it.
    pub(super) fn ioq_submit(&self) {
        let frame = match Frame::enter() {
            Ok(frame) => frame,
            Err(limit) => return self.stop_at(limit),
        };
        self.counters.count(|counts| raise(&mut counts.deepest_nesting, frame.depth.into()));
        let _active = self.activate();
        self.begin_section();
        self.submit_queue(&frame.round);
        self.reap(&frame.round);
        self.end_section(&frame.round);
        self.settle();
    }

    /// Leaves the queue to completion_bh.
    #[cold]
    fn stop_at(&self, limit: Limit) {
        if limit == Limit::Depth {
            self.counters.count(|counts| counts.at_bound += 1);
            trace::bound(self, self.queue.len());
        }
        self.settle();
        if limit == Limit::Depth && first_bound::is_wanted() {
            // Now that the state is whole: the host may call back.
            let _active = self.activate();
            first_bound::say(self.host);
        }
    }

    /// Submits what is queued now; what owners of failed requests add waits for the section's end,
    /// so that a host that answers each failure with a new request gets its event loop back.
    #[inline(always)] // Into its only caller.
    fn submit_queue(&self, round: &Round) {
        let mut budget = self.queue.len();
        // The owner of one that fails is told; and a hook may have told others just now.
        while round.thread().may_tell() {
            let gone = self.io_submit(budget, round);
            if gone == 0 || gone == budget {
                return;
            }
            // The owner of one that failed may have submitted the rest.
            budget = (budget - gone).min(self.queue.len());
        }
    }

    /// Entries that the kernel has room for.
    #[inline(always)]
    pub(super) fn free_slots(&self) -> usize {
        debug_assert!(self.in_flight.get() <= self.kernel.capacity(), "the ring overflows");
        self.kernel.capacity() - self.in_flight.get()
    }

    /// One submission of up to `limit` requests, of as many that are queued. How many are not queued
    /// any more: those that the kernel took, or the one that it refused. Zero when there is nothing to
    /// submit for now.
    ///
    /// `blocked` is set at once: the owner of a request that failed may submit more, or wait for
    /// what is queued.
    #[inline(always)] // Into its only caller.
    fn io_submit(&self, limit: usize, round: &Round) -> usize {
        let submit = |entries: &[*mut Entry]| {
            self.counters.count(|counts| counts.io_submit_calls += 1);
            // SAFETY: requests stay where they are until they complete.
            unsafe { self.kernel.submit(entries) }
        };
        let Some(answer) = self.queue.submit(limit.min(self.free_slots()), submit) else {
            // No room, or none left.
            if !self.queue.is_empty() {
                self.blocked.set(true);
                self.starved.set(false);
            }
            return 0;
        };
        match answer {
            // None taken and no error says the same as EAGAIN, and must not be asked again at once.
            Ok(0) | Err(Errno(libc::EAGAIN)) => {
                self.blocked.set(true);
                self.starved.set(self.in_flight.get() == 0);
                self.counters.count(|counts| counts.eagain += 1);
                trace::io_submit_refused(self, Errno(libc::EAGAIN));
                0
            }
            Ok(taken) => {
                self.blocked.set(false);
                self.in_flight.set(self.in_flight.get() + taken);
                self.counters.count(|counts| raise(&mut counts.largest_batch, taken as u64));
                trace::io_submit(self, taken);
                taken
            }
            Err(errno) => {
                trace::io_submit_refused(self, errno);
                self.blocked.set(false);
                self.fail_first(errno, round);
                1
            }
        }
    }

    /// The kernel's error speaks of the first request; the others may be fine.
    #[cold]
    fn fail_first(&self, errno: Errno, round: &Round) {
        if let Some(entry) = self.queue.pop() {
            // SAFETY: queued, so it is a request's, which is not complete.
            let token = unsafe { (*entry).token() };
            self.complete(Request::of_token(token), errno.negative().into(), round);
            // As after any other owner: see `reap`.
            if self.kernel.is_inherited() {
                round.thread().spend();
            }
        }
    }
}

/// Keeps the larger of the two. It rarely changes, so it is rarely written.
#[inline(always)]
fn raise(largest: &mut u64, seen: u64) {
    if seen > *largest {
        *largest = seen;
    }
}
