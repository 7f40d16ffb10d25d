// SPDX-License-Identifier: MIT OR Apache-2.0

//! Why something was refused, in the kernel's words.

use std::ffi::c_int;
use std::fmt;

/// An errno value, positive as in `errno.h`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub c_int);

impl Errno {
    /// The calling thread's `errno`.
    #[cold] // Or the way without an error would bring along what this needs.
    pub fn last() -> Self {
        Self(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
    }

    /// The value as C functions of this library return it: negative.
    pub fn negative(self) -> c_int {
        -self.0
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", std::io::Error::from_raw_os_error(self.0))
    }
}
