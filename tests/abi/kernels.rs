// SPDX-License-Identifier: MIT OR Apache-2.0

//! Which interface of the kernel a state gets, where a sandbox denies one, or both; and io_uring where
//! a program sees more of it than of Linux AIO.

use std::ffi::{c_int, c_uint, c_void};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::process::Command;
use std::ptr;

use laio_engine::host::{AioContext, LinuxAioState};
use laio_engine::kernel::LaioKernel;
use laio_engine::request::aio_type;

use crate::ffi::*;

const AUTO: c_uint = LaioKernel::Auto as c_uint;
const LINUX_AIO: c_uint = LaioKernel::LinuxAio as c_uint;
const IO_URING: c_uint = LaioKernel::IoUring as c_uint;

/// Makes the system calls fail for the rest of the process, as a container's seccomp filter does.
fn deny(calls: &[(libc::c_long, c_int)]) {
    let op = |code, k| libc::sock_filter { code, jt: 0, jf: 0, k };
    // The number of the call.
    let mut filter = vec![op((libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16, 0)];
    for &(number, errno) in calls {
        let equals = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
        filter.push(libc::sock_filter { jf: 1, ..op(equals, number as u32) });
        let answer = libc::SECCOMP_RET_ERRNO | errno as u32;
        filter.push(op((libc::BPF_RET | libc::BPF_K) as u16, answer));
    }
    filter.push(op((libc::BPF_RET | libc::BPF_K) as u16, libc::SECCOMP_RET_ALLOW));
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: numbers, and one program, which is read.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        let mode = libc::SECCOMP_MODE_FILTER;
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program), 0);
    }
}

/// What `child` gives in a child process that the calls are denied to, and what it says on standard
/// error.
fn under(denied: &[(libc::c_long, c_int)], child: impl FnOnce() -> c_int) -> (c_int, String) {
    let mut ends = [-1; 2];
    // SAFETY: writes two descriptors, which are new; the child ends without going back to the tests.
    unsafe {
        assert_eq!(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC), 0);
        let (mut said, to_say) = (File::from_raw_fd(ends[0]), File::from_raw_fd(ends[1]));
        let pid = libc::fork();
        if pid == 0 {
            libc::dup2(to_say.as_raw_fd(), 2);
            deny(denied);
            libc::_exit(child());
        }
        drop(to_say);
        let (mut text, mut status) = (String::new(), -1);
        said.read_to_string(&mut text).unwrap();
        assert_eq!(libc::waitpid(pid, &mut status, 0), pid);
        (libc::WEXITSTATUS(status), text)
    }
}

/// Which interface a state gets that asks for `kernel`; 9 if there is no state.
fn made_of(kernel: c_uint) -> c_int {
    // SAFETY: a state that is freed, or none.
    unsafe {
        let state = laio_init_kernel(kernel, ptr::null_mut());
        if state.is_null() {
            return 9;
        }
        let made_of = laio_state_kernel(state);
        laio_cleanup(state);
        made_of as c_int
    }
}

#[test]
fn denial_of_one_gives_the_other_and_denial_of_both_names_both() {
    if std::env::var_os("LAIO_KERNEL").is_some() {
        return eprintln!("skipped: LAIO_KERNEL says what AUTO is");
    }
    let (setup, io_setup) = (libc::SYS_io_uring_setup, libc::SYS_io_setup);
    for (errno, reason) in [(libc::EPERM, "seccomp"), (libc::ENOSYS, "no io_uring")] {
        let denied = [(setup, errno)];
        assert_eq!(under(&denied, || made_of(AUTO)), (LINUX_AIO as c_int, String::new()));
        let (made, said) = under(&denied, || made_of(IO_URING));
        assert!(made == 9 && said.contains(reason), "{made}: {said}");
        for no_context in [libc::EAGAIN, libc::EPERM, libc::ENOSYS] {
            let denied = [(io_setup, no_context)];
            assert_eq!(under(&denied, || made_of(AUTO)), (IO_URING as c_int, String::new()));
            let (made, said) = under(&denied, || made_of(LINUX_AIO));
            assert!(made == 9 && said.contains("AIO context"), "{made}: {said}");
            let denied = [(io_setup, no_context), (setup, errno)];
            let (made, said) = under(&denied, || made_of(AUTO));
            assert!(made == 9 && said.contains(reason), "{made}: {said}");
            assert!(said.contains("AIO context") && said.lines().count() == 1, "{said}");
        }
    }
}

#[test]
fn flushes_are_there_without_an_aio_context() {
    let file = File::open(std::env::current_exe().unwrap()).unwrap();
    let asks = || c_int::from(laio_has_fdsync(file.as_raw_fd()) && laio_has_fua());
    assert_eq!(under(&[(libc::SYS_io_setup, libc::EAGAIN)], asks), (1, String::new()));
}

#[test]
fn an_unknown_kernel_is_refused() {
    assert_eq!(under(&[], || made_of(3)).0, 9);
    // SAFETY: no state, which is reported.
    assert_eq!(unsafe { laio_state_kernel(ptr::null()) }, AUTO);
}

/// Set in the processes whose environment the next test chooses.
const CHILD: &str = "LAIO_TEST_KERNEL_CHILD";

#[test]
fn the_environment_decides_for_auto() {
    if std::env::var_os(CHILD).is_some() {
        return println!("auto is {}", made_of(AUTO));
    }
    for (value, kernel, report) in [
        ("", LINUX_AIO, ""),
        ("auto", LINUX_AIO, ""),
        ("linux-aio", LINUX_AIO, ""),
        ("io_uring", IO_URING, ""),
        ("iouring", LINUX_AIO, "LAIO_KERNEL: \"iouring\" is not auto"),
    ] {
        let ran = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "abi::kernels::the_environment_decides_for_auto", "--nocapture"])
            .env(CHILD, "1")
            .env("LAIO_KERNEL", value)
            .output()
            .unwrap();
        let [out, err] = [ran.stdout, ran.stderr].map(|text| String::from_utf8(text).unwrap());
        assert!(out.contains(&format!("auto is {kernel}")), "{value}: {out}");
        assert!(err.contains(report) && (report.is_empty() == err.is_empty()), "{value}: {err}");
    }
}

const BLOCK: usize = 512;

/// A read of a pipe, and how it ended.
struct PipeRead {
    pipe: File,
    memory: [u8; BLOCK],
    iov: libc::iovec,
    result: c_int,
}

const PENDING: c_int = 1;

unsafe extern "C" fn on_complete(opaque: *mut c_void, ret: c_int) {
    // SAFETY: `submit` gave a read that stays.
    unsafe { (*opaque.cast::<PipeRead>()).result = ret };
}

/// Leaked, with the end to write to: it may be in flight at any time.
fn pipe_read() -> (*mut PipeRead, File) {
    let mut ends = [-1; 2];
    // SAFETY: writes two descriptors, which are new and nobody else's.
    let (pipe, write) = unsafe {
        assert_eq!(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC), 0);
        (File::from_raw_fd(ends[0]), File::from_raw_fd(ends[1]))
    };
    let iov = libc::iovec { iov_base: ptr::null_mut(), iov_len: BLOCK };
    let read = Box::leak(Box::new(PipeRead { pipe, memory: [0; BLOCK], iov, result: PENDING }));
    read.iov.iov_base = read.memory.as_mut_ptr().cast();
    (read, write)
}

fn submit(state: *mut LinuxAioState, read: *mut PipeRead) {
    let (kind, done) = (aio_type::READ, Some(on_complete as _));
    // SAFETY: the read stays for the rest of the test process.
    unsafe {
        let (fd, iov) = ((*read).pipe.as_raw_fd(), &raw const (*read).iov);
        let accepted = laio_state_submit(state, fd, 0, iov, 1, kind, 0, 0, done, read.cast());
        assert_eq!(accepted, 0);
    }
}

fn result_of(read: *mut PipeRead) -> c_int {
    // SAFETY: it stays; only this thread's calls of the library write to it.
    unsafe { (&raw const (*read).result).read_volatile() }
}

fn uring_on(context: *mut AioContext) -> *mut LinuxAioState {
    // SAFETY: in the order of the header.
    unsafe {
        let state = laio_init_kernel(IO_URING, ptr::null_mut());
        assert!(!state.is_null());
        laio_attach_aio_context(state, context);
        state
    }
}

/// The kernel gives up what a thread has in flight when it ends. The owner never learns.
#[test]
fn a_request_outlives_the_thread_that_submitted_it() {
    let (read, mut write) = pipe_read();
    let shared = read.expose_provenance();
    let state = std::thread::spawn(move || {
        let context = laio_loop_new();
        let state = uring_on(context);
        submit(state, ptr::with_exposed_provenance_mut(shared));
        // SAFETY: in the order of the header.
        unsafe {
            laio_detach_aio_context(state, context);
            laio_loop_free(context);
        }
        state.expose_provenance()
    });
    let state: *mut LinuxAioState = ptr::with_exposed_provenance_mut(state.join().unwrap());
    write.write_all(&[7; BLOCK]).unwrap();
    let context = laio_loop_new();
    // SAFETY: in the order of the header; a thread that sleeps for ever is ended by the alarm.
    unsafe {
        libc::alarm(60);
        laio_attach_aio_context(state, context);
        while result_of(read) == PENDING {
            assert!(laio_loop_poll(context, true));
        }
        libc::alarm(0);
        assert_eq!((result_of(read), (*read).memory), (0, [7; BLOCK]));
        laio_cleanup(state);
        laio_loop_free(context);
    }
}

/// close(2) of a ring does not wait: the library does, before it closes.
#[test]
fn cleanup_waits_for_what_is_in_flight() {
    let (read, mut write) = pipe_read();
    let context = laio_loop_new();
    let state = uring_on(context);
    submit(state, read);
    let writing = std::thread::spawn(move || write.write_all(&[9; BLOCK]).unwrap());
    // SAFETY: in the order of the header.
    unsafe {
        laio_cleanup(state);
        assert_eq!((result_of(read), (*read).memory), (0, [9; BLOCK]));
        laio_loop_free(context);
    }
    writing.join().unwrap();
}

/// A completion wakes the submitting thread out of epoll_wait(2) with EINTR, as a signal would. The
/// built-in loop goes on sleeping until there is something to do.
#[test]
fn spurious_eintr_is_no_end_of_a_turn() {
    let context = laio_loop_new();
    let state = uring_on(context);
    for _ in 0..50 {
        let (read, mut write) = pipe_read();
        submit(state, read);
        let writing = std::thread::spawn(move || write.write_all(&[1; BLOCK]).unwrap());
        while result_of(read) == PENDING {
            // SAFETY: the loop of this thread.
            assert!(unsafe { laio_loop_poll(context, true) }, "a turn without progress");
        }
        assert_eq!(result_of(read), 0);
        writing.join().unwrap();
    }
    // SAFETY: in the order of the header.
    unsafe {
        laio_cleanup(state);
        laio_loop_free(context);
    }
}
