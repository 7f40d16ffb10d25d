// SPDX-License-Identifier: MIT OR Apache-2.0

//! Bottom halves: calls that a loop makes once when they are scheduled.

use std::cell::Cell;
use std::ffi::c_void;
use std::ptr;
use std::rc::Rc;

use laio_engine::host::{AioContext, HostCallback, QEMUBH};

use super::Loop;

/// A bottom half. C sees it as `QEMUBH`.
pub struct BottomHalf {
    owner: *const Loop,
    callback: HostCallback,
    opaque: *mut c_void,
    scheduled: Cell<bool>,
}

impl Loop {
    /// Calls the bottom halves that are scheduled. Whether there were any.
    pub(super) fn run_bottom_halves(&self) -> bool {
        let mut ran = false;
        let mut index = 0;
        // The list may change under each call; who is passed over stays scheduled.
        while let Some(bh) = self.bottom_half(index) {
            if bh.scheduled.replace(false) {
                // SAFETY: given together by the engine; the list holds it, so it is not deleted.
                unsafe { (bh.callback)(bh.opaque) };
                ran = true;
            }
            index += 1;
        }
        ran
    }

    pub(super) fn has_scheduled(&self) -> bool {
        self.bottom_halves.borrow().iter().any(|bh| bh.scheduled.get())
    }

    fn bottom_half(&self, index: usize) -> Option<Rc<BottomHalf>> {
        self.bottom_halves.borrow().get(index).cloned()
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
    let bh = Rc::new(BottomHalf { owner, callback, opaque, scheduled: Cell::new(false) });
    let address = Rc::as_ptr(&bh).cast_mut().cast();
    owner.bottom_halves.borrow_mut().push(bh);
    address
}

/// Lets the loop call `bh` once.
///
/// # Safety
///
/// `bh` is from [`bh_new`] and not deleted.
pub unsafe extern "C" fn bh_schedule(bh: *mut QEMUBH) {
    // SAFETY: the caller's promise; its loop's list holds it.
    let scheduled = unsafe { &*bh.cast::<BottomHalf>() };
    scheduled.scheduled.set(true);
    // SAFETY: a loop is not freed while it serves the state whose bottom half this is.
    unsafe { &*scheduled.owner }.ring();
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
    // SAFETY: the caller's promise. A turn that has it in its hands must not call it any more.
    unsafe { bh_cancel(bh) };
    let deleted = bh.cast::<BottomHalf>().cast_const();
    // SAFETY: the caller's promise.
    let owner = unsafe { &*(*deleted).owner };
    owner.bottom_halves.borrow_mut().retain(|bh| Rc::as_ptr(bh) != deleted);
}
