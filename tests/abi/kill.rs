// SPDX-License-Identifier: MIT OR Apache-2.0

//! A writer under load, killed at random points: what it was told is written, is written.
//!
//! This program starts itself as the writer, which tells through a pipe, its standard error, each record that it may
//! rely on: written with FUA and completed, or followed by a flush that completed. SIGKILL comes
//! at any time; then each record in the file must be whole and no older than what was told.
//!
//! `LAIO_KILL_ROUNDS=n` sets the number of kills.

use std::cell::{Cell, RefCell};
use std::ffi::{c_int, c_void};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio, exit};
use std::time::Duration;

use laio_engine::host::{AioContext, LinuxAioState};
use laio_engine::request::{REQ_FUA, aio_type};

use super::scratch_directory;
use crate::ffi;

const RECORD: usize = 4096;
const SLOTS: usize = 128;
const DEPTH: usize = 24;
const WRITER_VARIABLE: &str = "LAIO_KILL_WRITER";
const DEFAULT_ROUNDS: u64 = 40;
/// The writer's status when a request of its own failed. Its standard error is the pipe.
const REQUEST_FAILED: i32 = 3;

/// The name of [`a_killed_writer_loses_nothing_that_it_told`] among the tests of this program.
const NAME: &str = "abi::kill::a_killed_writer_loses_nothing_that_it_told";

#[test]
fn a_killed_writer_loses_nothing_that_it_told() {
    match std::env::var_os(WRITER_VARIABLE) {
        Some(path) => write_until_killed(Path::new(&path)),
        None => kill_many_times(),
    }
}

/// A record: which slot, which generation, and a body that only these two give.
fn fill(record: &mut [u8], slot: u64, generation: u64) {
    let mut random = fastrand::Rng::with_seed(slot ^ generation.rotate_left(32));
    random.fill(&mut record[16..]);
    record[..8].copy_from_slice(&slot.to_le_bytes());
    record[8..16].copy_from_slice(&generation.to_le_bytes());
}

/// The generation of a whole record; 0 where nothing was ever written.
fn generation(record: &[u8], slot: u64) -> Result<u64, &'static str> {
    if record.iter().all(|&byte| byte == 0) {
        return Ok(0);
    }
    let word = |at: usize| u64::from_le_bytes(record[at..at + 8].try_into().unwrap());
    let mut whole = vec![0; RECORD];
    fill(&mut whole, slot, word(8));
    if record == whole { Ok(word(8)) } else { Err("is torn") }
}

fn open(path: &Path) -> File {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    // Where the file system has no O_DIRECT (tmpfs before Linux 6.6), through the page cache.
    match options.clone().custom_flags(libc::O_DIRECT).open(path) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => options.open(path),
        opened => opened,
    }
    .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[repr(C, align(4096))]
struct Buffer([u8; RECORD]);

/// One request at a time of each of these.
struct Job {
    writer: *const Writer,
    buffer: RefCell<Box<Buffer>>,
    iov: Cell<libc::iovec>,
    /// `None` for a flush.
    slot: Cell<Option<usize>>,
    generation: Cell<u64>,
    fua: Cell<bool>,
    /// What a flush makes durable: all that was complete when it began.
    covers: RefCell<Vec<(u64, u64)>>,
}

struct Writer {
    fd: RawFd,
    state: *mut LinuxAioState,
    random: RefCell<fastrand::Rng>,
    generations: [Cell<u64>; SLOTS],
    busy: [Cell<bool>; SLOTS],
    /// Completed without FUA, and not yet covered by a flush.
    unflushed: RefCell<Vec<(u64, u64)>>,
}

fn write_until_killed(path: &Path) {
    let file = open(path);
    let first = std::env::var("LAIO_KILL_FIRST").unwrap().parse().unwrap();
    // SAFETY: the C API as its header says; all of it lives until the process is killed.
    unsafe {
        let context: *mut AioContext = ffi::laio_loop_new();
        let state = ffi::laio_init(std::ptr::null_mut());
        assert!(!context.is_null() && !state.is_null(), "no AIO context");
        ffi::laio_attach_aio_context(state, context);
        let writer = Box::leak(Box::new(Writer {
            fd: file.as_raw_fd(),
            state,
            random: RefCell::new(fastrand::Rng::with_seed(first)),
            generations: [const { Cell::new(0) }; SLOTS],
            busy: [const { Cell::new(false) }; SLOTS],
            unflushed: RefCell::default(),
        }));
        writer.generations.iter().for_each(|generation| generation.set(first));
        for _ in 0..DEPTH {
            writer.start(Box::leak(Box::new(Job {
                writer,
                buffer: RefCell::new(Box::new(Buffer([0; RECORD]))),
                iov: Cell::new(std::mem::zeroed()),
                slot: Cell::new(None),
                generation: Cell::new(0),
                fua: Cell::new(false),
                covers: RefCell::default(),
            })));
        }
        loop {
            ffi::laio_loop_poll(context, true);
        }
    }
}

impl Writer {
    fn start(&self, job: &'static Job) {
        let choice = self.random.borrow_mut().usize(..10);
        if choice == 0 {
            job.slot.set(None);
            job.covers.replace(self.unflushed.take());
        } else {
            let free = || self.random.borrow_mut().usize(..SLOTS);
            let slot = std::iter::repeat_with(free).find(|&slot| !self.busy[slot].get()).unwrap();
            self.busy[slot].set(true);
            let generation = self.generations[slot].get() + 1;
            self.generations[slot].set(generation);
            job.slot.set(Some(slot));
            job.generation.set(generation);
            job.fua.set(choice < 5);
            fill(&mut job.buffer.borrow_mut().0, slot as u64, generation);
        }
        self.submit(job);
    }

    fn submit(&self, job: &'static Job) {
        let iov = libc::iovec {
            iov_base: job.buffer.borrow_mut().0.as_mut_ptr().cast(),
            iov_len: RECORD,
        };
        job.iov.set(iov);
        let (kind, slot) = match job.slot.get() {
            Some(slot) => (aio_type::WRITE, slot),
            None => (aio_type::FLUSH, 0),
        };
        let flags = if job.fua.get() { REQ_FUA } else { 0 };
        let offset = (slot * RECORD) as u64;
        let opaque = std::ptr::from_ref(job).cast_mut().cast();
        // SAFETY: the job, its vector and its buffer are leaked.
        let answer = unsafe {
            let iov = job.iov.as_ptr();
            let state = self.state;
            ffi::laio_state_submit(
                state,
                self.fd,
                offset,
                iov,
                1,
                kind,
                flags,
                0,
                Some(done),
                opaque,
            )
        };
        assert_eq!(answer, 0, "a request was refused");
    }

    /// Tells the tester that it may rely on these records.
    fn rely_on(&self, records: &[(u64, u64)]) {
        let mut message = Vec::with_capacity(records.len() * 16);
        for (slot, generation) in records {
            message.extend(slot.to_le_bytes());
            message.extend(generation.to_le_bytes());
        }
        // In pieces that a pipe takes whole.
        for piece in message.chunks(libc::PIPE_BUF / 16 * 16) {
            std::io::stderr().write_all(piece).unwrap();
        }
    }
}

unsafe extern "C" fn done(opaque: *mut c_void, result: c_int) {
    // SAFETY: a leaked job.
    let job: &'static Job = unsafe { &*opaque.cast() };
    // SAFETY: leaked as well.
    let writer = unsafe { &*job.writer };
    if result != 0 {
        exit(REQUEST_FAILED);
    }
    match job.slot.get() {
        None => writer.rely_on(&job.covers.take()),
        Some(slot) => {
            let record = (slot as u64, job.generation.get());
            writer.busy[slot].set(false);
            if job.fua.get() {
                writer.rely_on(&[record]);
            } else {
                writer.unflushed.borrow_mut().push(record);
            }
        }
    }
    writer.start(job);
}

/// A file in a directory of its own, removed in the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        let name = format!("kill-{}", std::process::id());
        let path = scratch_directory().join(name);
        let file = File::create(&path).expect("a file to write to");
        file.set_len((SLOTS * RECORD) as u64).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn kill_many_times() {
    let rounds = std::env::var("LAIO_KILL_ROUNDS")
        .map_or(DEFAULT_ROUNDS, |rounds| rounds.parse().expect("LAIO_KILL_ROUNDS is a number"));
    let scratch = Scratch::new();
    let mut relied_on = [0; SLOTS];
    let (mut told, mut later) = (0, 0);
    for round in 1..=rounds {
        told += run_and_kill(&scratch.0, round, &mut relied_on);
        later +=
            verify(&scratch.0, &relied_on).unwrap_or_else(|fault| panic!("round {round}: {fault}"));
    }
    assert!(told > 0, "no writer ever completed anything: nothing was tested");
    println!(
        "kill: {rounds} writers killed, {told} records relied on, {later} written beyond that"
    );
}

/// Runs a writer for a while, kills it, and notes what it told. How many records that were.
fn run_and_kill(path: &Path, round: u64, relied_on: &mut [u64; SLOTS]) -> u64 {
    let mut writer = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", NAME, "--nocapture"])
        .env(WRITER_VARIABLE, path)
        .env("LAIO_KILL_FIRST", (round << 32).to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a process of this program");
    let mut pipe = writer.stderr.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut told = Vec::new();
        let mut records = Vec::new();
        pipe.read_to_end(&mut told).unwrap();
        let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
        for record in told.chunks_exact(16) {
            records.push((word(&record[..8]) as usize, word(&record[8..])));
        }
        records
    });
    // Often within the first requests, sometimes long after.
    let wait = Duration::from_micros(1 << fastrand::u32(8..18));
    std::thread::sleep(Duration::from_millis(5) + wait);
    writer.kill().unwrap();
    // The kernel finishes what the process had in flight before its end is seen here.
    let status = writer.wait().unwrap();
    assert!(status.code().is_none(), "the writer ended by itself: {status}");
    let records = reader.join().unwrap();
    for &(slot, generation) in &records {
        relied_on[slot] = relied_on[slot].max(generation);
    }
    records.len() as u64
}

/// How many records are newer than what was told; or what is wrong.
fn verify(path: &Path, relied_on: &[u64; SLOTS]) -> Result<u64, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let mut newer = 0;
    for (slot, &relied_on) in relied_on.iter().enumerate() {
        let mut record = vec![0; RECORD];
        file.read_exact_at(&mut record, (slot * RECORD) as u64)
            .map_err(|error| error.to_string())?;
        let found =
            generation(&record, slot as u64).map_err(|fault| format!("record {slot} {fault}"))?;
        if found < relied_on {
            return Err(format!("record {slot} is of generation {found:#x}, not {relied_on:#x}"));
        }
        newer += u64::from(found > relied_on);
    }
    Ok(newer)
}
