// SPDX-License-Identifier: MIT OR Apache-2.0

//! In front of liburing: io_uring_submit, and what its inline functions call to wait.
//!
//! The other ways to submit are not taken: io_uring_submit_and_wait and its kind return when
//! something is complete, which is what they are for, and no bound could change that; QEMU has its
//! event loop wait with it.

use std::ffi::{CStr, c_int, c_uint, c_void};
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use crate::guard::uring::{self, Ring, Submit};
use crate::stats;

type GetCqe =
    unsafe extern "C" fn(*mut Ring, *mut *mut c_void, c_uint, c_uint, *mut libc::sigset_t) -> c_int;

/// The next function of a name after ours.
struct Next {
    name: &'static CStr,
    /// Null until it is first needed, because liburing may be loaded late.
    address: AtomicPtr<c_void>,
}

static SUBMIT: Next = Next::new(c"io_uring_submit");
static GET_CQE: Next = Next::new(c"__io_uring_get_cqe");

/// Whether it is the liburing whose rings are known.
static IS_KNOWN: AtomicBool = AtomicBool::new(false);

impl Next {
    const fn new(name: &'static CStr) -> Self {
        Self { name, address: AtomicPtr::new(std::ptr::null_mut()) }
    }

    #[inline]
    fn get(&self) -> *mut c_void {
        let address = self.address.load(Ordering::Relaxed);
        if address.is_null() { self.find() } else { address }
    }

    /// Null if there is none.
    #[cold]
    fn find(&self) -> *mut c_void {
        // SAFETY: the name is a C string; only what is loaded is looked at.
        let (next, liburing) = unsafe {
            (
                libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()),
                libc::dlopen(c"liburing.so.2".as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD),
            )
        };
        let mut address = next;
        if !liburing.is_null() {
            IS_KNOWN.store(true, Ordering::Relaxed);
            if address.is_null() {
                // Loaded for a plug-in alone, whose calls come to us first all the same.
                // SAFETY: as above.
                address = unsafe { libc::dlsym(liburing, self.name.as_ptr()) };
            }
        }
        // Relaxed: whoever else looks it up finds the same.
        self.address.store(address, Ordering::Relaxed);
        address
    }
}

/// Now, rather than on a coroutine's stack; which may be needed if liburing is loaded later.
pub fn start() {
    SUBMIT.find();
    GET_CQE.find();
}

/// As liburing's io_uring_submit.
///
/// # Safety
///
/// As liburing's io_uring_submit.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn io_uring_submit(ring: *mut Ring) -> c_int {
    // Lies at the same distance from the caller's frame in every call.
    let mark = 0u8;
    let mark = std::hint::black_box(&raw const mark).addr();
    let next = SUBMIT.get();
    if next.is_null() {
        return -libc::ENOSYS; // Called by name, without a liburing.
    }
    // SAFETY: liburing's function, which is of this type.
    let next = unsafe { std::mem::transmute::<*mut c_void, Submit>(next) };
    let answer = if IS_KNOWN.load(Ordering::Relaxed) {
        // SAFETY: the caller's promise.
        unsafe { uring::submit(mark, ring, next) }
    } else {
        // SAFETY: the caller's promise.
        unsafe { next(ring) }
    };
    if let Some(counters) = stats::uring_counters() {
        counters.submitted(answer);
    }
    answer
}

/// As liburing's, which its inline functions call where the completion queue is empty.
///
/// # Safety
///
/// As liburing's.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn __io_uring_get_cqe(
    ring: *mut Ring,
    cqe: *mut *mut c_void,
    submit: c_uint,
    wait_for: c_uint,
    mask: *mut libc::sigset_t,
) -> c_int {
    if wait_for > 0 {
        let mark = 0u8;
        uring::waits(std::hint::black_box(&raw const mark).addr(), ring);
    }
    let next = GET_CQE.get();
    if next.is_null() {
        return -libc::ENOSYS;
    }
    // SAFETY: liburing's function, which is of this type.
    let next = unsafe { std::mem::transmute::<*mut c_void, GetCqe>(next) };
    // SAFETY: the caller's promise.
    unsafe { next(ring, cqe, submit, wait_for, mask) }
}
