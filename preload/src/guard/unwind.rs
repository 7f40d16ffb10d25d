// SPDX-License-Identifier: MIT OR Apache-2.0

//! What is really on the stack, by the unwind tables of whoever is on it.
//!
//! Calls are nested if the function that called io_submit is on the stack more than once: it called
//! io_submit, which returned, and is still there, further up. (QEMU's ioq_submit reaps completions
//! after submitting, and their owners bring it back to itself.) A function without unwind tables ends
//! the search, and what cannot be seen is not counted.

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicUsize, Ordering};

use laio_engine::depth::LARGEST_MAX_DEPTH;

use super::chain::{Chain, Frame};

/// Frames to look at for each call that is wanted. QEMU has three between two calls.
const FRAMES_PER_CALL: usize = 64;
const LARGEST: usize = LARGEST_MAX_DEPTH as usize + 1;

/// QEMU's event loop. A call below it does not count with those above: an event loop that is run
/// within a completion must be able to submit what it waits for. 0 if the program has none.
static EVENT_LOOP: AtomicUsize = AtomicUsize::new(0);

pub fn start() {
    // SAFETY: the name is a C string.
    let aio_poll = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"aio_poll".as_ptr()) };
    EVENT_LOOP.store(aio_poll.addr(), Ordering::Relaxed);
}

#[repr(C)]
struct Context {
    _private: [u8; 0],
}

const CONTINUE: c_int = 0; // _URC_NO_REASON
const STOP: c_int = 4; // _URC_NORMAL_STOP

// Of libgcc_s, which every Rust library is linked to.
unsafe extern "C" {
    fn _Unwind_Backtrace(
        trace: unsafe extern "C" fn(*mut Context, *mut c_void) -> c_int,
        argument: *mut c_void,
    ) -> c_int;
    fn _Unwind_GetCFA(context: *mut Context) -> usize;
    #[cfg(target_arch = "x86_64")]
    fn _Unwind_GetIP(context: *mut Context) -> usize;
    fn _Unwind_GetRegionStart(context: *mut Context) -> usize;
}

/// The calls of io_submit in which the present one is nested, and that one itself.
pub struct Nested<'a> {
    /// Takes note of the frames on the way.
    chain: &'a Chain,
    chain_is_whole: bool,
    mark: usize,
    wanted: usize,
    frames_left: usize,
    event_loop: usize,
    /// The function that called io_submit, once its frame was seen.
    caller: usize,
    /// From the caller's stack pointer to the mark.
    to_mark: usize,
    found: usize,
    /// How many were found when the event loop was.
    below_event_loop: Option<usize>,
    marks: [usize; LARGEST],
}

impl Nested<'_> {
    /// How many there are since the event loop was entered.
    pub fn depth(&self) -> usize {
        self.below_event_loop.unwrap_or(self.found)
    }

    /// An address in the frame of each call on this stack, the innermost first.
    pub fn marks(&self) -> &[usize] {
        &self.marks[..self.found]
    }

    fn see(&mut self, context: *mut Context) -> c_int {
        // SAFETY: the unwinder's own context, during its callback.
        let (stack_pointer, function) =
            unsafe { (_Unwind_GetCFA(context), _Unwind_GetRegionStart(context)) };
        if stack_pointer <= self.mark {
            return CONTINUE; // Our own frames.
        }
        self.note(context, stack_pointer);
        if self.found == 0 {
            self.caller = function;
            self.to_mark = stack_pointer - self.mark;
        }
        if function == self.event_loop && function != 0 {
            self.below_event_loop.get_or_insert(self.found);
            self.chain_is_whole = false;
        }
        if function == self.caller && function != 0 || self.found == 0 {
            self.marks[self.found] = stack_pointer - self.to_mark;
            self.found += 1;
        }
        self.frames_left -= 1;
        if self.found == self.wanted || self.frames_left == 0 { STOP } else { CONTINUE }
    }

    #[cfg(target_arch = "x86_64")]
    fn note(&mut self, context: *mut Context, stack_pointer: usize) {
        let place = stack_pointer - size_of::<usize>();
        // SAFETY: as in `see`.
        let return_address = unsafe { _Unwind_GetIP(context) };
        self.chain_is_whole &= u32::try_from(place - self.mark)
            .is_ok_and(|distance| self.chain.push(Frame { distance, return_address }));
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn note(&mut self, _: *mut Context, _: usize) {
        self.chain_is_whole = false;
    }

    unsafe extern "C" fn trace(context: *mut Context, this: *mut c_void) -> c_int {
        // SAFETY: what `nested_calls` gave.
        unsafe { &mut *this.cast::<Self>() }.see(context)
    }
}

/// Looks for up to `wanted` calls; the present one has `mark` on its frame. The frames up to the last
/// of them are in `chain` afterwards, if there is room.
pub fn nested_calls(mark: usize, wanted: usize, chain: &Chain) -> Nested<'_> {
    chain.clear();
    let wanted = wanted.clamp(1, LARGEST);
    let mut nested = Nested {
        chain,
        chain_is_whole: true,
        mark,
        wanted,
        frames_left: wanted * FRAMES_PER_CALL,
        event_loop: EVENT_LOOP.load(Ordering::Relaxed),
        caller: 0,
        to_mark: 0,
        found: 0,
        below_event_loop: None,
        marks: [0; LARGEST],
    };
    // SAFETY: the callback gets the address of a `Nested` that outlives the call.
    unsafe { _Unwind_Backtrace(Nested::trace, (&raw mut nested).cast()) };
    if !nested.chain_is_whole {
        chain.clear();
    }
    nested
}
