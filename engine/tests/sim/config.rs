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

/// Of one scenario.
const MOST_STATES: usize = 3;

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
    /// A bit for each state whose kernel is io_uring and not Linux AIO.
    uring: usize,
    /// Entries of a ring of io_uring.
    ring: usize,
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
    /// How often a result says nothing of the request.
    pub transient: usize,
    /// How often the thread that has submitted ends, and another goes on.
    pub exits: usize,
    /// How often the process forks.
    pub forks: usize,
    /// The scenario ends in the child of a fork.
    pub ends_in_child: bool,
}

/// What is only decided where there is io_uring: scenarios without it are as before there was.
#[derive(Default)]
struct OfUring {
    ring: usize,
    transient: usize,
    exits: usize,
    forks: usize,
    ends_in_child: bool,
}

impl OfUring {
    fn of(tape: &Tape, large: bool) -> Self {
        Self {
            // As RLIMIT_MEMLOCK allows; and smaller, so that small scenarios fill it.
            ring: if large { CAPACITY } else { tape.pick([CAPACITY, CAPACITY, 32, 1, 2, 4, 8]) },
            transient: tape.pick([0, 0, 1, 2, 4, 8]),
            exits: tape.pick([0, 0, 0, 1, 2]),
            forks: tape.pick([0, 0, 0, 1, 2]),
            ends_in_child: tape.below(8) == 7,
        }
    }
}

impl Config {
    pub fn of(tape: &Tape) -> Self {
        let rate = || tape.pick([0, 0, 1, 2, 4, 8]);
        let size = tape.below(256);
        // Rare and large: to exceed the ring takes thousands of requests.
        let large = size == 255 && tape.below(8) == 7;
        let uring = if large { tape.below(2) } else { size } & ((1 << MOST_STATES) - 1);
        let of_uring = if uring == 0 { OfUring::default() } else { OfUring::of(tape, large) };
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
            uring,
            ring: of_uring.ring,
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
            transient: of_uring.transient,
            exits: of_uring.exits,
            forks: of_uring.forks,
            ends_in_child: of_uring.ends_in_child,
        }
    }

    /// Whether the kernel of the state in `slot` has io_uring's manners.
    pub fn is_uring(&self, slot: usize) -> bool {
        self.uring >> slot & 1 == 1
    }

    /// How many requests the kernel of the state in `slot` has in flight at most.
    pub fn ring_of(&self, slot: usize) -> usize {
        if self.is_uring(slot) { self.ring } else { CAPACITY }
    }
}
