// SPDX-License-Identifier: MIT OR Apache-2.0

//! The child of a fork frees what it has of its parent's states and event loops, and the parent goes
//! on. (Both have one epoll set: a child that took the eventfd out of it left the parent asleep for
//! ever.)

use std::ffi::{c_int, c_void};
use std::fs::OpenOptions;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::ptr;

use laio_engine::request::aio_type;

use super::scratch_directory;
use crate::ffi::*;

#[repr(align(4096))]
#[derive(Clone, Copy)]
struct Block([u8; 4096]);

/// Enough for a read to take its time.
const BLOCKS: usize = 1024;

unsafe extern "C" fn on_complete(opaque: *mut c_void, ret: c_int) {
    // SAFETY: the test gave it a number to write to.
    unsafe { opaque.cast::<c_int>().write(ret) };
}

#[test]
fn a_child_that_cleans_up_does_not_disturb_its_parent() {
    let path = scratch_directory().join(format!("fork-{}", std::process::id()));
    let mut file = OpenOptions::new().write(true).create_new(true).open(&path).unwrap();
    file.write_all(&[7; 4096 * BLOCKS]).unwrap();
    file.sync_all().unwrap();
    // Past the page cache, so that the parent has to sleep; as it is where that cannot be.
    let direct = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(&path);
    let file = direct.or_else(|_| std::fs::File::open(&path)).unwrap();
    std::fs::remove_file(&path).unwrap();
    // SAFETY: one thread uses the state; the child calls only the library and _exit(2); a parent
    // that sleeps for ever is ended by the alarm.
    unsafe {
        let context = laio_loop_new();
        let state = laio_init(ptr::null_mut());
        laio_attach_aio_context(state, context);
        let child = libc::fork();
        if child == 0 {
            laio_detach_aio_context(state, context);
            laio_cleanup(state);
            laio_loop_free(context);
            libc::_exit(0);
        }
        let mut status = -1;
        assert_eq!(libc::waitpid(child, &mut status, 0), child);
        assert_eq!(status, 0);
        libc::alarm(60);
        for _ in 0..20 {
            let mut memory = vec![Block([0; 4096]); BLOCKS];
            let iov_len = size_of_val(&memory[..]);
            let iov = libc::iovec { iov_base: memory.as_mut_ptr().cast(), iov_len };
            let mut result: c_int = 1;
            let (read, opaque) = (aio_type::READ, (&raw mut result).cast());
            let fd = file.as_raw_fd();
            let accepted =
                laio_state_submit(state, fd, 0, &iov, 1, read, 0, 0, Some(on_complete), opaque);
            assert_eq!(accepted, 0);
            while (&raw const result).read_volatile() > 0 {
                assert!(laio_loop_poll(context, true));
            }
            assert_eq!((result, memory[BLOCKS - 1].0[4095]), (0, 7));
        }
        libc::alarm(0);
        laio_detach_aio_context(state, context);
        laio_cleanup(state);
        laio_loop_free(context);
    }
}
