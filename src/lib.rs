// SPDX-License-Identifier: MIT OR Apache-2.0

//! `laio`: asynchronous disk I/O behind the C ABI of QEMU's `block/linux-aio.c`.
//!
//! The contract is the C API of `include/laio.h`, which is generated from [`ffi`]. What it does is
//! in the crate `laio-engine`.

#![deny(missing_docs)]

mod event_loop;
pub mod ffi;
mod host;

// What uses the library as a C program does, but for the language. Here, because a crate that is no
// rlib can be used by no other.
#[cfg(test)]
#[path = "../tests/abi/mod.rs"]
mod abi;
