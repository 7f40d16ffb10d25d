// SPDX-License-Identifier: MIT OR Apache-2.0

//! Turns of a loop: what is done, and how it sleeps.

use std::cell::Cell;
use std::ptr;
use std::time::Duration;

use laio_engine::host::AioContext;
use laio_engine::wait::for_a_while;

use super::{Loop, epoll_of};

thread_local! {
    /// The loop whose turn runs now. No destructor, and const: there as long as the thread.
    static POLLED: Cell<*mut AioContext> = const { Cell::new(ptr::null_mut()) };
}

/// The loop whose turn runs now on this thread, the innermost; null if none.
#[inline]
pub fn polled() -> *mut AioContext {
    POLLED.get()
}

impl Loop {
    /// One turn, or as many as it takes to make progress.
    pub(super) fn poll(&self, blocking: bool) -> bool {
        let _turn = Turn::enter(self);
        let progress = self.turn(blocking);
        // Nested turns too: somebody may wait by the descriptor around each of them.
        self.settle_descriptor();
        progress
    }

    #[inline(always)] // Into its only caller.
    fn turn(&self, blocking: bool) -> bool {
        loop {
            let progress = self.run_bottom_halves() | self.run_notifiers();
            if progress || !blocking {
                return progress;
            }
            if self.has_scheduled() {
                continue;
            }
            if !self.expects_any() {
                return false; // It would sleep for ever.
            }
            self.take_edges(FOR_EVER); // Or until a signal comes: it looks again.
        }
    }

    /// Takes as many edges as there is room for, and waits for one as long as it is told; how many, or -1.
    ///
    /// By syscall(2), which is no cancellation point: a thread that is cancelled here would leave
    /// requests on a stack that is gone.
    pub(super) fn epoll_wait(
        &self,
        events: &mut [libc::epoll_event],
        milliseconds: libc::c_int,
    ) -> libc::c_long {
        let no_mask = ptr::null::<libc::sigset_t>();
        let (wait, epoll, room) = (libc::SYS_epoll_pwait, epoll_of(self), events.len());
        // SAFETY: writes at most as many events as there is room for.
        unsafe {
            libc::syscall(wait, epoll, events.as_mut_ptr(), room, milliseconds, no_mask, 0usize)
        }
    }
}

const FOR_EVER: libc::c_int = -1;
/// How long a thread sleeps that waits for what another one does.
const NAP_MILLISECONDS: libc::c_int = 5;

/// Lets the thread that waits in laio_co_submit() drive the loop until something happens.
///
/// When nothing will, the state of its request was detached meanwhile. The thread sleeps until the
/// next attach completes it; that may be to another thread's loop, which does not wake this one.
pub fn wait(context: *mut AioContext) {
    // SAFETY: from `new`: the request's state is attached to it, or was when it was submitted.
    let Some(waiting) = (unsafe { Loop::from_context(context) }) else {
        return;
    };
    if !waiting.process.is_current() {
        // The child of a fork, made within a completion. What it waits for is its parent's, and so is
        // the set: to sleep in it takes the parent's edges.
        for_a_while(Duration::from_millis(NAP_MILLISECONDS as u64));
    } else if !waiting.poll(true) {
        waiting.take_edges(NAP_MILLISECONDS);
        // The edge that ended it may be another state's, and no turn of this thread's need follow.
        waiting.settle_descriptor();
    }
}

/// A turn of a loop on the stack.
struct Turn<'a> {
    of: &'a Loop,
    outer: *mut AioContext,
}

impl<'a> Turn<'a> {
    fn enter(of: &'a Loop) -> Self {
        of.polling.set(of.polling.get() + 1);
        Self { of, outer: POLLED.replace(of.as_context()) }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        debug_assert!(self.of.polling.get() > 0, "a turn ends that did not begin");
        self.of.polling.set(self.of.polling.get() - 1);
        POLLED.set(self.outer);
    }
}
