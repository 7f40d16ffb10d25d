// SPDX-License-Identifier: MIT OR Apache-2.0

//! The experiment: what makes a QEMU recurse, in a process with a small stack.

use std::ffi::{OsStr, c_int};
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use laio_engine::kernel::{Entry, Kernel, LinuxAio, Opcode};

use super::version::Aio;

/// Enough for 4,000 levels of the flattest recursion that is known, io_uring's; and for all else.
const STACK: u64 = 1 << 20;
const REQUESTS: &str = "100000";
/// Seconds. Against hangs only.
const LIMIT: u32 = 300;
/// The recursion begins where a read that took its time is followed by a hole. On a busy machine one such
/// place may do without.
const PLACES: u64 = 16;
const PLACE_DISTANCE: u64 = 16 << 20;
const DATA: usize = 64 << 10;
const BLOCK: usize = 4096;

/// What a mode of the library is put in front of a program by.
pub struct Mode<'a> {
    pub name: &'static str,
    pub preload: &'a OsStr,
}

pub enum Outcome {
    /// Of SIGSEGV.
    Overflowed,
    /// And what the library said at the end, if it was there.
    Completed(String),
    /// That says nothing.
    Failed(String),
}

/// A file with a hole whose reads complete within io_submit(2). It has no name, and is gone with this.
pub struct Hole {
    file: File,
    pub directory: PathBuf,
}

impl Hole {
    /// In TMPDIR, or else in the first directory for such files where there can be one.
    pub fn new() -> Result<Self, String> {
        let mut why_not = String::new();
        let directories = match std::env::var_os("TMPDIR") {
            Some(directory) => vec![PathBuf::from(directory)],
            None => vec!["/tmp".into(), "/var/tmp".into()],
        };
        for directory in directories {
            match Self::in_directory(&directory) {
                Ok(Some(hole)) => return Ok(hole),
                Ok(None) => {
                    why_not = format!("a hole in {} is not read at once", directory.display())
                }
                Err(error) => {
                    why_not = format!("no hole to be had in {}: {error}", directory.display())
                }
            }
        }
        Err(why_not)
    }

    fn in_directory(directory: &Path) -> io::Result<Option<Self>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_TMPFILE)
            .mode(0o600)
            .open(directory)?;
        let mut data = [0; DATA];
        File::open("/dev/urandom")?.read_exact(&mut data)?;
        for place in 0..PLACES {
            file.write_all_at(&data, place * PLACE_DISTANCE)?;
        }
        file.set_len(8 << 30)?;
        file.sync_all()?;
        let hole = Self { file, directory: directory.into() };
        Ok(hole.is_read_at_once()?.then_some(hole))
    }

    /// As this process's children can open it.
    fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()).into()
    }

    fn is_read_at_once(&self) -> io::Result<bool> {
        #[repr(align(4096))]
        struct Buffer([u8; BLOCK]);
        let mut buffer = Buffer([0; BLOCK]);
        let part = libc::iovec { iov_base: buffer.0.as_mut_ptr().cast(), iov_len: BLOCK };
        let direct =
            OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(self.path())?;
        let kernel = LinuxAio::new().map_err(|error| errno(error.errno.0))?;
        for block in 0..16 {
            let offset = (2 * DATA + block * BLOCK) as i64;
            let vector = (&raw const part, 1);
            let mut entry = Entry::transfer(Opcode::Read, direct.as_raw_fd(), vector, offset);
            kernel.prepare(&mut entry);
            // SAFETY: entry, part and buffer stay until the completion is reaped below.
            unsafe { kernel.submit(&[&raw mut entry]) }.map_err(|error| errno(error.0))?;
            let at_once = kernel.has_completions();
            while !kernel.has_completions() {
                kernel.wait();
            }
            if !at_once || kernel.reap().is_none_or(|completion| completion.res != BLOCK as i64) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// `qemu-img bench` over it, one request at a time.
    pub fn bench(&self, qemu_img: &Path, aio: Aio, mode: Option<&Mode>) -> Outcome {
        let mut command = Command::new(qemu_img);
        command.args(["bench", "-f", "raw", "-t", "none", "-i", aio.name(), "-d", "1"]);
        command.args(["-c", REQUESTS, "-s", "4096"]).arg(self.path());
        match run(command, mode) {
            Err(error) => Outcome::Failed(error.to_string()),
            Ok(output) => outcome(&output),
        }
    }
}

fn errno(number: c_int) -> io::Error {
    io::Error::from_raw_os_error(number)
}

fn outcome(output: &Output) -> Outcome {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    match output.status.signal() {
        None if output.status.success() => Outcome::Completed(said),
        Some(libc::SIGSEGV) => Outcome::Overflowed,
        Some(libc::SIGALRM) => Outcome::Failed(format!("it did not end within {LIMIT} seconds")),
        _ => {
            let last = said.lines().last().unwrap_or("it said nothing");
            Outcome::Failed(format!("{}: {last}", output.status))
        }
    }
}

/// Runs it under `mode`, or as it is.
pub fn run(mut command: Command, mode: Option<&Mode>) -> io::Result<Output> {
    match mode {
        Some(mode) => command
            .env("LD_PRELOAD", mode.preload)
            .env("LAIO_PRELOAD", mode.name)
            .env("LAIO_STATS", "1"),
        // The library may be there already.
        None => command.env("LAIO_PRELOAD", "off").env("LAIO_STATS", "0"),
    };
    // SAFETY: system calls alone.
    unsafe { command.pre_exec(limit_resources) };
    command.stdin(Stdio::null()).output()
}

fn limit_resources() -> io::Result<()> {
    let limits = [
        (libc::RLIMIT_STACK, STACK),
        // Neither a file nor, where that is what happens with cores, a process to take it: core(5).
        (libc::RLIMIT_CORE, 1),
    ];
    for (resource, wanted) in limits {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: writes one limit, and reads it.
        let done = unsafe {
            libc::getrlimit(resource, &mut limit) == 0 && {
                limit.rlim_cur = limit.rlim_max.min(wanted);
                libc::setrlimit(resource, &limit) == 0
            }
        };
        if !done {
            return Err(io::Error::last_os_error());
        }
    }
    // SAFETY: only sets a timer, which stays when the program is executed, and ends that.
    unsafe { libc::alarm(LIMIT) };
    Ok(())
}
