// SPDX-License-Identifier: MIT OR Apache-2.0

//! Where every decision of a scenario comes from.

use std::cell::{Cell, RefCell};

/// A list of decisions: drawn from a seed, or given.
///
/// Zero always means the simplest thing, and a list that is used up goes on with zeros, so that a
/// shorter list, or one of smaller numbers, is a simpler scenario. That is what makes it shrink.
pub struct Tape {
    source: RefCell<Source>,
    drawn: Cell<usize>,
}

enum Source {
    Seed(fastrand::Rng),
    Given(Vec<u8>),
}

impl Tape {
    pub fn of_seed(seed: u64) -> Self {
        Self::new(Source::Seed(fastrand::Rng::with_seed(seed)))
    }

    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self::new(Source::Given(bytes.to_vec()))
    }

    fn new(source: Source) -> Self {
        Self { source: RefCell::new(source), drawn: Cell::new(0) }
    }

    /// A number below `n`, which is from 1 to 256.
    pub fn below(&self, n: usize) -> usize {
        debug_assert!((1..=256).contains(&n));
        let index = self.drawn.replace(self.drawn.get() + 1);
        let byte = match &mut *self.source.borrow_mut() {
            Source::Given(bytes) => bytes.get(index).copied().unwrap_or(0),
            Source::Seed(random) => random.u8(..),
        };
        usize::from(byte) % n
    }

    /// True `rate` times in sixteen.
    pub fn chance(&self, rate: usize) -> bool {
        rate > 0 && self.below(16) >= 16 - rate.min(15)
    }

    pub fn pick<T: Copy, const N: usize>(&self, from: [T; N]) -> T {
        from[self.below(N)]
    }
}

/// The first decisions that a seed stands for.
pub fn decisions_of(seed: u64, count: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..count).map(|_| random.u8(..)).collect()
}
