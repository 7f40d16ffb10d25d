// SPDX-License-Identifier: MIT OR Apache-2.0

//! One line for a human: what was refused, and why.

use std::ffi::{CStr, CString};
use std::fmt;
use std::io::Write;

use laio_engine::host::Host;

use super::ProcessHost;

/// Reports that `function` refused something for `reason`, through the program's log hook or on
/// standard error.
pub fn report(function: &str, reason: impl fmt::Display) {
    let line = format!("laio: {function}: {reason}").replace('\0', " ");
    // Without NULs it cannot fail; and a line is not worth a panic.
    ProcessHost::peek().log(&CString::new(line).unwrap_or_default());
}

/// Writes `line` to standard error, whole.
pub(super) fn to_stderr(line: &CStr) {
    let mut bytes = line.to_bytes().to_vec();
    bytes.push(b'\n');
    // Nobody is left to tell when standard error is gone.
    let _ = std::io::stderr().write_all(&bytes);
}
