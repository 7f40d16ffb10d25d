// SPDX-License-Identifier: MIT OR Apache-2.0

//! LAIO_STATS=1: one line at exit.

use std::ffi::c_int;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::say::say;
use crate::settings::Mode;
use crate::summary::Summary;
use crate::takeover;

static ON: AtomicBool = AtomicBool::new(false);
static MODE: AtomicU8 = AtomicU8::new(Mode::Off as u8);
static LIBAIO: GuardCounters = GuardCounters::new();
static LIBURING: GuardCounters = GuardCounters::new();

/// What guard mode has seen of one library in this process.
pub struct GuardCounters {
    calls: AtomicU64,
    requests: AtomicU64,
    deepest: AtomicU32,
    at_bound: AtomicU64,
    held_back: AtomicU64,
}

impl GuardCounters {
    const fn new() -> Self {
        Self {
            calls: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            deepest: AtomicU32::new(0),
            at_bound: AtomicU64::new(0),
            held_back: AtomicU64::new(0),
        }
    }

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

    /// A call nested deeper than the bound was refused, or its requests were put off.
    pub fn was_at_bound(&self) {
        self.at_bound.fetch_add(1, Relaxed);
    }

    /// So many requests were put off by a delay.
    pub fn held_back(&self, requests: u32) {
        self.held_back.fetch_add(requests.into(), Relaxed);
    }

    fn summary(&self) -> Summary {
        Summary {
            calls: self.calls.load(Relaxed),
            requests: self.requests.load(Relaxed),
            deepest: self.deepest.load(Relaxed).into(),
            at_bound: self.at_bound.load(Relaxed),
        }
    }

    fn reset(&self) {
        self.calls.store(0, Relaxed);
        self.requests.store(0, Relaxed);
        self.deepest.store(0, Relaxed);
        self.at_bound.store(0, Relaxed);
        self.held_back.store(0, Relaxed);
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
    LIBAIO.reset();
    LIBURING.reset();
    takeover::forget_statistics();
}

/// Where guard mode counts the calls of libaio; `None` if nobody asked.
pub fn guard_counters() -> Option<&'static GuardCounters> {
    ON.load(Relaxed).then_some(&LIBAIO)
}

/// The same for liburing.
pub fn uring_counters() -> Option<&'static GuardCounters> {
    ON.load(Relaxed).then_some(&LIBURING)
}

pub fn finish() {
    if !ON.swap(false, Relaxed) {
        return;
    }
    let mode = MODE.load(Relaxed);
    let what = if mode == Mode::Engine as u8 {
        format!("engine: {}{}", takeover::total(), IoUringSummary)
    } else if mode == Mode::Guard as u8 {
        format!("guard: {}{}", LIBAIO.summary(), IoUringSummary)
    } else {
        "off".into()
    };
    say(format_args!("laio_preload[{}]: {what}", std::process::id()));
}

/// What went through liburing, if anything did.
struct IoUringSummary;

impl fmt::Display for IoUringSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let summary = LIBURING.summary();
        if summary.calls == 0 {
            return Ok(());
        }
        let held_back = LIBURING.held_back.load(Relaxed);
        write!(f, "; io_uring: {summary}, {held_back} requests held back")
    }
}
