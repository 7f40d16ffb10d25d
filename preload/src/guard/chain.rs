// SPDX-License-Identifier: MIT OR Apache-2.0

//! The last nesting that the unwinder found too deep, so that it need not look again when the same
//! comes back: a program that recurses once does so thousands of times, by the same frames.
//!
//! On x86-64 a return address stands right below where its caller's stack pointer is, and a function
//! takes the same space between its caller's and its own whenever it is at the same place in its code
//! (but for those that allocate on the stack as they go). So if the first return address is the
//! known one, the second must be where it was then; if that is the known one too, so must the third.
//! A program that does not recurse gives nothing to compare with.

use std::cell::Cell;

/// Frames in a chain. A longer one is not kept, and the unwinder looks each time.
const LENGTH: usize = 64;

#[derive(Clone, Copy)]
pub struct Frame {
    /// Where the return address is, from the mark up.
    pub distance: u32,
    pub return_address: usize,
}

pub struct Chain {
    length: Cell<usize>,
    frames: [Cell<Frame>; LENGTH],
}

impl Chain {
    pub const fn new() -> Self {
        const NONE: Frame = Frame { distance: 0, return_address: 0 };
        Self { length: Cell::new(0), frames: [const { Cell::new(NONE) }; LENGTH] }
    }

    pub fn clear(&self) {
        self.length.set(0);
    }

    /// Adds the next frame up; false if there is no room.
    pub fn push(&self, frame: Frame) -> bool {
        let length = self.length.get();
        let Some(place) = self.frames.get(length) else {
            return false;
        };
        place.set(frame);
        self.length.set(length + 1);
        true
    }

    /// Whether the same frames are above `mark`, and none of them above that of the call that had
    /// `outermost` on its frame.
    ///
    /// # Safety
    ///
    /// `mark` is on a frame of the calling thread now, and `outermost` was on one of the same stack.
    pub unsafe fn is_above(&self, mark: usize, outermost: usize) -> bool {
        let frames = &self.frames[..self.length.get()];
        let Some(first) = frames.first() else {
            return false;
        };
        let last_place = outermost + first.get().distance as usize;
        frames.iter().all(|frame| {
            let frame = frame.get();
            let place = mark + frame.distance as usize;
            // SAFETY: above us on this stack, and not above the return address of an earlier call.
            place <= last_place
                && unsafe { std::ptr::with_exposed_provenance::<usize>(place).read_volatile() }
                    == frame.return_address
        })
    }
}
