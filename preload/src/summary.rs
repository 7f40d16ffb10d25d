// SPDX-License-Identifier: MIT OR Apache-2.0

//! The words of the line at exit. `qemu/laio-host.c` prints the same, in a QEMU that was built on the
//! library.

use std::fmt;

use laio_engine::LaioStats;

/// What both modes know, and the line begins with.
pub struct Summary {
    pub calls: u64,
    pub requests: u64,
    pub deepest: u64,
    pub at_bound: u64,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { calls, requests, deepest, at_bound } = self;
        write!(
            f,
            "{requests} requests in {calls} submissions, deepest nesting {deepest}, \
             {at_bound} times at the bound"
        )
    }
}

/// The statistics of several states of the engine, which make the whole line.
#[derive(Clone, Default)]
pub struct Total {
    states: u64,
    /// How many of them are on io_uring.
    on_io_uring: u64,
    sum: LaioStats,
}

impl Total {
    /// Adds a state, which is on io_uring or on Linux AIO.
    pub fn add(&mut self, is_on_io_uring: bool, stats: &LaioStats) {
        let LaioStats {
            size: _,
            submitted,
            completed,
            failed,
            retried,
            io_submit_calls,
            largest_batch,
            eagain,
            at_bound,
            bh_resumptions,
            deepest_nesting,
            in_queue,
            in_flight,
            kernel: _,
            reserved: _,
        } = *stats;
        let sum = &mut self.sum;
        self.states += 1;
        self.on_io_uring += u64::from(is_on_io_uring);
        sum.submitted += submitted;
        sum.completed += completed;
        sum.failed += failed;
        sum.retried += retried;
        sum.io_submit_calls += io_submit_calls;
        sum.largest_batch = sum.largest_batch.max(largest_batch);
        sum.eagain += eagain;
        sum.at_bound += at_bound;
        sum.bh_resumptions += bh_resumptions;
        sum.deepest_nesting = sum.deepest_nesting.max(deepest_nesting);
        sum.in_queue += in_queue;
        sum.in_flight += in_flight;
    }
}

impl fmt::Display for Total {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { states, on_io_uring, sum } = self;
        let on_linux_aio = states - on_io_uring;
        let summary = Summary {
            calls: sum.io_submit_calls,
            requests: sum.submitted,
            deepest: sum.deepest_nesting,
            at_bound: sum.at_bound,
        };
        write!(
            f,
            "{summary}; {states} states ({on_linux_aio} linux-aio, {on_io_uring} io_uring), \
             {} completed, {} failed, {} retried, {} in queue, {} in flight, largest batch {}, {} times EAGAIN, {} times resumed by completion_bh",
            sum.completed,
            sum.failed,
            sum.retried,
            sum.in_queue,
            sum.in_flight,
            sum.largest_batch,
            sum.eagain,
            sum.bh_resumptions
        )
    }
}
