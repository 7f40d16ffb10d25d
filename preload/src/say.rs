// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the library tells a human, on standard error.

use std::ffi::c_int;
use std::fmt::Display;

/// Says one line, in one write. Without Rust's own standard error: the process may be ending.
pub fn say(line: impl Display) {
    write(&format!("{line}\n"));
}

/// The same of a line that is made already, with its end. Takes no memory.
pub fn say_made(line: &'static str) {
    write(line);
}

fn write(line: &str) {
    const STDERR: c_int = 2;
    // SAFETY: the line's bytes. Nobody is left to tell when it cannot be written.
    unsafe { libc::write(STDERR, line.as_ptr().cast(), line.len()) };
}

/// Says what is wrong.
pub fn complain(message: impl Display) {
    say(format_args!("laio_preload: {message}"));
}
