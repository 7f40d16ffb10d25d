// SPDX-License-Identifier: MIT OR Apache-2.0

//! `liblaio_preload.so`: protects, or takes over, a QEMU that cannot be rebuilt.
//!
//! Two modes. `guard` stands in front of libaio's io_submit and answers EAGAIN where a program
//! recurses through it too deeply, and in front of liburing's io_uring_submit, whose requests it then
//! puts off. `takeover` points a QEMU executable's own `laio_*` functions at
//! laio's engine. `docs/preload.md` says when to use which.
//!
//! Exported are io_submit, what is in `liburing`, and the marker by which several copies know each
//! other.

mod guard;
mod liburing;
mod names;
mod say;
mod settings;
mod stats;
mod summary;
mod takeover;

use std::ffi::{c_int, c_long, c_void};
use std::sync::atomic::{AtomicPtr, Ordering};

use say::complain;
use settings::{Mode, Settings};

/// libaio's `io_context_t`.
type IoContext = *mut c_void;
type IoSubmit = unsafe extern "C" fn(IoContext, c_long, *mut *mut guard::Iocb) -> c_int;

/// The next io_submit after ours; null until it is first needed, because libaio may be loaded late.
static NEXT: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());

/// Only the copy of this library whose marker the loader finds first does anything: two guards
/// would count each other's calls. By its own address a copy would find the first one's marker too,
/// so what it holds tells them apart.
#[unsafe(export_name = "laio_preload_marker")]
static MARKER: extern "C" fn() = start;

/// As libaio's io_submit.
///
/// # Safety
///
/// As libaio's io_submit.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn io_submit(
    context: IoContext,
    count: c_long,
    iocbs: *mut *mut guard::Iocb,
) -> c_int {
    // Lies at the same distance from the caller's frame in every call.
    let mark = 0u8;
    let mark = std::hint::black_box(&raw const mark).addr();
    if guard::refuses(mark, context.addr(), count, iocbs) {
        return -libc::EAGAIN;
    }
    // SAFETY: the caller's promise.
    let answer = unsafe { next_io_submit()(context, count, iocbs) };
    if let Some(counters) = stats::guard_counters() {
        counters.submitted(answer);
    }
    answer
}

fn next_io_submit() -> IoSubmit {
    let mut next = NEXT.load(Ordering::Relaxed);
    if next.is_null() {
        next = find_next();
        if next.is_null() {
            // Somebody called us by name without having libaio, or hides it from us.
            next = bare_io_submit as *mut c_void;
            NEXT.store(next, Ordering::Relaxed);
        }
    }
    // SAFETY: not null, and libaio's function or ours, which are of this type.
    unsafe { std::mem::transmute::<*mut c_void, IoSubmit>(next) }
}

/// Null if there is none.
fn find_next() -> *mut c_void {
    // SAFETY: the name is a C string.
    let next = unsafe { libc::dlsym(libc::RTLD_NEXT, c"io_submit".as_ptr()) };
    // Relaxed: whoever else looks it up finds the same.
    NEXT.store(next, Ordering::Relaxed);
    next
}

/// What libaio's does: the system call, and the errno in the result.
unsafe extern "C" fn bare_io_submit(
    context: IoContext,
    count: c_long,
    iocbs: *mut *mut guard::Iocb,
) -> c_int {
    // SAFETY: the caller's promise; io_submit(2) has these arguments.
    let taken = unsafe { libc::syscall(libc::SYS_io_submit, context, count, iocbs) };
    if taken < 0 {
        // SAFETY: always valid in its thread.
        return -unsafe { *libc::__errno_location() };
    }
    taken as c_int
}

fn is_first_copy() -> bool {
    // SAFETY: the name is a C string.
    let marker = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"laio_preload_marker".as_ptr()) };
    if marker.is_null() {
        return true; // Loaded by dlopen(3), where nobody else finds it either.
    }
    // SAFETY: some copy's marker, which is as large as this one's; only its bits are looked at.
    unsafe { marker.cast::<usize>().read() == start as *const () as usize }
}

extern "C" fn start() {
    if !is_first_copy() {
        return;
    }
    let settings = Settings::from_environment();
    if settings.mode == Mode::Engine {
        match takeover::start(settings.max_depth) {
            Ok(taken_over) => return start_engine(&settings, &taken_over),
            Err(takeover::Refusal::NothingThere) => {}
            Err(takeover::Refusal::Unfamiliar(why)) => {
                complain(format_args!("no engine mode: {why}; using guard"));
            }
        }
    }
    if settings.mode == Mode::Off {
        return stats::start(settings.stats, Mode::Off);
    }
    stats::start(settings.stats, Mode::Guard);
    if Settings::logs_bound() {
        guard::log_bound();
    }
    // Now, rather than on a coroutine's stack; which may be needed if libaio is loaded later.
    find_next();
    liburing::start();
    guard::start(settings.max_depth);
}

/// What goes through the executable's own io_uring is bounded from outside.
fn start_engine(settings: &Settings, taken_over: &takeover::TakenOver) {
    stats::start(settings.stats, Mode::Engine);
    if !taken_over.io_uring {
        liburing::start();
        if Settings::logs_bound() {
            guard::log_bound();
        }
        guard::start_io_uring(settings.max_depth);
    }
}

extern "C" fn finish() {
    stats::finish();
}

// SAFETY: the loader calls what stands in these sections once, with arguments that C functions may
// ignore.
#[used]
#[unsafe(link_section = ".init_array")]
static START: extern "C" fn() = start;
// SAFETY: as above.
#[used]
#[unsafe(link_section = ".fini_array")]
static FINISH: extern "C" fn() = finish;
