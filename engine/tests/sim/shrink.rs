// SPDX-License-Identifier: MIT OR Apache-2.0

//! Makes a failing scenario small: proptest asks for ever simpler lists of decisions, and each is
//! tried in a process of its own, because a failure ends its process.

use std::process::{Command, Stdio};

use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestCaseError, TestError, TestRunner};

use crate::run::{QUIET_VARIABLE, TAPE_VARIABLE};
use crate::tape;

const MOST_TRIES: u32 = 3000;
/// More do not fit into an environment variable.
const MOST_DECISIONS: usize = 60_000;

pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn from_hex(text: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal digits");
    (0..text.len() / 2).map(|index| digit(2 * index)).collect()
}

fn replay(tape: &[u8]) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("the path of this program"));
    command.env(TAPE_VARIABLE, to_hex(tape)).stdin(Stdio::null());
    command
}

/// How the scenario of `tape` fails, without the numbers in it; `None` if it does not.
fn failure(tape: &[u8]) -> Option<String> {
    let output = replay(tape).env(QUIET_VARIABLE, "1").output().expect("a process of this program");
    let words = String::from_utf8_lossy(&output.stderr).replace(|c: char| c.is_ascii_digit(), "");
    (!output.status.success()).then(|| format!("{} {words}", output.status))
}

/// Finds a small scenario that fails as that of `seed` does, and prints its trace.
pub fn shrink(seed: u64) {
    let tape = tape::decisions_of(seed, MOST_DECISIONS);
    let Some(original) = failure(&tape) else {
        return eprintln!("the scenario does not fail again in a process of its own");
    };
    let config =
        Config { failure_persistence: None, max_shrink_iters: MOST_TRIES, ..Config::default() };
    let test = |tape: Vec<u8>| match failure(&tape) {
        Some(failure) if failure == original => Err(TestCaseError::fail("the same")),
        _ => Ok(()),
    };
    let found = TestRunner::new(config).run_one(Decisions::of(tape), test);
    let Err(TestError::Fail(_, small)) = found else {
        return;
    };
    eprintln!("shrunk to {} decisions: {TAPE_VARIABLE}={}", small.len(), to_hex(&small));
    let _ = replay(&small).status();
}

/// A list of decisions that gets simpler: without a stretch of it, or with a smaller number.
struct Decisions {
    best: Vec<u8>,
    tried: Vec<u8>,
    step: Step,
}

#[derive(Clone, Copy)]
enum Step {
    Remove { length: usize, at: usize },
    Lower { at: usize, by: u8 },
    End,
}

impl Decisions {
    fn of(best: Vec<u8>) -> Self {
        let length = best.len().div_ceil(2);
        Self { tried: best.clone(), best, step: Step::Remove { length, at: 0 } }
    }

    /// The simpler list that `step` makes of the best, if it makes one.
    fn candidate(&self) -> Option<Vec<u8>> {
        let mut list = self.best.clone();
        match self.step {
            Step::Remove { length, at } => {
                drop(list.drain(at..(at + length).min(list.len())));
            }
            Step::Lower { at, by } => list[at] = list[at].checked_sub(by)?,
            Step::End => return None,
        }
        Some(list)
    }

    /// What to try after a step that did not help (one that did is tried again).
    fn next(&self) -> Step {
        match self.step {
            Step::Remove { length, at } if at + length < self.best.len() => {
                Step::Remove { length, at: at + length }
            }
            Step::Remove { length, .. } if length > 1 => Step::Remove { length: length / 2, at: 0 },
            Step::Remove { .. } if !self.best.is_empty() => self.lower(0),
            Step::Lower { at, by } if by > 1 => Step::Lower { at, by: by / 2 },
            Step::Lower { at, .. } if at + 1 < self.best.len() => self.lower(at + 1),
            _ => Step::End,
        }
    }

    fn lower(&self, at: usize) -> Step {
        Step::Lower { at, by: self.best[at].max(1) }
    }

    /// Keeps the step within the list, which may have become shorter.
    fn clamp(&mut self) {
        let length = self.best.len();
        let outside = match self.step {
            Step::Remove { at, .. } | Step::Lower { at, .. } => at >= length,
            Step::End => false,
        };
        if outside {
            self.step = self.next();
        }
    }

    fn advance(&mut self) -> bool {
        loop {
            if let Some(list) = self.candidate() {
                self.tried = list;
                return true;
            }
            if matches!(self.step, Step::End) {
                self.tried = self.best.clone();
                return false;
            }
            self.step = self.next();
        }
    }
}

impl ValueTree for Decisions {
    type Value = Vec<u8>;

    fn current(&self) -> Vec<u8> {
        self.tried.clone()
    }

    /// The last one tried fails too: go on from there.
    fn simplify(&mut self) -> bool {
        self.best = self.tried.clone();
        self.clamp();
        self.advance()
    }

    /// The last one tried does not fail: try another.
    fn complicate(&mut self) -> bool {
        self.step = self.next();
        self.advance()
    }
}
