// SPDX-License-Identifier: MIT OR Apache-2.0

//! io_uring's traps, each by its name, with the real kernel.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::ptr;

use laio_engine::errno::Errno;
use laio_engine::kernel::{Completion, Entry, IoUring, Kernel, Opcode};

const BLOCK: usize = 512;
const EFAULT: i64 = -libc::EFAULT as i64;

/// A read with its memory, for the rest of the test process: the kernel may have it at any time.
struct Read {
    entry: *mut Entry,
    memory: *mut [u8; BLOCK],
}

/// The tests hand kernels and reads from thread to thread, one at a time.
struct Handed<T>(T);

// SAFETY: as above: whoever gives one away uses it again only after the other thread has ended.
unsafe impl<T> Send for Handed<T> {}

impl<T> Handed<T> {
    fn take(self) -> T {
        self.0
    }
}

impl Read {
    fn of(fd: RawFd, token: u64) -> Self {
        let memory = ptr::from_mut(Box::leak(Box::new([0; BLOCK])));
        Self::into_parts(fd, token, &[libc::iovec { iov_base: memory.cast(), iov_len: BLOCK }])
            .with_memory(memory)
    }

    fn into_parts(fd: RawFd, token: u64, parts: &[libc::iovec]) -> Self {
        let parts: &'static mut [libc::iovec] = parts.to_vec().leak();
        let mut entry = Entry::transfer(Opcode::Read, fd, (parts.as_ptr(), parts.len()), 0);
        entry.set_token(token);
        Self { entry: Box::leak(Box::new(entry)), memory: ptr::null_mut() }
    }

    fn with_memory(self, memory: *mut [u8; BLOCK]) -> Self {
        Self { memory, ..self }
    }

    /// Nothing is mapped there.
    fn into_nowhere(fd: RawFd, token: u64) -> Self {
        let iov_base = ptr::without_provenance_mut(0x10);
        Self::into_parts(fd, token, &[libc::iovec { iov_base, iov_len: BLOCK }])
    }

    fn submit(&self, kernel: &IoUring) -> Result<usize, Errno> {
        submit(kernel, &[self])
    }
}

fn submit(kernel: &IoUring, reads: &[&Read]) -> Result<usize, Errno> {
    let entries: Vec<_> = reads.iter().map(|read| read.entry).collect();
    // SAFETY: reads stay for the rest of the test process.
    unsafe { kernel.submit(&entries) }
}

fn wait_for(kernel: &IoUring) -> Completion {
    kernel.wait();
    kernel.reap().expect("something to reap after the wait")
}

fn this_file() -> File {
    File::open(env!("CARGO_MANIFEST_DIR").to_owned() + "/tests/uring.rs").unwrap()
}

/// A pipe with nothing in it, to read and to write: a read of it is in flight until something is
/// written.
fn pipe() -> (File, File) {
    let mut ends = [-1; 2];
    // SAFETY: writes two descriptors, which are new and nobody else's.
    unsafe {
        assert_eq!(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC), 0);
        (File::from_raw_fd(ends[0]), File::from_raw_fd(ends[1]))
    }
}

/// Runs `child` in a child process, and returns its exit status.
fn in_child(child: impl FnOnce() -> bool) -> i32 {
    // SAFETY: the child uses what the calling thread has, and ends without going back to the tests.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let passed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child));
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(i32::from(!passed.unwrap_or(false))) };
    }
    let mut status = -1;
    // SAFETY: writes one status.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    status
}

/// The kernel stops at an entry that it refuses outright. Those behind it were never offered: they
/// may come again in another order, or not at all.
#[test]
fn partial_submission_leaves_the_rest_with_the_caller() {
    let (kernel, file) = (IoUring::new().unwrap(), this_file());
    let good: Vec<_> = (0..4).map(|token| Read::of(file.as_raw_fd(), token)).collect();
    let too_many = vec![libc::iovec { iov_base: good[0].memory.cast(), iov_len: 1 }; 2000];
    let bad = Read::into_parts(file.as_raw_fd(), 9, &too_many);
    assert_eq!(submit(&kernel, &[&good[0], &bad, &good[1], &good[2]]), Ok(2));
    let mut results: Vec<_> = (0..2).map(|_| wait_for(&kernel)).collect();
    results.sort_by_key(|completion| completion.token);
    assert_eq!(results[0], Completion { token: 0, res: BLOCK as i64 });
    assert_eq!(results[1], Completion { token: 9, res: -libc::EINVAL as i64 });
    assert_eq!(submit(&kernel, &[&good[3], &good[2]]), Ok(2));
    let mut tokens: Vec<_> = (0..2).map(|_| wait_for(&kernel).token).collect();
    tokens.sort_unstable();
    assert_eq!(tokens, [2, 3]);
    assert!(!kernel.has_completions());
}

/// The counts of both queues go past their ends many times, and a full ring loses nothing.
#[test]
fn a_full_ring_completes_everything_many_times() {
    let (kernel, file) = (IoUring::new().unwrap(), this_file());
    assert_eq!(kernel.capacity(), 1024);
    let reads: Vec<_> = (0..1024).map(|token| Read::of(file.as_raw_fd(), token)).collect();
    let all: Vec<_> = reads.iter().collect();
    for _ in 0..5 {
        let mut left = &all[..];
        while !left.is_empty() {
            left = &left[submit(&kernel, left).unwrap()..];
        }
        let mut seen = vec![false; 1024];
        for _ in 0..1024 {
            let Completion { token, res } = wait_for(&kernel);
            assert_eq!(res, BLOCK as i64);
            assert!(!std::mem::replace(&mut seen[token as usize], true), "told twice");
        }
        assert!(kernel.reap().is_none());
    }
}

/// What a thread leaves in flight when it ends is given up by the kernel, and is submitted again.
#[test]
fn thread_exit_is_transient_for_what_that_thread_submitted() {
    let (reader, mut writer) = pipe();
    let kernel = Handed(IoUring::new().unwrap());
    let read = Handed(Read::of(reader.as_raw_fd(), 7));
    let submitting = std::thread::spawn(move || {
        let (kernel, read) = (kernel.take(), read.take());
        assert_eq!(read.submit(&kernel), Ok(1));
        Handed((kernel, read))
    });
    let (kernel, read) = submitting.join().unwrap().take();
    // What waits for a poll is given up only when that comes.
    writer.write_all(&[3; BLOCK]).unwrap();
    let given_up = wait_for(&kernel);
    assert_eq!(given_up.token, 7);
    assert!(kernel.is_transient(given_up.res), "{given_up:?}");
    assert_eq!(read.submit(&kernel), Ok(1));
    assert_eq!(wait_for(&kernel), Completion { token: 7, res: BLOCK as i64 });
    // SAFETY: the kernel has given it back.
    assert_eq!(unsafe { *read.memory }, [3; BLOCK]);
}

/// A buffer that is not there stays an error, also where a thread's end would look the same.
#[test]
fn a_bad_buffer_is_told_and_not_tried_for_ever() {
    let file = this_file();
    let kernel = Handed(IoUring::new().unwrap());
    let own = Read::into_nowhere(file.as_raw_fd(), 1);
    assert_eq!(own.submit(&kernel.0), Ok(1));
    assert_eq!(wait_for(&kernel.0), Completion { token: 1, res: EFAULT });
    assert!(!kernel.0.is_transient(EFAULT));
    let anothers = Handed(Read::into_nowhere(file.as_raw_fd(), 2));
    let submitting = std::thread::spawn(move || {
        let (kernel, anothers) = (kernel.take(), anothers.take());
        assert_eq!(anothers.submit(&kernel), Ok(1));
        Handed((kernel, anothers))
    });
    let (kernel, anothers) = submitting.join().unwrap().take();
    assert!(kernel.is_transient(wait_for(&kernel).res));
    assert_eq!(anothers.submit(&kernel), Ok(1));
    assert_eq!(wait_for(&kernel), Completion { token: 2, res: EFAULT });
}

/// A child's io_uring_enter(2) on the descriptor that it inherited would work, and its completion
/// would come to the parent. It frees what it has of a ring in use, and the parent goes on.
#[test]
fn fork_lets_a_child_neither_submit_nor_disturb_its_parent() {
    let (kernel, file, (reader, mut writer)) = (IoUring::new().unwrap(), this_file(), pipe());
    assert!(!kernel.is_inherited());
    let waiting = Read::of(reader.as_raw_fd(), 1);
    assert_eq!(waiting.submit(&kernel), Ok(1));
    let mut kernel = Some(kernel);
    let status = in_child(|| {
        let kernel = kernel.take().unwrap();
        let refused = Read::of(file.as_raw_fd(), 2).submit(&kernel);
        let inherited = kernel.is_inherited();
        drop(kernel);
        refused == Err(Errno(libc::EINVAL)) && inherited
    });
    assert_eq!(status, 0);
    let kernel = kernel.unwrap();
    assert!(!kernel.has_completions(), "the child's request came to its parent");
    writer.write_all(&[1; BLOCK]).unwrap();
    assert_eq!(wait_for(&kernel), Completion { token: 1, res: BLOCK as i64 });
    assert_eq!(Read::of(file.as_raw_fd(), 3).submit(&kernel), Ok(1));
    assert_eq!(wait_for(&kernel).token, 3);
}

/// close(2) does not wait as io_destroy(2) does.
#[test]
#[should_panic(expected = "a ring is closed with requests in flight")]
fn close_is_only_for_a_ring_that_is_drained() {
    let (kernel, (reader, _writer)) = (IoUring::new().unwrap(), pipe());
    assert_eq!(Read::of(reader.as_raw_fd(), 1).submit(&kernel), Ok(1));
    drop(kernel);
}

/// Where RLIMIT_MEMLOCK is small: a smaller ring, or an error that says so. For root nothing is
/// counted, so a child becomes somebody else.
#[test]
fn memlock_gets_a_smaller_ring_or_is_named() {
    // SAFETY: takes no pointer.
    if unsafe { libc::geteuid() } != 0 {
        return eprintln!("skipped: only root becomes a user without locked memory");
    }
    let limited = |bytes: libc::rlim_t, child: fn() -> bool| {
        in_child(|| {
            let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
            let nobody = 61_000 + std::process::id() % 1000;
            // SAFETY: reads one limit; the other call takes numbers. Both are the child's own.
            unsafe {
                libc::setrlimit(libc::RLIMIT_MEMLOCK, &limit) == 0
                    && libc::syscall(libc::SYS_setresuid, nobody, nobody, nobody) == 0
                    && child()
            }
        })
    };
    let counted = limited(0, || IoUring::new().is_err()) == 0;
    if !counted {
        return eprintln!("skipped: this kernel does not count rings (Linux 5.12 to 6.13)");
    }
    let smaller = || {
        // A panic in a child of threads may wait for a lock that one of the others had.
        let Ok(kernel) = IoUring::new() else {
            return false;
        };
        let file = this_file();
        let all = (32..1024).contains(&kernel.capacity())
            && (0..100).all(|token| {
                Read::of(file.as_raw_fd(), token).submit(&kernel) == Ok(1)
                    && wait_for(&kernel).token == token
            });
        drop(kernel);
        all
    };
    assert_eq!(limited(40 << 10, smaller), 0);
    let named = || {
        IoUring::new().is_err_and(|error| {
            error.errno == Errno(libc::ENOMEM)
                && error.what.to_string_lossy().contains("RLIMIT_MEMLOCK")
        })
    };
    assert_eq!(limited(0, named), 0);
}
