// SPDX-License-Identifier: MIT OR Apache-2.0

//! The C API: what each function takes and gives. What it does is in `laio_engine::c_entry`, which
//! the preload library shares, and in the event loop. The documentation of `include/laio.h` is
//! written here.
//!
//! Pointers are checked for NULL and otherwise believed: what an exported function's documentation
//! asks of the caller is its safety contract, and "the caller's promise" below.

#![allow(clippy::missing_safety_doc)]

// In the order of the header, which rustfmt keeps apart.
mod qemu;

mod state;

mod depth;

mod hooks;

mod event_loop;

mod version;

use std::ffi::c_int;

use laio_engine::State;
use laio_engine::host::LinuxAioState;
use laio_engine::kernel::Chosen;

use crate::host::ProcessHost;

pub use depth::*;
pub use event_loop::*;
pub use hooks::*;
pub use qemu::*;
pub use state::*;
pub use version::*;

const EINVAL: c_int = -libc::EINVAL;

fn host() -> ProcessHost {
    ProcessHost::peek()
}

/// The shipped pair of kernel and host, behind the pointer that C has.
fn state(s: *mut LinuxAioState) -> *mut State<Chosen, ProcessHost> {
    s.cast()
}
