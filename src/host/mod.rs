// SPDX-License-Identifier: MIT OR Apache-2.0

//! The host of the shipped library: the program's table of hooks, or a native host of the library's
//! own (the built-in event loop) when it gave none.

mod built_in;
mod chosen;
mod table;

use std::fmt;

pub use chosen::{NotSet, ProcessHost};
pub use table::LaioHostOps;

/// Reports that `function` refused something for `reason`, through the program's log hook or on
/// standard error.
pub fn report(function: &str, reason: impl fmt::Display) {
    laio_engine::host::report(ProcessHost::peek(), function, reason);
}
