// SPDX-License-Identifier: MIT OR Apache-2.0

//! Which thread a loop belongs to.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

use super::registry;

thread_local! {
    // No destructor, and const: there from the thread's first instruction to its last.
    static ME: Cell<u64> = const { Cell::new(0) };
}

/// A number for the calling thread that no other thread of the process has or has had.
pub fn me() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    if ME.get() == 0 {
        ME.set(NEXT.fetch_add(1, Ordering::Relaxed));
    }
    ME.get()
}

/// The home of one loop: a thread, and whether it has used the loop and so keeps it. One word, so
/// that of two threads which use a new loop first, one gets it.
pub struct Home(AtomicU64);

const USED: u64 = 1;

fn kept_by(thread: u64) -> u64 {
    thread << 1 | USED
}

impl Home {
    /// At home in the calling thread, until another one uses it first.
    pub fn of_calling_thread() -> Self {
        Self(AtomicU64::new(me() << 1))
    }

    /// Whether the calling thread may use the loop. The first to use it may, and keeps it.
    #[inline]
    pub fn claim(&self) -> bool {
        // No loop is kept by 0, for whom a thread passes that has no number yet.
        let mine = kept_by(ME.get());
        self.0.load(Ordering::Acquire) == mine || self.take()
    }

    /// Keeps a loop that nobody has used for the calling thread.
    #[cold]
    #[inline(never)] // Its registers would be saved in the other case as well.
    fn take(&self) -> bool {
        let (found, mine) = (self.0.load(Ordering::Acquire), kept_by(me()));
        if found & USED != 0 {
            return false;
        }
        let taken =
            self.0.compare_exchange(found, mine, Ordering::AcqRel, Ordering::Acquire).is_ok();
        if taken {
            // Its maker may have it in mind.
            registry::changed();
        }
        taken
    }

    /// Whether it is the calling thread's, used or not.
    pub fn is_mine(&self) -> bool {
        self.0.load(Ordering::Acquire) >> 1 == me()
    }
}
