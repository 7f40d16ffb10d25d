// SPDX-License-Identifier: MIT OR Apache-2.0

//! The program's hooks.

use std::ffi::c_int;

use super::EINVAL;
use crate::host::{LaioHostOps, NotSet, ProcessHost, report};

/// Gives the library the functions of its host. Once, before the first laio_init() and the first
/// laio_loop_new(). The table is copied.
///
/// Returns 0. -EINVAL, and the log says why, if `ops` is NULL, shorter than the first version's, has
/// hooks that this version does not know, or lacks a required hook or one of a group; -EBUSY if
/// hooks were set before, or a state or event loop exists or has existed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laio_set_host_ops(ops: *const LaioHostOps) -> c_int {
    const NAME: &str = "laio_set_host_ops";
    if ops.is_null() {
        report(NAME, "the table is NULL");
        return EINVAL;
    }
    // SAFETY: the caller's promise.
    match unsafe { ProcessHost::set(ops) } {
        Ok(()) => 0,
        Err(NotSet::TooLate) => {
            report(NAME, "too late: hooks were set, or a state or event loop was made, before");
            -libc::EBUSY
        }
        Err(NotSet::Bad(reason)) => {
            report(NAME, reason);
            EINVAL
        }
    }
}
