// SPDX-License-Identifier: MIT OR Apache-2.0

//! Contexts that are kept for the next one who needs one.
//!
//! io_destroy(2) takes the kernel some thirty milliseconds, because it waits until no processor may
//! be looking at the context any more; hosts make states and ask what a file can do again and again.
//! So the process keeps as many contexts as it has words for this: one for the next state, one for
//! the next question.

use std::sync::atomic::{AtomicU64, Ordering};

use super::ring::Ring;
use super::sys::aio_context_t;
use crate::process;

/// A context of this process with nothing in flight and an empty ring; nobody else has it any more.
pub fn take() -> Option<aio_context_t> {
    // Acquire: what its last user did to the ring is done.
    process::own_words().iter().map(|word| word.swap(0, Ordering::Acquire)).find(|&id| id != 0)
}

/// Keeps a context with nothing in flight; false if there are enough of them, or its ring cannot be
/// known to be empty.
///
/// # Safety
///
/// `id` is a context of this process that its caller has no use for any more.
pub unsafe fn keep(id: aio_context_t) -> bool {
    // SAFETY: the caller's promise.
    let ring = unsafe { Ring::of(id) };
    if ring.is_none_or(|ring| ring.has_events()) {
        return false;
    }
    let put = |word: &AtomicU64| {
        // Release: see `take`.
        word.compare_exchange(0, id, Ordering::Release, Ordering::Relaxed).is_ok()
    };
    process::own_words().iter().any(put)
}
