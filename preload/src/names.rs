// SPDX-License-Identifier: MIT OR Apache-2.0

//! What programs call of the two libraries that submit for them.

use std::ffi::CStr;

/// Functions of one library.
pub struct Names {
    /// Submits.
    pub submit: &'static CStr,
    /// What it has to get completions with, and QEMU has no use for; by names of any version.
    pub reaping: &'static [&'static CStr],
}

pub const LIBAIO: Names = Names {
    submit: c"io_submit",
    reaping: &[c"io_getevents", c"io_pgetevents", c"io_queue_run", c"io_queue_wait"],
};

pub const LIBURING: Names = Names {
    submit: c"io_uring_submit",
    reaping: &[
        c"io_uring_wait_cqes",
        c"io_uring_wait_cqe_timeout",
        c"io_uring_wait_cqes_min_timeout",
        c"io_uring_submit_and_wait_timeout",
    ],
};
