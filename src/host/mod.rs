// SPDX-License-Identifier: MIT OR Apache-2.0

//! The host of the shipped library: the program's table of hooks, or the built-in event loop when it
//! gave none.

mod chosen;
mod log;
mod table;

pub use chosen::{NotSet, ProcessHost};
pub use log::report;
pub use table::{BadTable, HostTable, LaioHostOps, no_max_batch};
