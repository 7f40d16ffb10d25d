// SPDX-License-Identifier: MIT OR Apache-2.0

//! The bound on nested submission.

use std::ffi::{c_int, c_uint};

use laio_engine::depth;

use super::EINVAL;

/// How many frames of submission are on the calling thread's stack, over all its states, since its
/// event loop last called the library.
#[unsafe(no_mangle)]
pub extern "C" fn laio_submit_depth() -> c_uint {
    depth::current()
}

/// How many there may be, on any thread: 8 unless set.
#[unsafe(no_mangle)]
pub extern "C" fn laio_max_submit_depth() -> c_uint {
    depth::max()
}

/// Sets how deep submission may nest, for all threads: 1 to 64, or else -EINVAL. Returns 0. A
/// level takes less than 1 KiB of stack, and what the host's own functions take in between.
/// A nested event loop counts anew: with n of them in each other there may be n + 1 times as many
/// levels on the stack.
#[unsafe(no_mangle)]
pub extern "C" fn laio_set_max_submit_depth(depth: c_uint) -> c_int {
    if depth::set_max(depth) { 0 } else { EINVAL }
}
