// SPDX-License-Identifier: MIT OR Apache-2.0

//! LAIO_STATS=1: one line at exit.

use std::ffi::c_int;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};

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

/// The line's numbers.
#[derive(Clone)]
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
    let (name, summary) = if mode == Mode::Engine as u8 {
        ("engine", takeover::summary())
    } else if mode == Mode::Guard as u8 {
        ("guard", guard_summary())
    } else {
        return say("off");
    };
    say(format_args!("{name}: {summary}"));
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

fn say(what: impl fmt::Display) {
    let pid = std::process::id();
    write_stderr(&format!("laio_preload[{pid}]: {what}\n"));
}

/// Without Rust's own standard error: the process may be ending.
pub fn write_stderr(line: &str) {
    const STDERR: c_int = 2;
    // SAFETY: the line's bytes. Nobody is left to tell when it cannot be written.
    unsafe { libc::write(STDERR, line.as_ptr().cast(), line.len()) };
}
