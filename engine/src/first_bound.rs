// SPDX-License-Identifier: MIT OR Apache-2.0

//! LAIO_LOG_BOUND=1: one line in the log when a process has hit the depth bound for the first time.

use std::ffi::OsString;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::host::{Host, report};

/// The variable of the environment that asks for it.
pub const VARIABLE: &str = "LAIO_LOG_BOUND";

/// Somebody has asked, and nothing was said yet.
static IS_WANTED: AtomicBool = AtomicBool::new(false);

/// Asks for it if the environment does. An error is a value that makes no sense.
pub fn ask_environment() -> Result<(), OsString> {
    let value = std::env::var_os(VARIABLE).unwrap_or_default();
    match value.to_str() {
        Some("" | "0") => {}
        Some("1") => IS_WANTED.store(true, Relaxed),
        _ => return Err(value),
    }
    Ok(())
}

/// Whether to [`say`] that a submission was left to the event loop at the bound.
#[inline]
pub fn is_wanted() -> bool {
    IS_WANTED.load(Relaxed)
}

/// Says it, once. May run code of the host.
#[cold]
pub fn say<H: Host>(host: H) {
    if IS_WANTED.swap(false, Relaxed) {
        report(
            host,
            VARIABLE,
            "a submission was left to the event loop at the depth bound, the first",
        );
    }
}
