// SPDX-License-Identifier: MIT OR Apache-2.0

//! laio's engine: one queue, one ring, and the order in which things may happen.
//!
//! Generic over a [`Kernel`](kernel::Kernel), which does the I/O, and a [`Host`](host::Host), which
//! has event loops and coroutines. The crate exports no C symbol: `laio` is the C ABI around it,
//! `laio-preload` the library that points a stock QEMU at it. Both go through [`c_entry`].
//!
//! # Who runs when
//!
//! A request is accepted ([`state`]), waits in the [`queue`], is with
//! the kernel , and is completed . Its owner is told from within, and may
//! do anything then: submit more, plug, run the event loop, which comes back in through
//! the host. So every method takes `&self`, every field is a cell, and nothing is borrowed
//! across a call of the host or of an owner.

pub mod c_entry;
pub mod depth;
pub mod errno;
pub mod host;
pub mod kernel;
mod pool;
pub mod process;
pub mod qiov;
mod queue;
pub mod request;
mod state;
mod stats;
pub mod wait;

pub use state::{Refusal, State};
pub use stats::LaioStats;
