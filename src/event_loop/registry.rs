// SPDX-License-Identifier: MIT OR Apache-2.0

//! All loops of the process, and which of them the calling thread submits to.
//!
//! A list through the loops themselves, the newest first, under a lock. Each change of it is one
//! store, so that the child of a fork has a whole list even if a thread that it does not have was
//! about to change it; and the lock names the process that holds it, so that the child does not
//! wait for that thread.

use std::cell::Cell;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use laio_engine::host::AioContext;
use laio_engine::process::Process;

use super::{Loop, turn};

static NEWEST: AtomicPtr<Loop> = AtomicPtr::new(ptr::null_mut());
/// How often the answer of [`newest_of_mine`] may have changed. A thread that remembers one looks
/// again when this has moved.
static CHANGES: AtomicU64 = AtomicU64::new(1);

thread_local! {
    /// What [`newest_of_mine`] found, and when.
    static KNOWN: Cell<(u64, *mut AioContext)> = const { Cell::new((0, ptr::null_mut())) };
}

/// Says that some loop has another home, or is new, or gone.
pub fn changed() {
    CHANGES.fetch_add(1, Ordering::Release);
}

/// Puts a new loop first.
pub fn add(new: &Loop) {
    let _locked = Lock::enter();
    new.older.store(NEWEST.load(Ordering::Relaxed), Ordering::Relaxed);
    NEWEST.store(ptr::from_ref(new).cast_mut(), Ordering::Release);
    changed();
}

/// Takes a loop out.
pub fn remove(gone: &Loop) {
    let _locked = Lock::enter();
    let mut link = &NEWEST;
    loop {
        let next = link.load(Ordering::Relaxed);
        // SAFETY: a loop in the list is not freed, and the lock keeps it there.
        let Some(next) = (unsafe { next.as_ref() }) else { return };
        if ptr::eq(next, gone) {
            link.store(gone.older.load(Ordering::Relaxed), Ordering::Release);
            return changed();
        }
        link = &next.older;
    }
}

/// The calling thread's loop: the one whose turn runs, or else the newest. Null if it has none.
///
/// Whoever asks submits to it, and so uses it: the thread keeps it.
#[inline]
pub fn current() -> *mut AioContext {
    let polled = turn::polled();
    if !polled.is_null() {
        return polled;
    }
    let (when, known) = KNOWN.get();
    if when == CHANGES.load(Ordering::Acquire) { known } else { look_again() }
}

#[cold]
fn look_again() -> *mut AioContext {
    let mut when = CHANGES.load(Ordering::Acquire);
    let mut found = newest_of_mine();
    // To keep a loop is a change as well.
    while when != CHANGES.load(Ordering::Acquire) {
        when = CHANGES.load(Ordering::Acquire);
        found = newest_of_mine();
    }
    KNOWN.set((when, found));
    found
}

fn newest_of_mine() -> *mut AioContext {
    let _locked = Lock::enter();
    let mut next = NEWEST.load(Ordering::Relaxed);
    // SAFETY: as in `remove`.
    while let Some(known) = unsafe { next.as_ref() } {
        // Another thread may take an unused one in between.
        if known.home.is_mine() && known.home.claim() {
            return known.as_context();
        }
        next = known.older.load(Ordering::Relaxed);
    }
    ptr::null_mut()
}

/// 0, or the number of the process that holds the lock.
static HOLDER: AtomicU64 = AtomicU64::new(0);

/// The registry, for this thread alone. It is held for a few instructions, in which nothing waits.
struct Lock;

impl Lock {
    fn enter() -> Self {
        let me = Process::current().number();
        loop {
            let holder = HOLDER.load(Ordering::Relaxed);
            // Free, or held by a thread of an ancestor, which is not here.
            let is_free = holder != me;
            if is_free
                && HOLDER
                    .compare_exchange_weak(holder, me, Ordering::Acquire, Ordering::Relaxed)
                    .is_ok()
            {
                return Self;
            }
            std::thread::yield_now();
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        HOLDER.store(0, Ordering::Release);
    }
}
