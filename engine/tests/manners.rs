// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the engine makes of io_uring's manners, each by its smallest story. The simulator looks for
//! longer ones, and the tests of the real rings show that they have these manners.

mod support;

use std::cell::Cell;
use std::rc::Rc;

use laio_engine::errno::Errno;
use laio_engine::{Refusal, State};
use support::{BLOCK, Loop, Options, Request, Script, Scripted, TRANSIENT, scripted};

type Engine = State<Scripted, &'static Loop>;

/// An attached state over a kernel with room for `capacity` requests.
fn attached(host: &'static Loop, capacity: usize) -> (&'static Engine, Rc<Script>) {
    let (kernel, script) = scripted();
    script.capacity.set(capacity);
    let state: &'static Engine = Box::leak(Box::new(State::new(kernel, host)));
    state.attach(host.context()).unwrap();
    (state, script)
}

/// Both ways of gathering: the host's deferred calls, and the engine's own plug.
fn both_kinds_of_hosts() -> [&'static Loop; 2] {
    [false, true].map(|deferred_calls| Loop::new(Options { deferred_calls, ..Options::default() }))
}

fn ignore(_: &'static Request) {}

/// As it was: also when part of it is done.
#[test]
fn a_result_that_says_nothing_of_a_request_submits_it_again_as_it_was() {
    for host in both_kinds_of_hosts() {
        let (state, script) = attached(host, 8);
        let request = Request::new(ignore);
        request.submit(state, 0);
        for (done, rest) in [(0, 100), (100, 200), (300, BLOCK as i64 - 300)] {
            let asked = script.asked();
            assert_eq!(asked.2, done);
            for _ in 0..3 {
                script.complete(TRANSIENT);
                host.turn();
                assert_eq!((request.result.get(), script.in_flight()), (None, 1));
                assert_eq!(script.asked(), asked);
            }
            script.complete(rest);
            host.turn();
        }
        assert_eq!(request.result.get(), Some(0));
        let stats = state.stats();
        assert_eq!((stats.completed, stats.failed, stats.retried), (1, 0, 9 + 2));
        assert!(!host.is_bh_scheduled());
    }
}

/// It is queued behind the others, not offered to a kernel that wants no more, and not lost on the
/// way from one event loop to the next.
#[test]
fn what_is_submitted_again_waits_as_any_other() {
    for host in both_kinds_of_hosts() {
        let (state, script) = attached(host, 8);
        let [first, second] = [Request::new(ignore), Request::new(ignore)];
        first.submit(state, 1);
        script.answers.borrow_mut().push_back(Err(libc::EAGAIN));
        second.submit(state, 2);
        state.detach(host.context()).unwrap();
        script.complete(TRANSIENT);
        state.attach(host.context()).unwrap();
        host.turn_until(|| script.in_flight() == 2);
        assert_eq!(script.descriptors(), [2, 1]);
        script.complete(BLOCK as i64);
        script.complete(BLOCK as i64);
        host.turn();
        assert!(first.is_done() && second.is_done());
    }
}

#[test]
fn each_owner_gets_its_result_in_whatever_order_they_come() {
    for host in both_kinds_of_hosts() {
        let (state, script) = attached(host, 8);
        let requests: Vec<_> = (0..5).map(|_| Request::new(ignore)).collect();
        requests.iter().for_each(|request| request.submit(state, 0));
        for last in requests.iter().rev() {
            assert!(!last.is_done());
            script.complete_newest();
            host.turn();
            assert_eq!(last.result.get(), Some(0));
        }
        assert!(requests.iter().all(|request| request.is_done()));
    }
}

/// RLIMIT_MEMLOCK decides how large a ring is.
#[test]
fn a_small_ring_is_filled_and_does_not_overflow() {
    for host in both_kinds_of_hosts() {
        for capacity in [1, 4, 32] {
            let (state, script) = attached(host, capacity);
            state.plug();
            let requests: Vec<_> = (0..3 * capacity).map(|_| Request::new(ignore)).collect();
            requests.iter().for_each(|request| request.submit(state, 0));
            assert_eq!(
                script.in_flight(),
                capacity,
                "a plug gathers no more than there is room for"
            );
            assert!(state.unplug(0));
            while script.in_flight() > 0 {
                script.complete(BLOCK as i64);
                host.turn();
            }
            assert_eq!(script.most_in_flight.get(), capacity);
            assert!(requests.iter().all(|request| request.is_done()));
        }
    }
}

/// A child's io_uring_enter(2) would work, and what it takes out of the ring its parent would miss.
#[test]
fn the_child_of_a_fork_leaves_the_ring_to_its_parent() {
    for host in both_kinds_of_hosts() {
        let (state, script) = attached(host, 2);
        let told = Rc::new(Cell::new(0));
        for _ in 0..3 {
            let told = Rc::clone(&told);
            Request::new(move |_| told.set(told.get() + 1)).submit(state, 0);
        }
        script.complete(BLOCK as i64);
        script.inherited.set(true);
        assert_eq!(Request::new(ignore).try_submit(state, 0), Err(Errno(libc::ENOTCONN)));
        state.plug();
        assert!(state.unplug(0));
        host.turn();
        assert_eq!(state.outstanding(), 0);
        assert_eq!(state.attach(host.context()), Err(Refusal::Inherited));
        state.detach(host.context()).unwrap();
        // SAFETY: from a box, and not used any more.
        unsafe { State::cleanup(std::ptr::from_ref(state).cast_mut()) };
        assert_eq!((script.in_flight(), script.unreaped(), told.get()), (1, 1, 0));
    }
}
