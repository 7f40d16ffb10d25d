// SPDX-License-Identifier: MIT OR Apache-2.0

//! What kind of world it is.

use crate::kernel::CAPACITY;
use crate::tape::Tape;

/// Whether the host polls.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Polls {
    Never,
    /// Beside waiting for the eventfd.
    Also,
    /// It never looks at the eventfd.
    Only,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Coroutines {
    /// The host has none.
    None,
    Real,
    /// As the built-in host: the thread drives the event loop until its request is done.
    Thread,
}

/// What kind of world this is. Rates are in sixteenths.
#[derive(Debug)]
pub struct Config {
    pub states: usize,
    pub bound: u32,
    pub defers: bool,
    pub coroutines: Coroutines,
    pub polls: Polls,
    /// Owners that one entry from the event loop may tell.
    pub max_told: u32,
    /// How large a file may become.
    pub size_limit: usize,
    pub locks: bool,
    pub timers_fail: bool,
    pub watches_fail: bool,
    /// Requests that the kernel takes at a time.
    pub capacity: usize,
    pub context_batch: u64,
    pub requests: usize,
    pub steps: usize,
    pub sizes_known: bool,
    pub max_loops: u32,
    pub hold: usize,
    pub eagain: usize,
    pub refusal: usize,
    pub partial: usize,
    pub short: usize,
    pub failure: usize,
    pub race: usize,
    pub late: usize,
    pub spurious: usize,
    pub wake_later: usize,
    /// How much an owner does when it is told.
    pub busy: usize,
    /// How often a hook calls the library.
    pub hook_acts: usize,
}

impl Config {
    pub fn of(tape: &Tape) -> Self {
        let rate = || tape.pick([0, 0, 1, 2, 4, 8]);
        // Rare and large: to exceed the ring takes thousands of requests.
        let large = tape.below(256) == 255 && tape.below(8) == 7;
        Self {
            states: tape.pick([1, 1, 1, 1, 2, 2, 3]),
            bound: tape.pick([8, 8, 1, 2, 3, 4, 64]),
            defers: tape.below(2) == 1,
            coroutines: tape.pick([Coroutines::None, Coroutines::Real, Coroutines::Thread]),
            polls: tape.pick([Polls::Never, Polls::Never, Polls::Also, Polls::Only]),
            max_told: tape.pick([1024, 1024, 1024, 1, 2, 5]),
            size_limit: tape.pick([usize::MAX, usize::MAX, usize::MAX, 70, 100]),
            locks: tape.below(3) == 1,
            timers_fail: tape.below(8) == 7,
            watches_fail: tape.below(8) == 7,
            capacity: if large {
                CAPACITY
            } else {
                tape.pick([CAPACITY, CAPACITY, CAPACITY, 1, 2, 3, 6])
            },
            context_batch: tape.pick([0, 0, 1, 2, 3, 5]),
            requests: if large { 2500 } else { tape.pick([6, 3, 12, 12, 24, 48]) },
            steps: 4 + tape.below(if large { 256 } else { 24 }),
            sizes_known: tape.below(2) == 0,
            max_loops: tape.pick([3, 0, 1, 2, 8, 20]),
            hold: if large { 15 } else { tape.pick([0, 0, 2, 8, 14]) },
            eagain: rate(),
            refusal: rate(),
            partial: rate(),
            short: rate(),
            failure: rate(),
            race: rate(),
            late: rate(),
            spurious: rate(),
            wake_later: rate(),
            busy: tape.pick([2, 0, 1, 3, 4]),
            hook_acts: tape.pick([0, 0, 0, 1, 2]),
        }
    }
}
