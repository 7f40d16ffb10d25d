// SPDX-License-Identifier: MIT OR Apache-2.0

//! How deep submission nests on a thread, over all states of that thread: the stack that
//! overflows belongs to the thread and not to a state.

use std::cell::Cell;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

/// The bound unless set.
pub const DEFAULT_MAX_DEPTH: u32 = 8;
/// The highest bound that can be set.
pub const LARGEST_MAX_DEPTH: u32 = 64;

static MAX_DEPTH: AtomicU32 = AtomicU32::new(DEFAULT_MAX_DEPTH);

/// One thread's counts.
struct Thread {
    /// Frames of submission since the last entry from the event loop.
    frames: Cell<u32>,
}

thread_local! {
    static THREAD: Thread = const { Thread { frames: Cell::new(0) } };
}

/// Frames of submission on this thread since its last entry from the event loop.
pub fn current() -> u32 {
    THREAD.with(|thread| thread.frames.get())
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

/// One frame of submission; leaves it on drop. Stays on its thread: what it holds is the thread's.
#[must_use]
pub struct Frame {
    /// This frame's depth: 1 for the outermost.
    pub depth: u32,
    thread: NonNull<Thread>,
}

impl Frame {
    /// Enters a frame, or refuses at the bound.
    #[inline]
    pub fn enter() -> Option<Self> {
        THREAD.with(|thread| {
            let depth = thread.frames.get() + 1;
            (depth <= max()).then(|| {
                thread.frames.set(depth);
                Self { depth, thread: NonNull::from(thread) }
            })
        })
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        // SAFETY: a frame does not outlive its thread. (Finding it again would cost a call.)
        unsafe { self.thread.as_ref() }.frames.set(self.depth - 1);
    }
}

/// An entry from the event loop. Its frames count from zero, or a nested event loop that is
/// entered at the bound could submit nothing; the count from before is put back on drop.
#[must_use]
pub struct Base {
    outer_frames: u32,
    thread: NonNull<Thread>,
}

impl Base {
    pub fn enter() -> Self {
        THREAD.with(|thread| Self {
            outer_frames: thread.frames.replace(0),
            thread: NonNull::from(thread),
        })
    }
}

impl Drop for Base {
    fn drop(&mut self) {
        // SAFETY: as in a frame.
        unsafe { self.thread.as_ref() }.frames.set(self.outer_frames);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_stop_at_the_bound_and_count_down_again() {
        let frames: Vec<Frame> = std::iter::from_fn(Frame::enter).take(1000).collect();
        assert_eq!(frames.len(), max() as usize);
        assert_eq!(current(), max());
        // The innermost first, as returning functions do.
        frames.into_iter().rev().for_each(drop);
        assert_eq!(current(), 0);
    }

    #[test]
    fn an_entry_from_the_event_loop_counts_from_zero_and_puts_back() {
        let outer = Frame::enter().unwrap();
        {
            let _base = Base::enter();
            assert_eq!(current(), 0);
            assert_eq!(Frame::enter().unwrap().depth, 1);
        }
        assert_eq!(current(), outer.depth);
    }

    #[test]
    fn another_thread_counts_for_itself() {
        let _frame = Frame::enter().unwrap();
        std::thread::spawn(|| assert_eq!(current(), 0)).join().unwrap();
    }
}
