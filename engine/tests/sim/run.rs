// SPDX-License-Identifier: MIT OR Apache-2.0

//! Many scenarios, in processes of their own, and what is told about one that fails.
//!
//! A failure may come from deep within callbacks that must not unwind, so it ends its process.

use std::cell::Cell;
use std::io::Write;
use std::process::{Command, Stdio, exit};
use std::time::{Duration, Instant};

use crate::scenario::{self, Summary};
use crate::shrink;
use crate::tape::Tape;
use crate::world::World;

const DEFAULT_COUNT: u64 = 1_000_000;
const WORKERS: u64 = 2;
/// The exit status of a process whose scenario failed.
const FAILED: i32 = 101;

/// The decisions of one scenario, for the processes that replay it.
pub const TAPE_VARIABLE: &str = "LAIO_SIM_TAPE";
/// No trace.
pub const QUIET_VARIABLE: &str = "LAIO_SIM_QUIET";
const WORKER_VARIABLE: &str = "LAIO_SIM_WORKER";

thread_local! {
    static SEED: Cell<u64> = const { Cell::new(0) };
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    let Ok(number) = text.parse() else {
        eprintln!("{variable} is {text:?} and not a number");
        exit(2);
    };
    Some(number)
}

pub fn main() {
    // libtest's arguments: this is one test, and a filter for others leaves it out.
    if std::env::args().any(|argument| argument == "--list") {
        println!("simulation: test");
        return;
    }
    if let Ok(tape) = std::env::var(TAPE_VARIABLE) {
        replay(Tape::of_bytes(&shrink::from_hex(&tape)));
    } else if let Some(worker) = number(WORKER_VARIABLE) {
        work(worker);
    } else if let Some(seed) = number("LAIO_SIM_SEED") {
        replay(Tape::of_seed(seed));
    } else {
        supervise();
    }
}

/// One scenario with its trace.
fn replay(tape: Tape) {
    fn on_failure(world: &World, what: &str) -> ! {
        eprintln!("step {}: {what}", world.steps());
        exit(FAILED);
    }
    let quiet = std::env::var_os(QUIET_VARIABLE).is_some();
    std::panic::set_hook(Box::new(|panic| {
        eprintln!("{panic}");
        exit(FAILED);
    }));
    let summary = scenario::run(tape, !quiet, on_failure);
    eprintln!("no failure: {summary:?}");
}

/// Runs the workers, and fails if one of them does.
fn supervise() {
    let first = number("LAIO_SIM_FIRST").unwrap_or(0);
    println!("simulation: from seed {first} on, {WORKERS} processes");
    let start = Instant::now();
    let me = std::env::current_exe().expect("the path of this program");
    let workers: Vec<_> = (0..WORKERS)
        .map(|worker| {
            Command::new(&me)
                .env(WORKER_VARIABLE, worker.to_string())
                .stdin(Stdio::null())
                .spawn()
                .expect("a process of this program")
        })
        .collect();
    let mut good = true;
    for mut worker in workers {
        let status = worker.wait().expect("the status of a worker");
        if !status.success() {
            eprintln!("simulation: a worker ended with {status}");
            good = false;
        }
    }
    println!("simulation: {} s", start.elapsed().as_secs());
    if !good {
        exit(FAILED);
    }
}

/// Every `WORKERS`th scenario.
fn work(worker: u64) {
    report_crashes();
    let first = number("LAIO_SIM_FIRST").unwrap_or(0);
    let count = number("LAIO_SIM_COUNT").unwrap_or(DEFAULT_COUNT);
    let end = number("LAIO_SIM_SECONDS").map(|n| Instant::now() + Duration::from_secs(n));
    let mut total = Summary::default();
    let mut scenarios = 0;
    for seed in (first + worker..).step_by(WORKERS as usize) {
        let over = match end {
            Some(end) => scenarios % 256 == 0 && Instant::now() >= end,
            None => seed >= first + count,
        };
        if over {
            break;
        }
        SEED.set(seed);
        total.add(&scenario::run(Tape::of_seed(seed), false, report));
        scenarios += 1;
    }
    println!("simulation: worker {worker}: {scenarios} scenarios, {total:?}");
}

/// Tells which seed failed and how, and the shrunk scenario with its trace.
fn report(world: &World, what: &str) -> ! {
    tell(&format!("step {}: {what}", world.steps()));
    exit(FAILED);
}

fn tell(what: &str) {
    let seed = SEED.get();
    // In one piece: the other worker may fail as well.
    let report = format!(
        "simulation FAILED: seed {seed}, {what}\n\
         replay it: LAIO_SIM_SEED={seed} cargo test -p laio-engine --test sim\n"
    );
    let _ = std::io::stderr().write_all(report.as_bytes());
    if std::env::var_os("LAIO_SIM_NO_SHRINK").is_none() {
        shrink::shrink(seed);
    }
}

/// An assertion of the engine, or a stack that overflows, ends the process: the seed must be told
/// before it is gone.
fn report_crashes() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        default(panic);
        tell("a panic");
        exit(FAILED);
    }));
    extern "C" fn on_signal(signal: libc::c_int) {
        let seed = SEED.get();
        let mut line = [0u8; 128];
        let mut rest = &mut line[..];
        // Nothing here allocates.
        let _ = writeln!(rest, "simulation FAILED: seed {seed}: signal {signal}");
        let left = rest.len();
        let length = line.len() - left;
        // SAFETY: writes what is in the array, then ends the process.
        unsafe {
            libc::write(2, line.as_ptr().cast(), length);
            libc::_exit(FAILED);
        }
    }
    for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGABRT] {
        // SAFETY: the handler only writes and exits. The standard library has set up a stack for
        // it on the main thread, which is this one.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_signal as extern "C" fn(libc::c_int) as usize;
            action.sa_flags = libc::SA_ONSTACK;
            libc::sigaction(signal, &action, std::ptr::null_mut());
        }
    }
}

impl Summary {
    fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.requests += other.requests;
        self.at_bound += other.at_bound;
        self.retried += other.retried;
        self.eagain += other.eagain;
        self.failed += other.failed;
        self.bh_resumptions += other.bh_resumptions;
        self.threads += other.threads;
        self.children += other.children;
        self.transient += other.transient;
        self.deepest = self.deepest.max(other.deepest);
    }
}
