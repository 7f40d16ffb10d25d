// SPDX-License-Identifier: MIT OR Apache-2.0

//! No allocation per request: none at all once as many requests were outstanding as ever will be.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::fs::OpenOptions;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::ptr;

use laio_engine::host::LinuxAioState;
use laio_engine::request::aio_type;

use crate::ffi::*;

struct Counting;

thread_local! {
    /// Of this thread: other tests run beside this one.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: hands everything to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const DEPTH: usize = 200;
const REQUESTS: usize = 20_000;

/// Chained requests: each completion submits the next, until there are none to submit.
struct Chain {
    state: *mut LinuxAioState,
    fd: c_int,
    iov: libc::iovec,
    left: Cell<usize>,
    completed: Cell<usize>,
}

impl Chain {
    fn submit_next(&self) {
        self.left.set(self.left.get() - 1);
        let opaque = ptr::from_ref(self).cast_mut().cast();
        // SAFETY: the chain and what it names outlive the test's requests.
        let accepted = unsafe {
            let iov = &self.iov;
            let read = aio_type::READ;
            laio_state_submit(self.state, self.fd, 0, iov, 1, read, 0, 0, Some(on_complete), opaque)
        };
        assert_eq!(accepted, 0);
    }
}

unsafe extern "C" fn on_complete(opaque: *mut c_void, ret: c_int) {
    // SAFETY: `submit_next` gave it.
    let chain = unsafe { &*opaque.cast::<Chain>() };
    assert_eq!(ret, 0);
    chain.completed.set(chain.completed.get() + 1);
    if chain.left.get() > 0 {
        chain.submit_next();
    }
}

#[test]
fn requests_cost_no_allocation() {
    let mut path = std::env::temp_dir();
    path.push(format!("laio-allocation-{}", std::process::id()));
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(&path).unwrap();
    file.write_all(&[1; 4096]).unwrap();
    std::fs::remove_file(&path).unwrap();

    // SAFETY: one thread, and everything is freed in the order of the header.
    unsafe {
        let context = laio_loop_new();
        let state = laio_init(ptr::null_mut());
        laio_attach_aio_context(state, context);
        let mut buffer = [0u8; 4096];
        let chain = Chain {
            state,
            fd: file.as_raw_fd(),
            iov: libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() },
            left: Cell::new(0),
            completed: Cell::new(0),
        };
        let run = |requests: usize| {
            let before = ALLOCATIONS.get();
            chain.left.set(requests);
            chain.completed.set(0);
            laio_state_io_plug(state);
            // Full batches go out at once, and may already complete in here.
            for _ in 0..DEPTH {
                if chain.left.get() > 0 {
                    chain.submit_next();
                }
            }
            laio_state_io_unplug(state, 0);
            while chain.completed.get() < requests {
                assert!(laio_loop_poll(context, true));
            }
            ALLOCATIONS.get() - before
        };
        assert!(run(REQUESTS) > 0, "the counter does not count");
        assert_eq!(run(REQUESTS), 0);
        laio_detach_aio_context(state, context);
        laio_cleanup(state);
        laio_loop_free(context);
    }
}
