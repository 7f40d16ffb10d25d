// SPDX-License-Identifier: MIT OR Apache-2.0

//! Where on its stacks a thread has called io_submit: the estimate of the nesting.
//!
//! A call nests in an earlier one if it lies below it on the same stack and the earlier one's caller
//! has not returned. The first is seen from addresses alone; the second is not, so a caller that is
//! called from ever deeper functions looks nested, and [`Calls::correct`] then says what is so.
//! Nothing here is ever more than an address to compare: what was a stack may be gone by now.
//!
//! Coroutines have stacks anywhere in memory, and a call on one says nothing of the calls on
//! another. So each stack has its own record, and what tells stacks apart is distance. Two that are
//! closer than that, and so smaller than QEMU's, may be taken for one, and the estimate be wrong.

use std::cell::Cell;

/// Stacks that are remembered at a time. One that is forgotten between two nested calls begins to
/// count anew.
const STACKS: usize = 16;
/// Calls that are remembered on each, the innermost. More than the default bound, so that they are
/// all that there are.
pub const KEPT: usize = 16;
/// Bytes between two calls that are surely on the same stack if no other stack is nearer: QEMU's
/// coroutines have 1 MiB of stack each, and 64 levels of its recursion take 540 KiB.
const REACH: usize = 640 << 10;
/// Bytes between two calls between which there is no room for another stack's.
const NEAR: usize = 64 << 10;

struct Stack {
    /// How many calls are nested, or more than that.
    depth: Cell<u32>,
    /// How many of them, the innermost, are in `marks`.
    kept: Cell<u32>,
    /// An address in the frame of each, as the distance from `outermost`; that of depth `d` is at
    /// `d % KEPT`. Small, because a thread's stack has to make room for it.
    marks: [Cell<u32>; KEPT],
    /// Nothing is nested in a call that is not below this.
    outermost: Cell<usize>,
    /// When it was last used.
    used: Cell<u64>,
}

impl Stack {
    const fn new() -> Self {
        Self {
            depth: Cell::new(0),
            kept: Cell::new(0),
            marks: [const { Cell::new(0) }; KEPT],
            outermost: Cell::new(0),
            used: Cell::new(0),
        }
    }

    fn slot(&self, depth: u32) -> &Cell<u32> {
        &self.marks[depth as usize % KEPT]
    }

    fn innermost(&self) -> usize {
        self.outermost.get().wrapping_sub(self.slot(self.depth.get()).get() as usize)
    }

    /// From its innermost call to `mark`.
    fn distance(&self, mark: usize) -> usize {
        match self.depth.get() {
            0 => usize::MAX,
            _ => self.innermost().abs_diff(mark),
        }
    }

    fn clear(&self) {
        self.depth.set(0);
        self.kept.set(0);
    }

    /// Forgets the calls whose frames the stack pointer has left behind.
    fn leave(&self, mark: usize) {
        if mark >= self.outermost.get() {
            return self.clear();
        }
        while self.kept.get() > 0 && self.innermost() <= mark {
            self.depth.set(self.depth.get() - 1);
            self.kept.set(self.kept.get() - 1);
        }
    }

    fn push(&self, mark: usize) {
        let depth = self.depth.get() + 1;
        if depth == 1 {
            self.outermost.set(mark);
        }
        self.depth.set(depth);
        self.slot(depth).set(self.outermost.get().wrapping_sub(mark) as u32);
        self.kept.set((self.kept.get() + 1).min(KEPT as u32));
    }
}

/// One thread's calls.
pub struct Calls {
    stacks: [Stack; STACKS],
    /// The stack of the last call.
    current: Cell<usize>,
    clock: Cell<u64>,
}

impl Calls {
    pub const fn new() -> Self {
        Self {
            stacks: [const { Stack::new() }; STACKS],
            current: Cell::new(0),
            clock: Cell::new(0),
        }
    }

    /// Takes note of a call and says how deep it may be nested: 1 for a call in no other.
    pub fn enter(&self, mark: usize) -> u32 {
        let mut stack = self.current();
        if stack.distance(mark) >= NEAR {
            stack = self.switch_to(mark);
        }
        stack.leave(mark);
        stack.push(mark);
        stack.depth.get()
    }

    /// The mark of the outermost call that the last one may be nested in.
    pub fn outermost(&self) -> usize {
        self.current().outermost.get()
    }

    fn current(&self) -> &Stack {
        &self.stacks[self.current.get() % STACKS]
    }

    #[cold]
    fn switch_to(&self, mark: usize) -> &Stack {
        let now = self.clock.get() + 1;
        self.clock.set(now);
        self.current().used.set(now);
        self.current.set(self.least_by(|stack| stack.distance(mark)));
        if self.current().distance(mark) >= REACH {
            self.current.set(self.least_by(|stack| stack.used.get()));
            self.current().clear();
        }
        self.current()
    }

    fn least_by<T: Ord>(&self, key: impl Fn(&Stack) -> T) -> usize {
        let least = (0..STACKS).min_by_key(|&index| key(&self.stacks[index]));
        least.unwrap_or(0)
    }

    /// Puts the record of the last call's stack right: `depth` calls are nested there. `marks` are
    /// the innermost of them, the last call first; `outermost` is the first call of all.
    pub fn correct(&self, depth: u32, marks: &[usize], outermost: usize) {
        let stack = self.current();
        stack.clear();
        stack.depth.set(depth.saturating_sub(marks.len() as u32));
        stack.outermost.set(outermost);
        for &mark in marks.iter().rev() {
            stack.push(mark);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOP: usize = 0x7fff_0000_0000;
    const LEVEL: usize = 9000;

    #[test]
    fn a_caller_in_a_loop_is_not_nested() {
        let calls = Calls::new();
        for _ in 0..100 {
            assert_eq!(calls.enter(TOP), 1);
        }
    }

    #[test]
    fn calls_below_one_another_count_up_and_back() {
        let calls = Calls::new();
        for level in 0..100 {
            assert_eq!(calls.enter(TOP - level * LEVEL), level as u32 + 1);
        }
        assert_eq!(calls.enter(TOP - 95 * LEVEL), 96);
        assert_eq!(calls.enter(TOP - 96 * LEVEL), 97);
        assert_eq!(calls.enter(TOP), 1);
    }

    #[test]
    fn the_estimate_is_never_too_low_when_more_returned_than_is_kept() {
        let calls = Calls::new();
        for level in 0..40 {
            calls.enter(TOP - level * 100);
        }
        assert!(calls.enter(TOP - 5 * 100) >= 6);
    }

    /// The prototype forgot a stack's frames when a call came on a stack above it.
    #[test]
    fn a_call_on_another_stack_changes_nothing_on_this_one() {
        for distance in [-(64i64 << 20), -(1 << 20), 1 << 20, 64 << 20] {
            let calls = Calls::new();
            let other = TOP.wrapping_add_signed(distance as isize);
            for level in 0..20 {
                assert_eq!(calls.enter(TOP - level * LEVEL), level as u32 + 1);
                assert_eq!(calls.enter(other), 1);
            }
        }
    }

    /// Within the reach of one another, as the end of one stack is of the beginning of the next.
    #[test]
    fn the_nearest_stack_is_the_one() {
        let calls = Calls::new();
        let neighbour = TOP - (1 << 20);
        for level in 0..100 {
            assert_eq!(calls.enter(TOP - level * LEVEL), level as u32 + 1);
            assert_eq!(calls.enter(neighbour), 1);
        }
    }

    #[test]
    fn many_stacks_in_turn_are_each_at_the_first_call() {
        let calls = Calls::new();
        for round in 0..1000 {
            assert_eq!(calls.enter(TOP - ((round % 100) << 20)), 1);
        }
    }

    #[test]
    fn a_correction_holds_until_its_frames_return() {
        let calls = Calls::new();
        for level in 0..8 {
            calls.enter(TOP - level * LEVEL);
        }
        calls.correct(2, &[TOP - 7 * LEVEL, TOP - 3 * LEVEL], TOP - 3 * LEVEL);
        assert_eq!(calls.enter(TOP - 8 * LEVEL), 3);
        assert_eq!(calls.enter(TOP - 4 * LEVEL), 2);
        assert_eq!(calls.enter(TOP), 1);
    }

    #[test]
    fn a_correction_may_know_of_more_calls_than_it_has_room_for() {
        let calls = Calls::new();
        for level in 0..60 {
            calls.enter(TOP - level * LEVEL);
        }
        let marks: [usize; KEPT] = std::array::from_fn(|index| TOP - (59 - index) * LEVEL);
        calls.correct(40, &marks, TOP - 20 * LEVEL);
        assert_eq!(calls.enter(TOP - 60 * LEVEL), 41);
        assert_eq!(calls.enter(TOP - 55 * LEVEL), 36);
        assert_eq!(calls.enter(TOP - 20 * LEVEL), 1);
    }
}
