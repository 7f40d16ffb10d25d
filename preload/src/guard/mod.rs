// SPDX-License-Identifier: MIT OR Apache-2.0

//! Guard mode: EAGAIN where a program recurses through io_submit too deeply.
//!
//! In front of liburing it does not answer anything else, but puts requests off: [`uring`].
//!
//! QEMU takes EAGAIN as "the kernel wants no more for now": it leaves the requests in its queue,
//! returns from all the frames, and submits again from its event loop. All of this has to be true
//! before we answer it, and only the first is an estimate:
//!
//! 1. As many calls as the bound allows may be nested on this stack: [`calls`], a few comparisons
//!    of addresses in each call.
//! 2. They are: the function that calls us is on the stack that many times. The unwind tables tell
//!    ([`unwind`]), and are asked only when the first holds.
//! 3. The function is of a program that takes its completions out of the ring, as QEMU does, and
//!    cannot wait in libaio for one to come: [`objects`].
//! 4. Somebody will come back: the eventfd of the request is readable, so the event loop that
//!    watches it is about to be called.
//! 5. Whoever was refused before did come back as QEMU does: [`refusal`]. Nothing is refused to a
//!    thread in between, and nothing ever again once one did not.
//!
//! So a program that does not recurse is never answered EAGAIN; one that offers the request again,
//! from wherever, has it taken; and one that takes EAGAIN in another way than QEMU gets one.
//!
//! Whatever is looked at may not be what it looks like: see [`memory`].

mod arch;
mod calls;
mod memory;
mod objects;
mod offer;
mod refusal;
mod ring;
mod tables;
mod unwind;
pub mod uring;

use std::ffi::c_long;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

pub use laio_engine::kernel::aio::sys::iocb as Iocb;

use crate::say::{complain, say_made};
use crate::stats;
use arch::Registers;
use calls::Calls;
use memory::{Hints, KeepErrno, Memory};
use offer::Offer;
use refusal::Refusal;

/// How deep calls may nest; 0 as long as there is no bound to keep, and from when the program was
/// found to be one to leave alone.
static MAX_DEPTH: AtomicU32 = AtomicU32::new(0);

/// Somebody has asked for a line when the bound is first met, and has had none yet.
static LOGS_BOUND: AtomicBool = AtomicBool::new(false);

/// From now on a line is wanted.
pub fn log_bound() {
    LOGS_BOUND.store(true, Ordering::Relaxed);
}

/// A call was nested deeper than the bound. The caller keeps errno.
fn first_bound() {
    if LOGS_BOUND.load(Ordering::Relaxed) && LOGS_BOUND.swap(false, Ordering::Relaxed) {
        say_made(
            "laio_preload: LAIO_LOG_BOUND: guard has kept a submission from nesting at the depth bound, the first\n",
        );
    }
}

/// What is known of a thread.
struct Thread {
    calls: Calls,
    refusal: Refusal,
    hints: Hints,
}

thread_local! {
    // No destructor and no allocation: the memory is there from the thread's start to its end. One
    // variable, because each is looked up.
    static THREAD: Thread = const {
        Thread { calls: Calls::new(), refusal: Refusal::new(), hints: Hints::new() }
    };
}

pub fn start(max_depth: u32) {
    unwind::start();
    start_io_uring(max_depth);
    MAX_DEPTH.store(max_depth, Ordering::Relaxed);
}

/// In front of liburing alone.
pub fn start_io_uring(max_depth: u32) {
    // What libgcc has to look up itself for this, the loader finds now and not on a small stack.
    let _ = tables::rule_at(start as *const () as usize);
    uring::start(max_depth);
}

/// Whether to answer EAGAIN to a call of io_submit that has `mark` on its stack frame. The rest is
/// what io_submit takes, and may be anything.
#[inline]
pub fn refuses(mark: usize, context: usize, count: c_long, iocbs: *mut *mut Iocb) -> bool {
    let max_depth = MAX_DEPTH.load(Ordering::Relaxed);
    if max_depth == 0 {
        return false;
    }
    // The deepest nesting is worth knowing exactly to whoever asked for statistics.
    let suspicious = match stats::guard_counters() {
        Some(counters) => max_depth.min(counters.deepest()),
        None => max_depth,
    };
    THREAD.with(|thread| {
        let estimate = thread.calls.enter(mark);
        if estimate <= suspicious && !thread.refusal.is_outstanding() {
            return false;
        }
        Call { thread, mark, context, count, iocbs, max_depth, suspicious, estimate }.is_refused()
    })
}

/// A call of io_submit that is worth a closer look.
struct Call<'a> {
    thread: &'a Thread,
    mark: usize,
    context: usize,
    count: c_long,
    iocbs: *mut *mut Iocb,
    max_depth: u32,
    /// The largest estimate that tells enough.
    suspicious: u32,
    estimate: u32,
}

impl Call<'_> {
    #[cold]
    #[inline(never)]
    fn is_refused(&self) -> bool {
        let refusal = &self.thread.refusal;
        let _errno = KeepErrno::new();
        let Some(caller) = unwind::caller(self.mark) else { return false };
        let is_like_qemu = objects::LIBAIO.is_used_like_qemu_does(caller.instruction);
        if !is_like_qemu && stats::guard_counters().is_none() {
            return false;
        }
        let memory = &mut Memory::new();
        let depth = self.depth(caller, memory);
        if refusal.is_outstanding() {
            self.settle(depth, memory);
            return false;
        }
        let refused = depth > self.max_depth
            && is_like_qemu
            && Offer::new(memory, self.context, self.count, self.iocbs)
                .is_some_and(|offer| offer.eventfd_is_readable() && refusal.give(offer));
        if refused {
            memory.leave_hints(&self.thread.hints, self.mark);
            first_bound();
            if let Some(counters) = stats::guard_counters() {
                counters.was_at_bound();
            }
        }
        refused
    }

    /// How deep the call is nested, up to one more than the bound.
    fn depth(&self, caller: Registers, memory: &mut Memory) -> u32 {
        if self.estimate <= self.suspicious {
            return self.estimate;
        }
        let calls = &self.thread.calls;
        memory.follow(&self.thread.hints, self.mark);
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

    /// The first call after a refusal, if it offers the context anything: is that QEMU's way?
    fn settle(&self, depth: u32, memory: &Memory) {
        if self.count <= 0 {
            return;
        }
        let has_unwound = depth <= self.max_depth;
        let came_back = self.thread.refusal.settle(memory, self.context, self.iocbs, has_unwound);
        if came_back == Some(false) {
            leave_alone();
        }
    }
}

/// This program does something else on EAGAIN than QEMU. It is not to see one again.
#[cold]
fn leave_alone() {
    if MAX_DEPTH.swap(0, Ordering::Relaxed) != 0 && stats::guard_counters().is_some() {
        complain("guard: this program does not take EAGAIN as QEMU does; it gets no other");
    }
}
