// SPDX-License-Identifier: MIT OR Apache-2.0

//! LAIO_STATS=1: one line at exit.

use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::say::say;
use crate::settings::Mode;
use crate::summary::Summary;
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
