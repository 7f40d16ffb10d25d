// SPDX-License-Identifier: MIT OR Apache-2.0

//! From the kernel's ring to the owner.

use std::ffi::c_int;

use super::State;
use crate::depth::Round;
use crate::host::Host;
use crate::kernel::{Completion, Kernel};
use crate::request::{Outcome, Owner, Request};
use crate::trace;

impl<K: Kernel, H: Host> State<K, H> {
    /// Completes what is in the ring, until it is empty or as many owners were told as one entry
    /// from the event loop may tell.
    ///
    /// One event at a time: it is counted and its slot is free before its owner is told, who may
    /// come back here and reap the next.
    #[inline(always)] // Into its two callers: one for each request, one for the event loop.
    pub(super) fn reap(&self, round: &Round) {
        // Nothing in flight is known without a look into the ring.
        while let Some(left) = self.in_flight.get().checked_sub(1) {
            if !round.thread().may_tell() {
                return self.unreaped.set(true);
            }
            let Some(Completion { token, res }) = self.kernel.reap() else { return };
            self.in_flight.set(left);
            self.complete(Request::of_token(token), res, round);
            // The owner may have forked, and this be the child: the rest is its parent's.
            if self.in_flight.get() > 0 && self.kernel.is_inherited() {
                return;
            }
        }
        debug_assert!(!self.kernel.has_completions(), "a completion of nothing");
    }

    /// Takes the result `res` of a request that the kernel has given back.
    #[inline(always)] // Into the loop; the other caller is cold.
    pub(super) fn complete(&self, request: *mut Request, res: i64, round: &Round) {
        if self.kernel.is_transient(res) {
            return self.retry(request, round);
        }
        // SAFETY: accepted and not completed, so its owner or the pool keeps it.
        match unsafe { (*request).outcome(res, &self.kernel) } {
            Outcome::Done(result) => self.tell(request, result, round),
            Outcome::Retry => self.retry(request, round),
        }
    }

    /// Queues a request again whose entry asks for what is to be done still.
    #[cold]
    fn retry(&self, request: *mut Request, round: &Round) {
        self.counters.count(|counts| counts.retried += 1);
        // SAFETY: as in `complete`.
        let (entry, batch) = unsafe { (Request::entry(request), (*request).dev_max_batch()) };
        // There is room: accepting it reserved that.
        self.queue.push(entry);
        trace::retry(self, entry);
        // From here on it may complete, and be gone, with each hook.
        self.gather(round);
        // While detached only `drain` submits.
        if self.is_attached() {
            self.offer(batch);
        }
        self.settle();
    }

    /// Tells the owner. The request is gone afterwards.
    #[inline(always)] // Into its only caller.
    fn tell(&self, request: *mut Request, result: c_int, round: &Round) {
        round.thread().tell();
        self.counters.count(|counts| counts.completed += 1);
        // SAFETY: as in `complete`.
        trace::complete(self, unsafe { Request::entry(request) }, result);
        if result < 0 {
            self.counters.count(|counts| counts.failed += 1);
        }
        // SAFETY: as in `complete`.
        match unsafe { (*request).owner() } {
            Owner::Coroutine(coroutine) => {
                // One that is entered is in submission further up, and finds the result there.
                let asleep = !self.host.coroutine_entered(coroutine);
                if asleep {
                    self.gather(round);
                    // Before it has its result: this may run code of the host, in which the coroutine
                    // could end. Without it, whoever wakes it there only lets it yield again.
                    self.schedule_bh();
                }
                // SAFETY: as in `complete`. The last use: the coroutine may return any time now.
                unsafe { (*request).set_result(result) };
                if asleep {
                    self.host.coroutine_wake(coroutine);
                }
            }
            Owner::Callback { function, opaque } => {
                // SAFETY: a request of a callback is the pool's, and is taken only here.
                drop(unsafe { self.pool.take(request) });
                self.gather(round);
                self.schedule_bh();
                // SAFETY: given together on submission.
                unsafe { function(opaque, result) };
            }
        }
    }
}
