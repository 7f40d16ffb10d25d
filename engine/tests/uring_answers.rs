// SPDX-License-Identifier: MIT OR Apache-2.0

//! io_uring's traps that a healthy kernel does not show: the answers of its system calls are the
//! test's. This program has its own syscall(2), in front of libc's.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ffi::{c_int, c_long, c_uint};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::OnceLock;

use laio_engine::errno::Errno;
use laio_engine::kernel::{Chosen, Entry, IoUring, Kernel, LaioKernel, Opcode};

/// What a call of io_uring_enter(2) shall do instead of what it does.
#[derive(Clone, Copy)]
enum Answer {
    Error(c_int),
    /// Takes no more than so many.
    Takes(c_long),
}

thread_local! {
    /// For the calls of this thread, in their order.
    static ENTERS: RefCell<VecDeque<Answer>> = const { RefCell::new(VecDeque::new()) };
    static ENTERED: Cell<u32> = const { Cell::new(0) };
    /// The largest ring that there is memory for.
    static LARGEST: Cell<c_uint> = const { Cell::new(c_uint::MAX) };
    static NO_SETUP: Cell<Option<c_int>> = const { Cell::new(None) };
    static NO_CONTEXT: Cell<Option<c_int>> = const { Cell::new(None) };
}

type Syscall = unsafe extern "C" fn(c_long, ...) -> c_long;

fn real() -> Syscall {
    static REAL: OnceLock<Syscall> = OnceLock::new();
    *REAL.get_or_init(|| {
        // SAFETY: the name is a C string.
        let found = unsafe { libc::dlsym(libc::RTLD_NEXT, c"syscall".as_ptr()) };
        assert!(!found.is_null());
        // SAFETY: libc's function of this name has this type.
        unsafe { std::mem::transmute::<*mut libc::c_void, Syscall>(found) }
    })
}

fn fail(errno: c_int) -> c_long {
    // SAFETY: the calling thread's own.
    unsafe { *libc::__errno_location() = errno };
    -1
}

/// # Safety
///
/// As syscall(2). (A variadic function gets numbers where one with six of them does.)
#[unsafe(no_mangle)]
unsafe extern "C" fn syscall(
    number: c_long,
    a: c_long,
    mut b: c_long,
    c: c_long,
    d: c_long,
    e: c_long,
    f: c_long,
) -> c_long {
    if number == libc::SYS_io_uring_enter {
        ENTERED.set(ENTERED.get() + 1);
        match ENTERS.with_borrow_mut(VecDeque::pop_front) {
            Some(Answer::Error(errno)) => return fail(errno),
            Some(Answer::Takes(most)) => b = b.min(most),
            None => {}
        }
    } else if number == libc::SYS_io_uring_setup {
        if let Some(errno) = NO_SETUP.get() {
            return fail(errno);
        }
        if a as c_uint > LARGEST.get() {
            return fail(libc::ENOMEM);
        }
    } else if number == libc::SYS_io_setup {
        if let Some(errno) = NO_CONTEXT.get() {
            return fail(errno);
        }
    }
    // SAFETY: the caller's.
    unsafe { real()(number, a, b, c, d, e, f) }
}

fn reads<const N: usize>(file: &File) -> [*mut Entry; N] {
    std::array::from_fn(|token| {
        let memory: &'static mut [u8] = vec![0; 512].leak();
        let part = libc::iovec { iov_base: memory.as_mut_ptr().cast(), iov_len: memory.len() };
        let parts = Box::leak(Box::new(part));
        let mut entry = Entry::transfer(Opcode::Read, file.as_raw_fd(), (&raw const *parts, 1), 0);
        entry.set_token(token as u64);
        Box::into_raw(Box::new(entry))
    })
}

fn this_file() -> File {
    File::open(env!("CARGO_MANIFEST_DIR").to_owned() + "/tests/uring_answers.rs").unwrap()
}

fn submit(kernel: &IoUring, entries: &[*mut Entry], answers: &[Answer]) -> Result<usize, Errno> {
    ENTERS.with_borrow_mut(|enters| enters.extend(answers));
    ENTERED.set(0);
    // SAFETY: the entries stay for the rest of the test process.
    let answer = unsafe { kernel.submit(entries) };
    assert!(ENTERS.with_borrow(VecDeque::is_empty), "fewer calls than answers");
    answer
}

fn tokens_of(kernel: &IoUring, count: usize) -> Vec<u64> {
    let mut tokens: Vec<_> = (0..count)
        .map(|_| {
            kernel.wait();
            kernel.reap().unwrap().token
        })
        .collect();
    tokens.sort_unstable();
    assert!(kernel.reap().is_none(), "more came than was taken");
    tokens
}

#[test]
fn partial_submission_takes_back_what_is_published_and_not_taken() {
    let (kernel, file) = (IoUring::new().unwrap(), this_file());
    let all: [_; 5] = reads(&file);
    assert_eq!(submit(&kernel, &all, &[Answer::Takes(2)]), Ok(2));
    assert_eq!(tokens_of(&kernel, 2), [0, 1]);
    // Another one than was offered next.
    assert_eq!(submit(&kernel, &all[4..], &[]), Ok(1));
    assert_eq!(tokens_of(&kernel, 1), [4]);
    assert_eq!(submit(&kernel, &all[2..4], &[Answer::Takes(0)]), Ok(0));
    assert_eq!(submit(&kernel, &all[2..4], &[]), Ok(2));
    assert_eq!(tokens_of(&kernel, 2), [2, 3]);
}

#[test]
fn ebusy_and_eagain_are_no_more_for_now_and_take_nothing() {
    let (kernel, file) = (IoUring::new().unwrap(), this_file());
    let all: [_; 3] = reads(&file);
    for errno in [libc::EBUSY, libc::EAGAIN] {
        let answer = submit(&kernel, &all, &[Answer::Error(errno)]);
        assert_eq!(answer, Err(Errno(libc::EAGAIN)));
        assert!(!kernel.has_completions());
    }
    assert_eq!(submit(&kernel, &all[..1], &[]), Ok(1));
    assert_eq!(tokens_of(&kernel, 1), [0]);
}

#[test]
fn eintr_asks_again() {
    let (kernel, file) = (IoUring::new().unwrap(), this_file());
    let all: [_; 3] = reads(&file);
    let interrupted = [Answer::Error(libc::EINTR); 3];
    assert_eq!(submit(&kernel, &all, &interrupted), Ok(3));
    assert_eq!(ENTERED.get(), 4);
    assert_eq!(tokens_of(&kernel, 3), [0, 1, 2]);
}

#[test]
fn another_error_takes_nothing_and_is_told() {
    let (kernel, file) = (IoUring::new().unwrap(), this_file());
    let all: [_; 2] = reads(&file);
    let answer = submit(&kernel, &all, &[Answer::Error(libc::EIO)]);
    assert_eq!(answer, Err(Errno(libc::EIO)));
    assert_eq!(submit(&kernel, &all[1..], &[]), Ok(1));
    assert_eq!(tokens_of(&kernel, 1), [1]);
}

#[test]
fn memlock_tries_smaller_rings_down_to_two_pages() {
    for (largest, capacity) in [(1024, 1024), (1023, 512), (100, 64), (32, 32)] {
        LARGEST.set(largest);
        assert_eq!(IoUring::new().unwrap().capacity(), capacity);
    }
    LARGEST.set(31);
    let error = IoUring::new().err().unwrap();
    assert_eq!(error.errno, Errno(libc::ENOMEM));
    assert!(error.what.to_str().unwrap().contains("RLIMIT_MEMLOCK"));
}

/// What AUTO becomes, or its error.
fn auto() -> Result<LaioKernel, String> {
    Chosen::new(LaioKernel::Auto)
        .map(|kernel| kernel.which())
        .map_err(|error| error.what.to_str().unwrap().to_owned())
}

#[test]
fn denial_lets_auto_fall_back_and_names_both_reasons_in_the_end() {
    assert_eq!(auto(), Ok(LaioKernel::LinuxAio));
    for no_setup in [libc::EPERM, libc::ENOSYS, libc::ENOMEM] {
        NO_CONTEXT.set(None);
        NO_SETUP.set(Some(no_setup));
        assert_eq!(auto(), Ok(LaioKernel::LinuxAio));
        assert_eq!(Chosen::new(LaioKernel::IoUring).err().unwrap().errno, Errno(no_setup));
        for no_context in [libc::EAGAIN, libc::EPERM, libc::ENOSYS] {
            NO_CONTEXT.set(Some(no_context));
            NO_SETUP.set(None);
            assert_eq!(auto(), Ok(LaioKernel::IoUring));
            assert_eq!(Chosen::new(LaioKernel::LinuxAio).err().unwrap().errno, Errno(no_context));
            NO_SETUP.set(Some(no_setup));
            let both = auto().unwrap_err();
            assert!(both.contains("io_uring") && both.contains("AIO context"), "{both}");
        }
    }
}
