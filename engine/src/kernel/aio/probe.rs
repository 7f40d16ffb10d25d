// SPDX-License-Identifier: MIT OR Apache-2.0

//! What this kernel's AIO can do, found by asking it.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;

use super::Context;
use crate::kernel::{Entry, Opcode};
use crate::wait::Uncancelled;

/// The answer of [`ask_fua`], once there is one.
static HAS_FUA: OnceLock<bool> = OnceLock::new();

/// Whether `fd` can be flushed by IOCB_CMD_FDSYNC. The kernel answers EINVAL where it cannot.
pub fn has_fdsync(fd: RawFd) -> bool {
    let _uncancelled = Uncancelled::enter();
    let Ok(context) = Context::new(1) else { return false };
    // Destroying a context takes the kernel some ten milliseconds, and who asks for the one asks
    // for the other as well.
    learn_fua(&context);
    result_of(&context, Entry::data_sync(fd))
        .is_some_and(|answer| answer != -i64::from(libc::EINVAL))
}

/// Whether a write can carry RWF_DSYNC (Linux 4.13).
///
/// Asked once, of an empty write to an anonymous file. While that cannot even be asked (no AIO
/// context or descriptor to be had) the answer is no, which costs the host a flush and never data.
pub fn has_fua() -> bool {
    if HAS_FUA.get().is_none() {
        let _uncancelled = Uncancelled::enter();
        let _ = Context::new(1).map(|context| learn_fua(&context));
    }
    HAS_FUA.get().copied().unwrap_or(false)
}

fn learn_fua(context: &Context) {
    if HAS_FUA.get().is_none() {
        ask_fua(context).map(|answer| HAS_FUA.get_or_init(|| answer));
    }
}

fn ask_fua(context: &Context) -> Option<bool> {
    // SAFETY: the name is a C string.
    let fd = unsafe { libc::memfd_create(c"laio".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return None;
    }
    // SAFETY: the descriptor is new and nobody else's.
    let file = unsafe { OwnedFd::from_raw_fd(fd) };
    let empty = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
    let write = Entry::transfer(Opcode::Write, file.as_raw_fd(), (&raw const empty, 1), 0);
    let write = write.with_flags(libc::RWF_DSYNC);
    result_of(context, write).map(|answer| answer >= 0)
}

/// The result of `request`, or the negative errno that refused it. `None` if the kernel does not
/// say.
fn result_of(context: &Context, request: Entry) -> Option<i64> {
    let request = Box::into_raw(Box::new(request));
    // SAFETY: the entry is freed below, when it is not with the kernel; what it names (an empty
    // vector) the kernel reads before this returns.
    let result = match unsafe { context.submit(&[request]) } {
        // Should waiting fail, the kernel may still have it, and it is left to it.
        Ok(_) => context.get_event(1)?.res,
        Err(errno) => i64::from(errno.negative()),
    };
    // SAFETY: complete, or never taken.
    drop(unsafe { Box::from_raw(request) });
    Some(result)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn this_kernel_has_fua() {
        // Every kernel since 4.13; the tests run on nothing older.
        assert!(has_fua());
    }

    #[test]
    fn a_file_can_be_flushed_and_a_socket_cannot() {
        let file = File::open(env!("CARGO_MANIFEST_DIR").to_owned() + "/Cargo.toml").unwrap();
        assert!(has_fdsync(file.as_raw_fd()));
        let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(!has_fdsync(socket.as_raw_fd()));
    }
}
