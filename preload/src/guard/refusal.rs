// SPDX-License-Identifier: MIT OR Apache-2.0

//! What a refusal owes, and to whom: the request is taken when it is offered again.
//!
//! QEMU keeps a refused request at the head of its queue, returns from all the frames, and offers it
//! first thing from its event loop. Until the thread has offered something to that context again,
//! nothing else is refused to it; and if it offers something else, or this from where it was
//! refused, it does not take EAGAIN as QEMU does and must not get another.

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, Ordering};

use super::Iocb;
use super::memory::Memory;
use super::offer::Offer;

/// Refusals that threads may have been given and not have come back from. A program with more
/// starts threads to do what ended with EAGAIN on others.
const MOST: u32 = 1024;

/// Times in a row that a thread may come back in a way that is hardly QEMU's.
const MOST_DOUBTS: u32 = 16;

static OUTSTANDING: AtomicU32 = AtomicU32::new(0);

/// A thread's last refusal, and whether the thread has not come back from it.
pub struct Refusal {
    offer: Cell<Offer>,
    is_outstanding: Cell<bool>,
    /// Whether it was for the same request as the one before.
    is_repeated: Cell<bool>,
    /// How often in a row it was doubtful whether the thread takes EAGAIN as QEMU does.
    doubts: Cell<u32>,
}

impl Refusal {
    pub const fn new() -> Self {
        Self {
            offer: Cell::new(Offer::NONE),
            is_outstanding: Cell::new(false),
            is_repeated: Cell::new(false),
            doubts: Cell::new(0),
        }
    }

    pub fn is_outstanding(&self) -> bool {
        self.is_outstanding.get()
    }

    /// Takes note of a refusal; false if there are too many already.
    pub fn give(&self, offer: Offer) -> bool {
        if OUTSTANDING.fetch_add(1, Ordering::Relaxed) >= MOST {
            OUTSTANDING.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        self.is_repeated.set(self.offer.get() == offer);
        self.offer.set(offer);
        self.is_outstanding.set(true);
        true
    }

    /// Whether a call of io_submit for `context` is the thread's coming back; `has_unwound` if it is
    /// not nested as the refused call was. `None` if it has nothing to do with that one.
    pub fn settle(
        &self,
        memory: &Memory,
        context: usize,
        iocbs: *mut *mut Iocb,
        has_unwound: bool,
    ) -> Option<bool> {
        let offer = self.offer.get();
        if offer.context() != context {
            return None;
        }
        self.is_outstanding.set(false);
        OUTSTANDING.fetch_sub(1, Ordering::Relaxed);
        if !offer.is_at(memory, iocbs) {
            return Some(false);
        }
        // Retried on the spot, which may be an event loop that we do not know by name; or all begun
        // anew, with the same request. Either has read the eventfd if it is QEMU's way, though there
        // may be something in it again.
        let is_doubtful = !has_unwound || self.is_repeated.get();
        if !is_doubtful || !offer.eventfd_is_readable() {
            self.doubts.set(0);
            return Some(true);
        }
        self.doubts.set(self.doubts.get() + 1);
        Some(self.doubts.get() <= MOST_DOUBTS)
    }
}
