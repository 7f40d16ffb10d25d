// SPDX-License-Identifier: MIT OR Apache-2.0

//! LAIO_STATS=1: one line at exit. `qemu/laio-host.c` prints the same, in a QEMU that was built on
//! the library.

use std::ffi::c_int;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};

use laio_engine::LaioStats;

use crate::say::say;
use crate::settings::Mode;
use crate::takeover;

static ON: AtomicBool = AtomicBool::new(false);
static MODE: AtomicU8 = AtomicU8::new(Mode::Off as u8);
static GUARD: GuardCounters = GuardCounters {
    calls: AtomicU64::new(0),
    requests: AtomicU64::new(0),
    deepest: AtomicU32::new(0),
    refusals: AtomicU64::new(0),
};

/// What guard mode has seen in this process.
pub struct GuardCounters {
    calls: AtomicU64,
    requests: AtomicU64,
    deepest: AtomicU32,
    refusals: AtomicU64,
}

impl GuardCounters {
    /// A call was let through and had this answer.
    pub fn submitted(&self, answer: c_int) {
        self.calls.fetch_add(1, Relaxed);
        self.requests.fetch_add(answer.max(0) as u64, Relaxed);
    }

    /// The deepest nesting seen.
    pub fn deepest(&self) -> u32 {
        self.deepest.load(Relaxed)
    }

    pub fn nested(&self, depth: u32) {
        self.deepest.fetch_max(depth, Relaxed);
    }

    pub fn refused(&self) {
        self.refusals.fetch_add(1, Relaxed);
    }

    fn reset(&self) {
        self.calls.store(0, Relaxed);
        self.requests.store(0, Relaxed);
        self.deepest.store(0, Relaxed);
        self.refusals.store(0, Relaxed);
    }
}

/// What both modes know, and the line begins with.
struct Summary {
    calls: u64,
    requests: u64,
    deepest: u64,
    at_bound: u64,
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
    sum: LaioStats,
}

impl Total {
    pub fn add(&mut self, stats: &LaioStats) {
        let LaioStats {
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
        let Self { states, sum } = self;
        let summary = Summary {
            calls: sum.io_submit_calls,
            requests: sum.submitted,
            deepest: sum.deepest_nesting,
            at_bound: sum.at_bound,
        };
        write!(
            f,
            "{summary}; {states} states, {} completed, {} failed, {} retried, {} in queue, \
             {} in flight, largest batch {}, {} times EAGAIN, {} times resumed by completion_bh",
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

pub fn start(on: bool, mode: Mode) {
    if !on {
        return;
    }
    MODE.store(mode as u8, Relaxed);
    ON.store(true, Relaxed);
    // SAFETY: the function only stores to atomics.
    unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
}

/// What the parent did is in the parent's line.
unsafe extern "C" fn in_child() {
    GUARD.reset();
    takeover::forget_statistics();
}

/// Where guard mode counts; `None` if nobody asked.
pub fn guard_counters() -> Option<&'static GuardCounters> {
    ON.load(Relaxed).then_some(&GUARD)
}

pub fn finish() {
    if !ON.swap(false, Relaxed) {
        return;
    }
    let mode = MODE.load(Relaxed);
    let what = if mode == Mode::Engine as u8 {
        format!("engine: {}", takeover::total())
    } else if mode == Mode::Guard as u8 {
        format!("guard: {}", guard_summary())
    } else {
        "off".into()
    };
    say(format_args!("laio_preload[{}]: {what}", std::process::id()));
}

fn guard_summary() -> Summary {
    let calls = GUARD.calls.load(Relaxed);
    Summary {
        calls,
        requests: GUARD.requests.load(Relaxed),
        deepest: GUARD.deepest.load(Relaxed).into(),
        at_bound: GUARD.refusals.load(Relaxed),
    }
}
