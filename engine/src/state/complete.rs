// SPDX-License-Identifier: MIT OR Apache-2.0

//! From the kernel's ring to the owner.

use std::ffi::c_int;

use super::State;
use crate::depth::Thread;
use crate::host::Host;
use crate::kernel::{Completion, Kernel};
use crate::request::{Outcome, Owner, Request};

impl<K: Kernel, H: Host> State<K, H> {
    /// Completes what is in the ring, until it is empty or as many owners were told as one entry
    /// from the event loop may tell.
    ///
    /// One event at a time: it is counted and its slot is free before its owner is told, who may
    /// come back here and reap the next.
    #[inline(always)] // Into its two callers: one for each request, one for the event loop.
    pub(super) fn reap(&self, thread: &Thread) {
        while thread.may_tell() {
            let Some(Completion { token, res }) = self.kernel.reap() else { return };
            let in_flight = self.in_flight.get().checked_sub(1);
            self.in_flight.set(in_flight.expect("a completion of nothing"));
            self.complete(Request::of_token(token), res, thread);
        }
        self.unreaped.set(true);
    }

    /// Takes the result `res` of a request that the kernel has given back.
    #[inline(always)] // Into the loop; the other caller is cold.
    pub(super) fn complete(&self, request: *mut Request, res: i64, thread: &Thread) {
        if self.kernel.is_transient(res) {
            return self.retry(request);
        }
        // SAFETY: accepted and not completed, so its owner or the pool keeps it.
        match unsafe { (*request).outcome(res, &self.kernel) } {
            Outcome::Done(result) => self.tell(request, result, thread),
            Outcome::Retry => self.retry(request),
        }
    }

    /// Queues a request again whose entry asks for what is to be done still.
    #[cold]
    fn retry(&self, request: *mut Request) {
        self.counters.count(|counts| counts.retried += 1);
        // SAFETY: as in `complete`. There is room: accepting it reserved that.
        unsafe { self.resubmit(request) };
    }

    /// Tells the owner. The request is gone afterwards.
    #[inline(always)] // Into its only caller.
    fn tell(&self, request: *mut Request, result: c_int, thread: &Thread) {
        thread.tell();
        self.counters.count(|counts| counts.completed += 1);
        if result < 0 {
            self.counters.count(|counts| counts.failed += 1);
        }
        // SAFETY: as in `complete`.
        match unsafe { (*request).owner() } {
            Owner::Coroutine(coroutine) => {
                // One that is entered is in submission further up, and finds the result there.
                let asleep = !self.host.coroutine_entered(coroutine);
                if asleep {
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
                self.schedule_bh();
                // SAFETY: given together on submission.
                unsafe { function(opaque, result) };
            }
        }
    }
}
