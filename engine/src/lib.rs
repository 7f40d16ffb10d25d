// SPDX-License-Identifier: MIT OR Apache-2.0

//! laio's engine: one queue, one ring, and the order in which things may happen.
//!
//! Generic over a [`Kernel`](kernel::Kernel), which does the I/O, and a [`Host`](host::Host), which
//! has event loops and coroutines. The crate exports no C symbol: `laio` is the C ABI around it,
//! `laio-preload` the library that points a stock QEMU at it. Both go through [`c_entry`].
//!
//! # Who runs when
//!
//! A request is checked ([`request::Io`]) and accepted ([`State::submit`], [`State::co_submit`]), waits
//! in the queue, is with the [kernel](kernel::Kernel::submit), and is completed by what the kernel's
//! result [means](request::Outcome). Its owner is told from within, and may do anything then: submit
//! more, plug, run the event loop, which comes back in through what the [`host`] was given. So every
//! method takes `&self`, every field is a cell, and nothing is borrowed across a call of the host or of
//! an owner.
//!
//! Why no request is left behind stands at the top of `state/mod.rs`; `docs/architecture.md` is the
//! map of all crates.

#![deny(missing_docs)]

pub mod c_entry;
pub mod depth;
pub mod errno;
mod first_bound;
pub mod host;
pub mod kernel;
mod pool;
pub mod process;
pub mod qiov;
mod queue;
pub mod request;
mod state;
mod stats;
mod trace;
pub mod wait;

pub use state::{Refusal, State};
pub use stats::LaioStats;
