// SPDX-License-Identifier: MIT OR Apache-2.0

//! Guard mode: EAGAIN where a program recurses through io_submit too deeply.
//!
//! QEMU takes EAGAIN as "the kernel wants no more for now": it leaves the requests in its queue,
//! returns from all the frames, and submits again from its event loop. Three things have to be true
//! before we answer it, and only the first is an estimate:
//!
//! 1. As many calls as the bound allows may be nested on this stack: [`calls`], a few comparisons
//!    in each call, which can be too high but not too low.
//! 2. They are: the function that calls us is on the stack that many times. The unwinder tells
//!    ([`unwind`]), and is asked only when the first holds.
//! 3. Somebody will come back: the eventfd of the request is readable, so the event loop that
//!    watches it is about to be called.
//!
//! So a program that does not recurse is never answered EAGAIN, and one that does only when it
//! cannot hang on it.

mod calls;
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
mod chain;
mod unwind;

use std::ffi::{c_int, c_long};
use std::sync::atomic::{AtomicU32, Ordering};

use laio_engine::kernel::aio::sys::IOCB_FLAG_RESFD;
pub use laio_engine::kernel::aio::sys::iocb as Iocb;

use crate::stats;
use calls::Calls;
use chain::Chain;

/// How deep calls may nest; 0 as long as there is no bound to keep.
static MAX_DEPTH: AtomicU32 = AtomicU32::new(0);

thread_local! {
    // No destructor and no allocation: the memory is there from the thread's start to its end.
    static CALLS: Calls = const { Calls::new() };
    static CHAIN: Chain = const { Chain::new() };
}

pub fn start(max_depth: u32) {
    unwind::start();
    MAX_DEPTH.store(max_depth, Ordering::Relaxed);
}

/// Whether to answer EAGAIN to a call of io_submit that has `mark` on its stack frame.
///
/// # Safety
///
/// `count` and `iocbs` are what io_submit takes.
#[inline]
pub unsafe fn refuses(mark: usize, count: c_long, iocbs: *mut *mut Iocb) -> bool {
    let max_depth = MAX_DEPTH.load(Ordering::Relaxed);
    if max_depth == 0 {
        return false;
    }
    let counters = stats::guard_counters();
    // The deepest nesting is worth knowing exactly to whoever asked for statistics.
    let suspicious = match counters {
        Some(counters) => max_depth.min(counters.deepest()),
        None => max_depth,
    };
    CALLS.with(|calls| {
        if calls.enter(mark) <= suspicious {
            return false;
        }
        let depth = look_closely(calls, mark, max_depth);
        if let Some(counters) = counters {
            counters.nested(depth.min(max_depth));
        }
        // SAFETY: the caller's promise.
        let refused = depth > max_depth && unsafe { event_loop_will_run(count, iocbs) };
        if let (true, Some(counters)) = (refused, counters) {
            counters.refused();
        }
        refused
    })
}

/// How deep the call is nested, up to one more than the bound.
#[cold]
fn look_closely(calls: &Calls, mark: usize, max_depth: u32) -> u32 {
    CHAIN.with(|chain| {
        // SAFETY: `mark` is on our caller's frame; the other is of an earlier call on its stack.
        if calls.depth() > max_depth && unsafe { chain.is_above(mark, calls.outermost()) } {
            return max_depth + 1;
        }
        let wanted = max_depth as usize + 1;
        let nested = unwind::nested_calls(mark, wanted, chain);
        if nested.marks().len() < wanted {
            calls.correct(nested.marks());
            chain.clear();
        }
        nested.depth() as u32
    })
}

/// Whether the event loop that watches the first request's eventfd finds it readable.
///
/// # Safety
///
/// As [`refuses`].
unsafe fn event_loop_will_run(count: c_long, iocbs: *mut *mut Iocb) -> bool {
    if count <= 0 || iocbs.is_null() {
        return false;
    }
    // SAFETY: `count` pointers; the kernel would read the first request as well.
    let Some(first) = (unsafe { (*iocbs).as_ref() }) else {
        return false;
    };
    if first.aio_flags & IOCB_FLAG_RESFD == 0 {
        return false;
    }
    let mut eventfd =
        libc::pollfd { fd: first.aio_resfd as c_int, events: libc::POLLIN, revents: 0 };
    // SAFETY: one entry.
    let ready = unsafe { libc::poll(&mut eventfd, 1, 0) };
    ready == 1 && eventfd.revents & libc::POLLIN != 0
}
