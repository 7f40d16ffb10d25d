// SPDX-License-Identifier: MIT OR Apache-2.0

//! What a thread's stack and its event loop bear: how deep submission nests on it, and how many owners
//! are told before control goes back. Over all states of the thread, because the stack that
//! overflows, and the event sources that starve, are the thread's and not a state's.

use std::cell::Cell;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

/// The bound unless set.
pub const DEFAULT_MAX_DEPTH: u32 = 8;
/// The highest bound that can be set.
pub const LARGEST_MAX_DEPTH: u32 = 64;
/// How many owners one entry from the event loop tells at most, over all nesting below it. As many
/// as a ring has slots, so that a full ring is emptied in one go.
pub const DEFAULT_MAX_TOLD: u32 = 1024;

static MAX_TOLD: AtomicU32 = AtomicU32::new(DEFAULT_MAX_TOLD);
static MAX_DEPTH: AtomicU32 = AtomicU32::new(DEFAULT_MAX_DEPTH);

/// One thread's counts.
pub struct Thread {
    /// Frames of submission since the last entry from the event loop.
    frames: Cell<u32>,
    /// Entries from event loops on the stack.
    entries: Cell<u32>,
    /// Owners that may be told still before control goes back to the event loop.
    left: Cell<u32>,
    /// Owners told in entries that have ended. It wraps around.
    told: Cell<u32>,
}

thread_local! {
    // No destructor, and const: there as long as the thread.
    static THREAD: Thread = const {
        Thread {
            frames: Cell::new(0),
            entries: Cell::new(0),
            left: Cell::new(0),
            told: Cell::new(0),
        }
    };
}

impl Thread {
    /// Whether another owner may be told before control goes back to the event loop.
    #[inline(always)]
    pub fn may_tell(&self) -> bool {
        self.left.get() != 0
    }

    /// No more owners are told by this entry.
    #[cold]
    pub fn spend(&self) {
        self.left.set(0);
    }

    /// An owner is about to be told.
    #[inline(always)]
    pub fn tell(&self) {
        debug_assert!(self.may_tell(), "more owners are told than one entry may");
        self.left.set(self.left.get().wrapping_sub(1));
    }
}

fn max_told() -> u32 {
    MAX_TOLD.load(Ordering::Relaxed)
}

/// Frames of submission on this thread since its last entry from the event loop.
pub fn current() -> u32 {
    THREAD.with(|thread| thread.frames.get())
}

/// How many owners this thread has told in entries from event loops that have ended, modulo 2^32.
pub fn told() -> u32 {
    THREAD.with(|thread| thread.told.get())
}

/// How many frames there may be.
pub fn max() -> u32 {
    // Relaxed: a number on its own, which orders nothing.
    MAX_DEPTH.load(Ordering::Relaxed)
}

/// Sets the bound of the process; false when it is not within `1..=LARGEST_MAX_DEPTH`.
pub fn set_max(depth: u32) -> bool {
    let sensible = (1..=LARGEST_MAX_DEPTH).contains(&depth);
    if sensible {
        MAX_DEPTH.store(depth, Ordering::Relaxed);
    }
    sensible
}

/// Sets how many owners one entry may tell, for tests: the simulator's scenarios are small.
#[doc(hidden)]
pub fn set_max_told(owners: u32) {
    MAX_TOLD.store(owners.max(1), Ordering::Relaxed);
}

/// Why there is no further frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Limit {
    /// Submission would nest deeper than the bound.
    Depth,
    /// As many owners were told as one entry from the event loop may tell.
    Told,
}

/// One look for completions, in a frame or an entry. Stays on its thread.
pub struct Round {
    thread: NonNull<Thread>,
    /// The host knows, because code of an owner has run. Many rounds find nothing, or only the
    /// request of the coroutine that is submitting.
    pub told_host: Cell<bool>,
}

impl Round {
    #[inline(always)]
    fn on(thread: &Thread) -> Self {
        Self { thread: NonNull::from(thread), told_host: Cell::new(false) }
    }

    /// The thread that it is on.
    #[inline(always)]
    pub fn thread(&self) -> &Thread {
        // SAFETY: frames and entries do not outlive their thread. (Finding it again would cost a call.)
        unsafe { self.thread.as_ref() }
    }
}

/// One frame of submission; leaves it on drop.
#[must_use]
pub struct Frame {
    /// This frame's depth: 1 for the outermost.
    pub depth: u32,
    /// Its look for completions.
    pub round: Round,
}

impl Frame {
    /// Enters a frame, or refuses at a limit.
    #[inline]
    pub fn enter() -> Result<Self, Limit> {
        THREAD.with(|thread| {
            let depth = thread.frames.get() + 1;
            if depth > max() {
                return Err(Limit::Depth);
            }
            if depth == 1 && thread.entries.get() == 0 {
                // Not below any event loop: a submission of the program itself.
                thread.left.set(max_told());
            } else if !thread.may_tell() {
                return Err(Limit::Told);
            }
            thread.frames.set(depth);
            Ok(Self { depth, round: Round::on(thread) })
        })
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        let thread = self.round.thread();
        debug_assert_eq!(thread.frames.get(), self.depth, "frames end out of order");
        thread.frames.set(self.depth - 1);
    }
}

/// An entry from the event loop. Its frames and its owners count from zero, or a nested event loop
/// that is entered at a limit could do nothing; the counts from before are put back on drop.
#[must_use]
pub struct Base {
    outer_frames: u32,
    outer_left: u32,
    budget: u32,
    /// Its look for completions.
    pub round: Round,
}

impl Base {
    /// Enters it.
    pub fn enter() -> Self {
        THREAD.with(|thread| {
            let base = Self {
                outer_frames: thread.frames.replace(0),
                outer_left: thread.left.replace(max_told()),
                budget: thread.left.get(),
                round: Round::on(thread),
            };
            thread.entries.set(thread.entries.get() + 1);
            base
        })
    }
}

impl Drop for Base {
    fn drop(&mut self) {
        let thread = self.round.thread();
        debug_assert_eq!(thread.frames.get(), 0, "an entry ends before its frames");
        let told_here = self.budget - thread.left.get();
        thread.told.set(thread.told.get().wrapping_add(told_here));
        thread.left.set(self.outer_left);
        thread.entries.set(thread.entries.get() - 1);
        thread.frames.set(self.outer_frames);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_stop_at_the_bound_and_count_down_again() {
        let frames: Vec<Frame> = std::iter::from_fn(|| Frame::enter().ok()).take(1000).collect();
        assert_eq!(frames.len(), max() as usize);
        assert_eq!(current(), max());
        assert_eq!(Frame::enter().err(), Some(Limit::Depth));
        // The innermost first, as returning functions do.
        frames.into_iter().rev().for_each(drop);
        assert_eq!(current(), 0);
    }

    #[test]
    fn an_entry_from_the_event_loop_counts_from_zero_and_puts_back() {
        let outer = Frame::enter().ok().unwrap();
        {
            let _base = Base::enter();
            assert_eq!(current(), 0);
            assert_eq!(Frame::enter().ok().unwrap().depth, 1);
        }
        assert_eq!(current(), outer.depth);
    }

    #[test]
    fn another_thread_counts_for_itself() {
        let _frame = Frame::enter().ok().unwrap();
        std::thread::spawn(|| assert_eq!(current(), 0)).join().unwrap();
    }

    fn spend(thread: &Thread, most: u32) -> u32 {
        (0..most).take_while(|_| thread.may_tell()).inspect(|_| thread.tell()).count() as u32
    }

    #[test]
    fn an_entry_tells_so_many_and_a_nested_one_as_many_of_its_own() {
        let outer = Base::enter();
        assert_eq!(spend(outer.round.thread(), 24), 24);
        {
            let nested = Base::enter();
            assert_eq!(spend(nested.round.thread(), u32::MAX), DEFAULT_MAX_TOLD);
            assert_eq!(Frame::enter().err(), Some(Limit::Told));
        }
        let frame = Frame::enter().ok().unwrap();
        assert_eq!(spend(frame.round.thread(), u32::MAX), DEFAULT_MAX_TOLD - 24);
    }

    #[test]
    fn each_submission_of_the_program_itself_has_a_budget() {
        for _ in 0..3 {
            let frame = Frame::enter().ok().unwrap();
            assert_eq!(spend(frame.round.thread(), u32::MAX), DEFAULT_MAX_TOLD);
        }
    }
}
