// SPDX-License-Identifier: MIT OR Apache-2.0

//! Coroutines with stacks of their own.

use std::cell::Cell;
use std::ptr;

use corosensei::stack::DefaultStack;
use corosensei::{CoroutineResult, Yielder};

use crate::world::World;

pub type Stackful = corosensei::Coroutine<(), (), (), DefaultStack>;

/// A coroutine of the host. Its numbers start at 1.
pub struct SimCoroutine {
    /// Away while it is entered.
    pub code: Option<Stackful>,
    pub yielder: Cell<*const Yielder<(), ()>>,
    pub finished: bool,
}

thread_local! {
    /// Stacks to use again.
    static STACKS: std::cell::RefCell<Vec<DefaultStack>> = const { std::cell::RefCell::new(Vec::new()) };
}

const STACK_BYTES: usize = 1 << 20;

impl World {
    pub fn is_entered(&self, number: usize) -> bool {
        let coroutines = self.coroutines.borrow();
        coroutines[number - 1].code.is_none() && !coroutines[number - 1].finished
    }

    /// Starts `body` as a coroutine, which runs until it yields.
    pub fn start_coroutine(&'static self, body: impl FnOnce(usize) + 'static) {
        let stack = STACKS
            .with_borrow_mut(Vec::pop)
            .unwrap_or_else(|| DefaultStack::new(STACK_BYTES).expect("memory for a stack"));
        let number = self.coroutines.borrow().len() + 1;
        let code = Stackful::with_stack(stack, move |yielder, ()| {
            self.coroutines.borrow()[number - 1].yielder.set(yielder);
            body(number);
        });
        self.coroutines.borrow_mut().push(SimCoroutine {
            code: Some(code),
            yielder: Cell::new(ptr::null()),
            finished: false,
        });
        self.resume(number);
    }

    /// Enters a coroutine that has yielded, until it yields again or ends.
    pub fn resume(&'static self, number: usize) {
        let Some(mut code) = self.coroutines.borrow_mut()[number - 1].code.take() else {
            return; // Ended meanwhile, or somebody else entered it: it looks for itself.
        };
        self.trace(|| format!("coroutine {number} runs"));
        self.running.borrow_mut().push(number);
        let result = code.resume(());
        self.running.borrow_mut().pop();
        let mut coroutines = self.coroutines.borrow_mut();
        match result {
            CoroutineResult::Yield(()) => coroutines[number - 1].code = Some(code),
            CoroutineResult::Return(()) => {
                coroutines[number - 1].finished = true;
                STACKS.with_borrow_mut(|stacks| stacks.push(code.into_stack()));
            }
        }
    }

    pub fn resume_next_wake(&'static self) {
        let number = {
            let mut wakes = self.wakes.borrow_mut();
            let count = wakes.len();
            wakes.swap_remove(self.tape.below(count.min(256)))
        };
        // One that was entered since needs no wake: it looks for its result itself.
        self.resume(number);
    }
}
