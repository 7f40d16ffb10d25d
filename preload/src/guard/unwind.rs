// SPDX-License-Identifier: MIT OR Apache-2.0

//! What is really on the stack, by the unwind tables of whoever is on it.
//!
//! Calls are nested if the function that called io_submit is on the stack more than once: it called
//! io_submit, which returned, and is still there, further up. (QEMU's ioq_submit reaps completions
//! after submitting, and their owners bring it back to itself.) A function without unwind tables ends
//! the search, and what cannot be seen is not counted.
//!
//! Each frame is where the tables of the one below it say, and the memory is [read](super::memory)
//! by the kernel. So where the stack ends without a sign of it, the search does too.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::arch::{self, Kept, Registers};
use super::calls::KEPT;
use super::memory::Memory;
use super::tables::{self, Base, FramePointer, Rule};

/// Frames to look at for each call that is wanted. QEMU has three between two calls.
const FRAMES_PER_CALL: usize = 64;

/// QEMU's event loop. A call below it does not count with those above: an event loop that is run
/// within a completion must be able to submit what it waits for. 0 if the program has none.
static EVENT_LOOP: AtomicUsize = AtomicUsize::new(0);

pub fn start() {
    // SAFETY: the name is a C string.
    let aio_poll = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"aio_poll".as_ptr()) };
    EVENT_LOOP.store(aio_poll.addr(), Ordering::Relaxed);
}

/// The calls of io_submit in which the present one is nested, and that one itself.
pub struct Nested {
    found: usize,
    /// How many were found when the event loop was.
    below_event_loop: Option<usize>,
    /// An address in the frame of each, the innermost first.
    marks: [usize; KEPT],
    outermost: usize,
}

impl Nested {
    /// How many there are since the event loop was entered.
    pub fn depth(&self) -> usize {
        self.below_event_loop.unwrap_or(self.found)
    }

    /// How many there are on this stack.
    pub fn found(&self) -> usize {
        self.found
    }

    /// An address in the frame of each call on this stack, as many as there is room for, the
    /// innermost first.
    pub fn marks(&self) -> &[usize] {
        &self.marks[..self.found.min(KEPT)]
    }

    /// The same of the outermost.
    pub fn outermost(&self) -> usize {
        self.outermost
    }

    fn push(&mut self, mark: usize) {
        if let Some(place) = self.marks.get_mut(self.found) {
            *place = mark;
        }
        self.outermost = mark;
        self.found += 1;
    }
}

/// The function that called io_submit, where it is now; io_submit has `mark` on its frame.
#[inline(never)]
pub fn caller(mark: usize) -> Option<Registers> {
    // SAFETY: only what the frames of our own functions have, which are running, by their own tables.
    let word = |address| unsafe {
        Some(std::ptr::with_exposed_provenance::<usize>(address).read_volatile())
    };
    let mut frame = Registers::here();
    while frame.stack_pointer <= mark {
        frame = caller_of(&frame, &rule_at(&frame)?, word)?;
        // Now, while the frame that it was put into is there.
        if let Kept::At(address) = frame.frame_pointer {
            frame.frame_pointer = Kept::Value(word(address)?);
        }
    }
    Some(frame)
}

/// Looks for up to `wanted` calls, none of them above that with `outermost` on its frame; the present
/// one has `mark` on its own, and is from `frame`.
pub fn nested_calls(
    mut frame: Registers,
    mark: usize,
    outermost: usize,
    wanted: usize,
    memory: &mut Memory,
) -> Nested {
    let mut nested = Nested { found: 0, below_event_loop: None, marks: [0; KEPT], outermost: mark };
    let event_loop = EVENT_LOOP.load(Ordering::Relaxed);
    // It lies at the same distance from the caller's stack pointer in every call.
    let to_mark = frame.stack_pointer - mark;
    let mut caller = None;
    for _ in 0..wanted * FRAMES_PER_CALL {
        let rule = rule_at(&frame);
        let function = rule.map(|rule| rule.function);
        if caller.is_none() || function == caller {
            nested.push(frame.stack_pointer - to_mark);
            caller = function;
        }
        let Some(rule) = rule else { break };
        if rule.function == event_loop {
            nested.below_event_loop.get_or_insert(nested.found);
        }
        if nested.found >= wanted {
            break;
        }
        match caller_of(&frame, &rule, |address| memory.word(address)) {
            Some(next) if next.stack_pointer - to_mark <= outermost => frame = next,
            _ => break,
        }
    }
    nested
}

fn rule_at(frame: &Registers) -> Option<Rule> {
    // Before the return address, which may be the next function's first.
    tables::rule_at(frame.instruction.wrapping_sub(1))
}

/// The next frame up.
#[inline(always)]
fn caller_of(
    frame: &Registers,
    rule: &Rule,
    mut word: impl FnMut(usize) -> Option<usize>,
) -> Option<Registers> {
    let base = match rule.base {
        Base::StackPointer => frame.stack_pointer,
        Base::FramePointer => match frame.frame_pointer {
            Kept::Value(value) => value,
            Kept::At(address) => word(address)?,
            Kept::Lost => return None,
        },
    };
    let stack_pointer = base.checked_add(rule.distance)?;
    // A stack is left only upwards; anything else is another stack, or none.
    if stack_pointer <= frame.stack_pointer {
        return None;
    }
    let instruction = word(stack_pointer.checked_sub(rule.return_address)?)?;
    let frame_pointer = match rule.frame_pointer {
        FramePointer::Same => frame.frame_pointer,
        FramePointer::Saved(below) => Kept::At(stack_pointer.checked_sub(below)?),
        FramePointer::Lost => Kept::Lost,
    };
    Some(Registers { instruction: arch::unsigned(instruction), stack_pointer, frame_pointer })
}
