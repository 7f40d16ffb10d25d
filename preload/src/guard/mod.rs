// SPDX-License-Identifier: MIT OR Apache-2.0

//! Guard mode: EAGAIN where a program recurses through io_submit too deeply.
//!
//! QEMU takes EAGAIN as "the kernel wants no more for now": it leaves the requests in its queue,
//! returns from all the frames, and submits again from its event loop. Three things have to be true
//! before we answer it, and only the first is an estimate:
//!
//! 1. As many calls as the bound allows may be nested on this stack: [`calls`], a few comparisons
//!    of addresses in each call.
//! 2. They are: the function that calls us is on the stack that many times. The unwind tables tell
//!    ([`unwind`]), and are asked only when the first holds.
//! 3. Somebody will come back: the eventfd of the request is readable, so the event loop that
//!    watches it is about to be called.
//!
//! So a program that does not recurse is never answered EAGAIN.
//!
//! Whatever is looked at may not be what it looks like: see [`memory`].

mod arch;
mod calls;
mod memory;
mod offer;
mod tables;
mod unwind;

use std::ffi::c_long;
use std::sync::atomic::{AtomicU32, Ordering};

pub use laio_engine::kernel::aio::sys::iocb as Iocb;

use crate::stats;
use arch::Registers;
use calls::Calls;
use memory::{Hints, KeepErrno, Memory};
use offer::Offer;

/// How deep calls may nest; 0 as long as there is no bound to keep.
static MAX_DEPTH: AtomicU32 = AtomicU32::new(0);

thread_local! {
    // No destructor and no allocation: the memory is there from the thread's start to its end.
    static CALLS: Calls = const { Calls::new() };
    static HINTS: Hints = const { Hints::new() };
}

pub fn start(max_depth: u32) {
    unwind::start();
    // What libgcc has to look up itself for this, the loader finds now and not on a small stack.
    let _ = tables::rule_at(start as *const () as usize);
    MAX_DEPTH.store(max_depth, Ordering::Relaxed);
}

/// Whether to answer EAGAIN to a call of io_submit that has `mark` on its stack frame. The rest is
/// what io_submit takes, and may be anything.
#[inline]
pub fn refuses(mark: usize, count: c_long, iocbs: *mut *mut Iocb) -> bool {
    let max_depth = MAX_DEPTH.load(Ordering::Relaxed);
    if max_depth == 0 {
        return false;
    }
    // The deepest nesting is worth knowing exactly to whoever asked for statistics.
    let suspicious = match stats::guard_counters() {
        Some(counters) => max_depth.min(counters.deepest()),
        None => max_depth,
    };
    CALLS.with(|calls| {
        let estimate = calls.enter(mark);
        estimate > suspicious && Call { mark, count, iocbs, max_depth }.is_refused(calls)
    })
}

/// A call of io_submit that is worth a closer look.
struct Call {
    mark: usize,
    count: c_long,
    iocbs: *mut *mut Iocb,
    max_depth: u32,
}

impl Call {
    #[cold]
    #[inline(never)]
    fn is_refused(&self, calls: &Calls) -> bool {
        let _errno = KeepErrno::new();
        let Some(caller) = unwind::caller(self.mark) else { return false };
        let memory = &mut Memory::new();
        let refused = self.depth(caller, calls, memory) > self.max_depth
            && Offer::new(memory, self.count, self.iocbs)
                .is_some_and(|offer| offer.eventfd_is_readable());
        if refused {
            HINTS.with(|hints| memory.leave_hints(hints, self.mark));
            if let Some(counters) = stats::guard_counters() {
                counters.refused();
            }
        }
        refused
    }

    /// How deep the call is nested, up to one more than the bound.
    fn depth(&self, caller: Registers, calls: &Calls, memory: &mut Memory) -> u32 {
        HINTS.with(|hints| memory.follow(hints, self.mark));
        let wanted = self.max_depth as usize + 1;
        let nested = unwind::nested_calls(caller, self.mark, calls.outermost(), wanted, memory);
        if nested.found() < wanted {
            calls.correct(nested.found() as u32, nested.marks(), nested.outermost());
        }
        let depth = nested.depth() as u32;
        if let Some(counters) = stats::guard_counters() {
            counters.nested(depth.min(self.max_depth));
        }
        depth
    }
}
