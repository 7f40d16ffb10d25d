// SPDX-License-Identifier: MIT OR Apache-2.0

//! Guard mode in front of liburing: no completion within the call where a program recurses through
//! io_uring_submit too deeply.
//!
//! There is no answer that would bring QEMU back: nothing of its own looks at the queue again but the
//! next completion, and there may be none to come. So every request is taken; but where calls are
//! nested deeper than the bound, the kernel does not begin with it before a delay is over, in which
//! the program has returned from all the frames ([`DELAYS`]). It then completes like any that had to
//! wait for its storage, and from the event loop.
//!
//! Where the kernel cannot do that, requests are given to its workers (IOSQE_ASYNC) instead, which
//! are done some time after the call; or before it has returned, time and again, if worker and
//! program share a processor. (That is why it is not the first choice.)
//!
//! Both are harmless to a program that does something else: an answer is never different, and a
//! completion comes a little later. Yet one that recurses for a reason of its own, and waits in each
//! level for what it has submitted there, is better off without, and is [left alone](waits).

use std::cell::Cell;
use std::ffi::c_int;
use std::sync::atomic::{AtomicU32, Ordering};

pub use super::ring::{Ring, Submit};

use super::calls::Calls;
use super::memory::{Hints, KeepErrno, Memory};
use super::ring::{Delay, Pending};
use super::{objects, unwind};
use crate::say::complain;
use crate::stats;

/// How long to hold requests back, level by level beyond the bound. QEMU has returned from nine
/// levels in 5 us. A program that has not in the first delay has not had a processor for so long, or
/// had other completions to take.
static DELAYS: [Delay; 10] = [
    Delay::microseconds(20),
    Delay::microseconds(40),
    Delay::microseconds(80),
    Delay::microseconds(160),
    Delay::microseconds(320),
    Delay::microseconds(640),
    Delay::microseconds(1280),
    Delay::microseconds(2560),
    Delay::microseconds(5120),
    Delay::microseconds(10240),
];

/// Bytes of a thread's stack below the call whose requests were put off, in which it is taken to be
/// waiting for them, and above, for how the frames of our own functions differ.
const WAITS_BELOW: usize = 64 << 10;
const WAITS_ABOVE: usize = 128;

/// How deep calls may nest; 0 as long as there is no bound to keep, and from when the program was
/// found to be one to leave alone.
static MAX_DEPTH: AtomicU32 = AtomicU32::new(0);

/// What is known of a thread.
struct Thread {
    calls: Calls,
    hints: Hints,
    /// The ring whose requests were last put off, and where from; 0 and 0 if none.
    put_off: Cell<(usize, usize)>,
}

thread_local! {
    // No destructor and no allocation, as for libaio.
    static THREAD: Thread = const {
        Thread { calls: Calls::new(), hints: Hints::new(), put_off: Cell::new((0, 0)) }
    };
}

pub fn start(max_depth: u32) {
    MAX_DEPTH.store(max_depth, Ordering::Relaxed);
}

/// Submits what `next`, which is liburing's io_uring_submit, is to submit; the caller stands in for
/// it, and has `mark` on its stack frame.
///
/// # Safety
///
/// As liburing's.
#[inline]
pub unsafe fn submit(mark: usize, ring: *mut Ring, next: Submit) -> c_int {
    let max_depth = MAX_DEPTH.load(Ordering::Relaxed);
    if max_depth != 0 {
        // The deepest nesting is worth knowing exactly to whoever asked for statistics.
        let suspicious = match stats::uring_counters() {
            Some(counters) => max_depth.min(counters.deepest()),
            None => max_depth,
        };
        let estimate = THREAD.with(|thread| thread.calls.enter(mark));
        if estimate > suspicious {
            let excess = excess(mark, estimate, max_depth);
            if excess > 0 {
                // SAFETY: the caller's promise.
                return unsafe { put_off(mark, ring, next, excess) };
            }
        }
    }
    // SAFETY: the caller's promise.
    unsafe { next(ring) }
}

/// How much deeper than the bound the call is nested, as far as it matters.
#[cold]
#[inline(never)]
fn excess(mark: usize, estimate: u32, max_depth: u32) -> u32 {
    let _errno = KeepErrno::new();
    let Some(caller) = unwind::caller(mark) else { return 0 };
    let is_like_qemu = objects::LIBURING.is_used_like_qemu_does(caller.instruction);
    if !is_like_qemu && stats::uring_counters().is_none() {
        return 0;
    }
    // Not deeper than it matters: each frame costs.
    let wanted = estimate.min(max_depth + DELAYS.len() as u32);
    let depth = THREAD.with(|thread| {
        let memory = &mut Memory::new();
        memory.follow(&thread.hints, mark);
        let calls = &thread.calls;
        let nested = unwind::nested_calls(caller, mark, calls.outermost(), wanted as usize, memory);
        if nested.found() < wanted as usize {
            calls.correct(nested.found() as u32, nested.marks(), nested.outermost());
        }
        memory.leave_hints(&thread.hints, mark);
        // All on this stack, also above an event loop: nobody waits for an answer.
        nested.found() as u32
    });
    if let Some(counters) = stats::uring_counters() {
        counters.nested(if depth == wanted { estimate } else { depth });
    }
    if is_like_qemu { depth.saturating_sub(max_depth) } else { 0 }
}

/// Submits so that nothing completes within the call, as far as that can be had.
#[cold]
#[inline(never)]
unsafe fn put_off(mark: usize, ring: *mut Ring, next: Submit, excess: u32) -> c_int {
    // SAFETY: the caller's promise.
    if let Some(pending) = unsafe { Pending::of(ring) } {
        let level = (excess - 1) as usize;
        match pending.hold_back(&DELAYS[level.min(DELAYS.len() - 1)]) {
            Ok(held_back) => {
                note(mark, ring, held_back.count());
                // SAFETY: the caller's promise.
                return unsafe { held_back.submit(next) };
            }
            Err(pending) => {
                if pending.hand_over() > 0 {
                    note(mark, ring, 0);
                }
            }
        }
    }
    // SAFETY: the caller's promise.
    unsafe { next(ring) }
}

fn note(mark: usize, ring: *mut Ring, held_back: u32) {
    THREAD.with(|thread| thread.put_off.set((ring.addr(), mark)));
    let _errno = KeepErrno::new();
    super::first_bound();
    if let Some(counters) = stats::uring_counters() {
        counters.was_at_bound();
        counters.held_back(held_back);
    }
}

/// The thread is about to sleep until `ring` has a completion; who calls has `mark` on its frame.
/// If it waits for requests that were put off, and below where it submitted them, it is a program
/// whose levels wait for their own: that requests complete at once is not what makes it recurse, and
/// all that it has of us is the delay.
pub fn waits(mark: usize, ring: *mut Ring) {
    let is_for_them = THREAD.with(|thread| {
        let (waited_for, from) = thread.put_off.get();
        waited_for == ring.addr()
            && from.wrapping_add(WAITS_ABOVE).wrapping_sub(mark) < WAITS_ABOVE + WAITS_BELOW
    });
    if is_for_them && MAX_DEPTH.swap(0, Ordering::Relaxed) != 0 && stats::uring_counters().is_some()
    {
        complain("guard: this program waits for its completions; io_uring is left alone");
    }
}
