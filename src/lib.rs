// SPDX-License-Identifier: MIT OR Apache-2.0

//! `laio`: asynchronous disk I/O behind the C ABI of QEMU's `block/linux-aio.c`.
//!
//! The contract is the C API of `include/laio.h`, which is generated from [`ffi`]. The Rust modules
//! are public for this project's own tests, and change without notice.

pub mod engine;
pub mod ffi;
pub mod host;
pub mod kernel;

/// The shipped pair of kernel and host.
pub type LinuxAioState = engine::State<kernel::LinuxAio, host::ProcessHost>;
