// SPDX-License-Identifier: MIT OR Apache-2.0

//! Bottom halves: calls that a loop makes once when they are scheduled.

use std::cell::Cell;
use std::ffi::c_void;
use std::ptr;

use laio_engine::host::{AioContext, HostCallback, QEMUBH};

use super::Loop;

/// A bottom half. C sees it as `QEMUBH`.
pub struct BottomHalf {
    owner: *const Loop,
    callback: HostCallback,
    opaque: *mut c_void,
    scheduled: Cell<bool>,
    /// In the loop's list. One that was cancelled stays there until its turn comes.
    listed: Cell<bool>,
    /// The one behind it there.
    next: Cell<*const BottomHalf>,
}

/// Bottom halves that are scheduled, the oldest first: a list through themselves, which takes no memory
/// to be longer. What is deleted is taken out, so that they are valid.
pub struct Scheduled {
    first: Cell<*const BottomHalf>,
    last: Cell<*const BottomHalf>,
    len: Cell<usize>,
}

impl Default for Scheduled {
    fn default() -> Self {
        Self { first: Cell::new(ptr::null()), last: Cell::new(ptr::null()), len: Cell::new(0) }
    }
}

impl Scheduled {
    fn first(&self) -> Option<&BottomHalf> {
        // SAFETY: valid, or null.
        unsafe { self.first.get().as_ref() }
    }

    #[inline]
    fn push(&self, bh: &BottomHalf) {
        debug_assert!(!bh.listed.get(), "a bottom half is listed twice");
        bh.listed.set(true);
        bh.next.set(ptr::null());
        // SAFETY: valid, or null.
        match unsafe { self.last.replace(bh).as_ref() } {
            Some(last) => last.next.set(bh),
            None => self.first.set(bh),
        }
        self.len.set(self.len.get() + 1);
    }

    #[inline]
    fn pop(&self) -> Option<&BottomHalf> {
        let first = self.first()?;
        first.listed.set(false);
        self.first.set(first.next.get());
        if first.next.get().is_null() {
            self.last.set(ptr::null());
        }
        self.len.set(self.len.get() - 1);
        Some(first)
    }

    /// Takes `gone` out, and leaves the others in their order.
    #[cold]
    fn remove(&self, gone: &BottomHalf) {
        for _ in 0..self.len.get() {
            if let Some(first) = self.pop().filter(|&first| !ptr::eq(first, gone)) {
                self.push(first);
            }
        }
    }
}

impl Loop {
    /// Calls the bottom halves that are scheduled. Whether there were any.
    pub(super) fn run_bottom_halves(&self) -> bool {
        let mut ran = false;
        // As many as there are now: what is scheduled by the calls waits for the next turn. A nested turn
        // may take some of them.
        for _ in 0..self.scheduled.len.get() {
            let Some(bh) = self.scheduled.pop() else { break };
            if bh.scheduled.replace(false) {
                // SAFETY: given together by the engine. It may be deleted meanwhile, and is not touched
                // again.
                unsafe { (bh.callback)(bh.opaque) };
                ran = true;
            }
        }
        ran
    }

    pub(super) fn has_scheduled(&self) -> bool {
        while let Some(first) = self.scheduled.first() {
            if first.scheduled.get() {
                return true;
            }
            self.scheduled.pop();
        }
        false
    }
}

/// A new bottom half of `context` that calls `callback(opaque)`.
///
/// # Safety
///
/// `context` is null or a loop; its thread does not run it now.
pub unsafe extern "C" fn bh_new(
    context: *mut AioContext,
    callback: HostCallback,
    opaque: *mut c_void,
) -> *mut QEMUBH {
    // SAFETY: the caller's promise.
    let Some(owner) = (unsafe { Loop::from_context(context) }) else {
        return ptr::null_mut();
    };
    let bh = BottomHalf {
        owner,
        callback,
        opaque,
        scheduled: Cell::new(false),
        listed: Cell::new(false),
        next: Cell::new(ptr::null()),
    };
    Box::into_raw(Box::new(bh)).cast()
}

/// Lets the loop call `bh` once.
///
/// # Safety
///
/// `bh` is from [`bh_new`] and not deleted.
pub unsafe extern "C" fn bh_schedule(bh: *mut QEMUBH) {
    // SAFETY: the caller's promise.
    let bh = unsafe { &*bh.cast::<BottomHalf>() };
    // SAFETY: a loop is not freed while it serves the state whose bottom half this is.
    let owner = unsafe { &*bh.owner };
    bh.scheduled.set(true);
    if !bh.listed.get() {
        owner.scheduled.push(bh);
    }
    owner.ring();
}

/// Takes that back.
///
/// # Safety
///
/// As [`bh_schedule`].
pub unsafe extern "C" fn bh_cancel(bh: *mut QEMUBH) {
    // SAFETY: the caller's promise.
    unsafe { &*bh.cast::<BottomHalf>() }.scheduled.set(false);
}

/// Cancels and frees `bh`.
///
/// # Safety
///
/// As [`bh_schedule`]. Its loop is not freed, which it serves a state for until then.
pub unsafe extern "C" fn bh_delete(bh: *mut QEMUBH) {
    let deleted = bh.cast::<BottomHalf>();
    {
        // SAFETY: the caller's promise.
        let deleted = unsafe { &*deleted };
        if deleted.listed.get() {
            // SAFETY: the caller's promise.
            unsafe { &*deleted.owner }.scheduled.remove(deleted);
        }
    }
    // SAFETY: from the box of `bh_new`, and nobody has it any more.
    drop(unsafe { Box::from_raw(deleted) });
}
