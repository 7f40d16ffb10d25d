// SPDX-License-Identifier: MIT OR Apache-2.0

//! The guarantees of the engine, each shown by the smallest story that breaks it. The simulator
//! looks for longer stories.

mod support;

use std::cell::Cell;
use std::rc::Rc;

use laio_engine::errno::Errno;
use laio_engine::host::Host;
use laio_engine::kernel::LinuxAio;
use laio_engine::{Refusal, State, depth};
use support::{BLOCK, CAPACITY, Loop, Options, Request, SLOW, Scripted, scripted};

type Engine = State<Scripted, &'static Loop>;

fn attached(host: &'static Loop) -> (&'static Engine, Rc<support::Script>) {
    let (kernel, script) = scripted();
    let state: &'static Engine = Box::leak(Box::new(State::new(kernel, host)));
    state.attach(host.context()).unwrap();
    (state, script)
}

fn plain_loop() -> &'static Loop {
    Loop::new(Options::default())
}

/// Both ways of gathering: the host's deferred calls, and the engine's own plug.
fn both_kinds_of_hosts() -> [&'static Loop; 2] {
    [plain_loop(), Loop::new(Options { deferred_calls: true, ..Options::default() })]
}

fn ignore(_: &'static Request) {}

/// The storm: a kernel that completes at once, owners who ask for the next at once, and a host that
/// never delivers the eventfd. QEMU's code lives on that eventfd.
#[test]
fn at_the_bound_completion_bh_alone_resumes() {
    for deferred_calls in [false, true] {
        let host = Loop::new(Options { deferred_calls, never_deliver: true, ..Options::default() });
        let (state, script) = attached(host);
        script.synchronous.set(true);
        let left = Rc::new(Cell::new(10_000));
        let (count, deepest) = (Rc::clone(&left), Rc::new(Cell::new(0)));
        let seen = Rc::clone(&deepest);
        let chain = Request::new(move |request| {
            seen.set(seen.get().max(depth::current()));
            if count.replace(count.get() - 1) > 1 {
                request.submit(state, 0);
            }
        });
        chain.submit(state, 0);
        while left.get() > 0 {
            assert!(host.is_bh_scheduled(), "{} left, and nobody to resume them", left.get());
            host.turn();
        }
        assert_eq!(deepest.get(), depth::max());
        assert_eq!(depth::current(), 0);
        let stats = state.stats();
        assert_eq!((stats.completed, stats.in_queue, stats.in_flight), (10_000, 0, 0));
        assert_eq!(stats.deepest_nesting, depth::max().into());
        assert!(stats.at_bound > 0 && stats.bh_resumptions > 0);
        assert!(!host.is_bh_scheduled(), "the bottom half runs on with nothing to do");
    }
}

/// A request in flight that takes its time is no reason to let others wait for it.
#[test]
fn at_the_bound_the_queue_does_not_wait_for_a_slow_request() {
    for deferred_calls in [false, true] {
        // What the storm leaves in the eventfd would hide a bottom half that is missing.
        let host = Loop::new(Options { deferred_calls, never_deliver: true, ..Options::default() });
        let (state, script) = attached(host);
        Request::new(ignore).submit(state, SLOW);
        script.synchronous.set(true);
        let left = Rc::new(Cell::new(100));
        let count = Rc::clone(&left);
        let chain = Request::new(move |request| {
            if count.replace(count.get() - 1) > 1 {
                request.submit(state, 0);
            }
        });
        chain.submit(state, 0);
        while left.get() > 0 {
            assert!(host.turn(), "{} left, waiting for a request of somebody else", left.get());
        }
        assert_eq!(script.descriptors(), [SLOW]);
    }
}

/// The stack belongs to the thread: two states that feed each other count together.
#[test]
fn the_bound_is_over_all_states_of_a_thread() {
    for host in both_kinds_of_hosts() {
        let states = [attached(host), attached(host)];
        states.iter().for_each(|(_, script)| script.synchronous.set(true));
        let [first, second] = [states[0].0, states[1].0];
        let (left, deepest) = (Rc::new(Cell::new(1000)), Rc::new(Cell::new(0)));
        let (count, seen) = (Rc::clone(&left), Rc::clone(&deepest));
        let chain = Request::new(move |request| {
            seen.set(seen.get().max(depth::current()));
            if count.replace(count.get() - 1) > 1 {
                request.submit(if count.get() % 2 == 0 { first } else { second }, 0);
            }
        });
        chain.submit(first, 0);
        while left.get() > 0 {
            assert!(host.turn());
        }
        assert_eq!(deepest.get(), depth::max());
    }
}

#[test]
fn eagain_with_nothing_in_flight_is_tried_again() {
    for host in both_kinds_of_hosts() {
        let (state, script) = attached(host);
        script.answers.borrow_mut().extend([Err(libc::EAGAIN), Err(libc::EAGAIN)]);
        let request = Request::new(ignore);
        request.submit(state, 0);
        assert_eq!(script.in_flight(), 0);
        assert!(!host.is_bh_scheduled(), "it would ask again at once, for ever");
        assert_eq!(host.watched(), 2, "a timer is watched beside the eventfd");
        host.turn_until(|| script.in_flight() == 1);
        assert!(!host.is_bh_scheduled(), "the eventfd sees to it from here on");
        assert_eq!(host.watched(), 1, "and the timer is not needed any more");
        script.complete(BLOCK as i64);
        host.turn();
        assert_eq!(request.result.get(), Some(0));
        assert_eq!(state.stats().eagain, 2);
    }
}

/// A refusal while a plug is open must not be left to the unplug, which does not submit what is
/// blocked.
#[test]
fn eagain_under_a_plug_is_tried_again() {
    let host = Loop::new(Options { max_batch: 2, ..Options::default() });
    let (state, script) = attached(host);
    script.answers.borrow_mut().push_back(Err(libc::EAGAIN));
    state.plug();
    let requests = [Request::new(ignore), Request::new(ignore)];
    requests.iter().for_each(|request| request.submit(state, 0));
    assert!(state.unplug(0));
    host.turn_until(|| script.in_flight() == 2);
}

/// io_submit(2) was asked 1.66 million times a second while nothing was in flight and it said no.
#[test]
fn eagain_for_a_long_time_is_asked_rarely() {
    let host = plain_loop();
    let (state, script) = attached(host);
    script.answers.borrow_mut().extend([Err(libc::EAGAIN); 12]);
    let request = Request::new(ignore);
    let start = std::time::Instant::now();
    request.submit(state, 0);
    host.turn_until(|| script.in_flight() == 1);
    // 0.1 ms, and twice as long each time, up to 12.8 ms.
    assert!(start.elapsed() >= std::time::Duration::from_millis(60));
    assert_eq!(state.stats().eagain, 12);
}

/// The timer goes with the event loop that watches it.
#[test]
fn a_state_that_backs_off_can_be_detached_and_freed() {
    let host = plain_loop();
    let (kernel, script) = scripted();
    let state = Box::into_raw(Box::new(State::new(kernel, host)));
    // SAFETY: until it is freed, below.
    let shared: &'static Engine = unsafe { &*state };
    shared.attach(host.context()).unwrap();
    script.answers.borrow_mut().extend([Err(libc::EAGAIN); 3]);
    let request = Request::new(ignore);
    request.submit(shared, 0);
    assert_eq!(host.watched(), 2);
    shared.detach(host.context()).unwrap();
    assert_eq!(host.watched(), 0);
    shared.attach(host.context()).unwrap();
    host.turn_until(|| host.watched() == 2);
    // SAFETY: came from a box, and is not used again.
    unsafe { State::cleanup(state) };
    assert_eq!((host.watched(), request.result.get()), (0, Some(0)));
}

#[test]
fn eagain_with_requests_in_flight_waits_for_them() {
    for host in both_kinds_of_hosts() {
        let (state, script) = attached(host);
        Request::new(ignore).submit(state, 0);
        script.answers.borrow_mut().push_back(Err(libc::EAGAIN));
        Request::new(ignore).submit(state, 1);
        assert!(!host.is_bh_scheduled(), "busy waiting");
        assert!(!host.turn());
        script.complete(BLOCK as i64);
        host.turn();
        assert_eq!(script.descriptors(), [1]);
    }
}

/// QEMU's code hangs here: a nested event loop that is entered at the bound can submit nothing, and
/// waits for ever for a request that is still queued.
#[test]
fn a_nested_event_loop_at_the_bound_gets_its_request() {
    for host in both_kinds_of_hosts() {
        let (state, script) = attached(host);
        script.synchronous.set(true);
        let nested_done = Rc::new(Cell::new(false));
        let done = Rc::clone(&nested_done);
        let chain = Request::new(move |request| {
            if done.get() {
                return;
            }
            if depth::current() < depth::max() {
                return request.submit(state, 0);
            }
            let nested = Request::new(ignore);
            nested.submit(state, 0);
            while !nested.is_done() {
                assert!(host.turn(), "the nested event loop hangs");
            }
            assert_eq!(depth::current(), depth::max(), "the count is not put back");
            done.set(true);
        });
        chain.submit(state, 0);
        while !nested_done.get() {
            assert!(host.turn());
        }
    }
}

/// The completion of one state waits for a request that waits for the end of the section which
/// that completion is in; on another state, whose bottom half has had no reason to be scheduled.
#[test]
fn a_nested_event_loop_gets_a_request_of_another_state() {
    for host in both_kinds_of_hosts() {
        let ((first, script), (second, other)) = (attached(host), attached(host));
        other.synchronous.set(true);
        let waiter = Request::new(move |_| {
            second.plug();
            let nested = Request::new(ignore);
            nested.submit(second, 0);
            while !nested.is_done() {
                assert!(host.turn(), "the nested event loop hangs");
            }
            assert!(second.unplug(0));
        });
        waiter.submit(first, 0);
        script.complete(BLOCK as i64);
        assert!(host.turn());
        assert!(waiter.is_done());
    }
}

/// The end of the host's section runs the owner of another state, who waits for what the kernel has no
/// room for. It was refused while the request of the coroutine that submits was in flight; that is
/// complete by then, and nobody needed to be woken for it.
#[test]
fn what_a_section_leaves_is_resumed_before_the_host_ends_it() {
    let host = Loop::new(Options {
        deferred_calls: true,
        drives: true,
        never_deliver: true,
        ..Options::default()
    });
    let ((first, script), (second, other)) = (attached(host), attached(host));
    other.synchronous.set(true);
    let left: &'static Request = Request::new(ignore);
    let waits: &'static Request = Request::new(move |_| {
        while !left.is_done() {
            assert!(host.turn(), "the owner of another state hangs");
        }
    });
    let kernel = Rc::clone(&script);
    Request::new(move |_| {
        kernel.answers.borrow_mut().push_back(Err(libc::EAGAIN));
        left.submit(first, 0);
        assert!(host.run_bottom_halves());
        assert!(!host.is_bh_scheduled(), "the coroutine's request, in flight, resumes the other");
        waits.submit(second, 0);
        kernel.complete(BLOCK as i64);
        // From now on the kernel has room, and does at once what it takes.
        kernel.synchronous.set(true);
    })
    .submit(first, SLOW);
    script.complete(BLOCK as i64);
    Request::new(ignore).read(first, 0);
    assert!(waits.is_done());
}

/// Two completions arrive together; the first one's owner waits in a nested event loop for the
/// second, whose eventfd signal has been read already.
#[test]
fn a_nested_event_loop_sees_completions_whose_signal_was_read() {
    for host in both_kinds_of_hosts() {
        let (state, script) = attached(host);
        let second = Request::new(ignore);
        let first = Request::new(move |_| {
            while !second.is_done() {
                assert!(host.turn(), "the nested event loop hangs");
            }
        });
        first.submit(state, 0);
        second.submit(state, 1);
        script.complete(BLOCK as i64);
        script.complete(BLOCK as i64);
        host.turn();
        assert!(first.is_done() && second.is_done());
    }
}

/// The same while the kernel wants no more: the first one's owner submits another, which must not
/// take back the bottom half that the nested event loop needs.
#[test]
fn a_nested_event_loop_sees_completions_while_the_queue_is_blocked() {
    for host in both_kinds_of_hosts() {
        let (state, script) = attached(host);
        let second = Request::new(ignore);
        let first = Request::new(move |_| {
            Request::new(ignore).submit(state, 3);
            while !second.is_done() {
                assert!(host.turn(), "the nested event loop hangs");
            }
        });
        first.submit(state, 0);
        second.submit(state, 1);
        Request::new(ignore).submit(state, SLOW);
        script.answers.borrow_mut().push_back(Err(libc::EAGAIN));
        Request::new(ignore).submit(state, 2);
        script.complete(BLOCK as i64);
        script.complete(BLOCK as i64);
        host.turn();
        assert!(first.is_done() && second.is_done());
        assert_eq!(script.descriptors(), [SLOW, 2, 3]);
    }
}

#[test]
fn only_the_first_request_fails_when_io_submit_does() {
    for host in both_kinds_of_hosts() {
        let (state, script) = attached(host);
        state.plug();
        let requests: Vec<_> = (0..4).map(|_| Request::new(ignore)).collect();
        (0..).zip(&requests).for_each(|(fd, request)| request.submit(state, fd));
        script.answers.borrow_mut().extend([Ok(2), Err(libc::EBADF)]);
        assert!(state.unplug(0));
        assert_eq!(requests[2].result.get(), Some(-libc::EBADF));
        assert_eq!(script.descriptors(), [0, 1, 3]);
        (0..3).for_each(|_| script.complete(BLOCK as i64));
        host.turn();
        let results: Vec<_> = requests.iter().map(|request| request.result.get()).collect();
        assert_eq!(results, [Some(0), Some(0), Some(-libc::EBADF), Some(0)]);
    }
}

/// A host that answers each failure with a new request gets its event loop back, and its stack.
#[test]
fn endless_failures_do_not_keep_the_thread() {
    for host in both_kinds_of_hosts() {
        let (state, script) = attached(host);
        script.answers.borrow_mut().extend(std::iter::repeat_n(Err(libc::EBADF), 1000));
        let failures = Rc::new(Cell::new(0));
        let count = Rc::clone(&failures);
        let stubborn = Request::new(move |request| {
            if request.result.get() == Some(-libc::EBADF) {
                count.set(count.get() + 1);
                request.submit(state, 0);
            }
        });
        stubborn.submit(state, 0);
        assert!(failures.get() <= u64::from(depth::max()), "{}", failures.get());
        while script.in_flight() == 0 {
            assert!(host.turn());
        }
        assert_eq!((failures.get(), state.stats().failed), (1000, 1000));
    }
}

#[test]
fn the_ring_does_not_overflow() {
    for host in both_kinds_of_hosts() {
        let (state, script) = attached(host);
        state.plug();
        let requests: Vec<_> = (0..3 * CAPACITY).map(|_| Request::new(ignore)).collect();
        requests.iter().for_each(|request| request.submit(state, 0));
        assert!(state.unplug(0));
        assert_eq!(script.in_flight(), CAPACITY);
        while script.in_flight() > 0 {
            script.complete(BLOCK as i64);
            host.turn();
        }
        assert_eq!(script.most_in_flight.get(), CAPACITY);
        assert!(requests.iter().all(|request| request.is_done()));
    }
}

#[test]
fn plugs_gather_until_the_last_is_pulled_or_the_batch_is_full() {
    for host in both_kinds_of_hosts() {
        let (state, script) = attached(host);
        state.plug();
        state.plug();
        let submit = |count| (0..count).for_each(|_| Request::new(ignore).submit(state, 0));
        submit(10);
        assert!(state.unplug(20));
        assert_eq!(script.in_flight(), 0);
        state.plug();
        assert!(state.unplug(10));
        assert_eq!(script.in_flight(), 10);
        submit(32);
        assert_eq!(script.in_flight(), 42);
        submit(5);
        assert!(state.unplug(0));
        assert_eq!(script.in_flight(), 47);
        assert!(!state.unplug(0), "there is no plug left");
        let stats = state.stats();
        assert_eq!((stats.io_submit_calls, stats.largest_batch), (3, 32));
    }
}

#[test]
fn a_detached_state_takes_nothing_and_loses_nothing() {
    let (here, there) = (plain_loop(), plain_loop());
    let (state, script) = attached(here);
    let (with_kernel, queued) = (Request::new(ignore), Request::new(ignore));
    with_kernel.submit(state, 0);
    state.plug();
    queued.submit(state, 1);
    assert_eq!(state.detach(there.context()), Err(Refusal::NotAttached));
    assert_eq!(state.detach(here.context()), Ok(()));
    assert_eq!(Request::new(ignore).try_submit(state, 0), Err(Errno(libc::ENOTCONN)));
    script.complete(BLOCK as i64);
    assert!(!here.turn());
    // A host of another type would be another loop; this one serves both contexts.
    assert_eq!(state.attach(here.context()), Ok(()));
    assert_eq!(state.attach(here.context()), Err(Refusal::Attached));
    assert!(here.turn());
    assert!(with_kernel.is_done());
    assert_eq!(script.descriptors(), [1]);
}

#[test]
fn cleanup_waits_for_what_is_outstanding_and_not_within_a_completion() {
    for host in both_kinds_of_hosts() {
        let (kernel, script) = scripted();
        let state: *mut Engine = Box::into_raw(Box::new(State::new(kernel, host)));
        // SAFETY: freed at the end of the test.
        let engine = unsafe { &*state };
        engine.attach(host.context()).unwrap();
        let refused = Rc::new(Cell::new(None));
        let answer = Rc::clone(&refused);
        let first = Request::new(move |_| answer.set(Some(engine.check_cleanup())));
        let rest: Vec<_> = (0..2 * CAPACITY).map(|_| Request::new(ignore)).collect();
        first.submit(engine, 0);
        rest.iter().for_each(|request| request.submit(engine, 0));
        script.complete(BLOCK as i64);
        host.turn();
        assert_eq!(refused.get(), Some(Err(Refusal::Active)));
        assert!(engine.outstanding() > 0);
        assert_eq!(engine.check_cleanup(), Ok(()));
        // SAFETY: checked in the line above, and nothing uses it afterwards.
        unsafe { State::cleanup(state) };
        assert!(rest.iter().all(|request| request.result.get() == Some(0)));
        assert!(!host.is_bh_scheduled() && !host.turn());
    }
}

/// The new event loop knows nothing of what is queued.
#[test]
fn what_is_queued_goes_on_after_the_next_attach() {
    let host = plain_loop();
    let (state, script) = attached(host);
    state.plug();
    Request::new(ignore).submit(state, 1);
    assert_eq!(state.detach(host.context()), Ok(()));
    assert!(!host.turn());
    assert_eq!(state.attach(host.context()), Ok(()));
    assert!(host.turn());
    assert_eq!(script.descriptors(), [1]);
}

/// In QEMU up to 7.2 another thread may hold the lock and submit while the event loop's thread is
/// about to run the bottom half. Nothing of the state is looked at before the lock is there.
#[test]
fn an_entry_from_the_event_loop_looks_at_nothing_before_it_has_the_lock() {
    let host = plain_loop();
    let (state, script) = attached(host);
    state.plug();
    Request::new(ignore).submit(state, 1);
    assert!(host.is_bh_scheduled());
    host.before_acquire(|| assert!(state.unplug(0)));
    host.run_bottom_halves();
    assert_eq!(script.descriptors(), [1]);
    assert_eq!(state.stats().bh_resumptions, 0, "counted what the other thread had submitted");
}

/// An owner forks, and the child returns into the engine with more completions in the ring: they are
/// its parent's.
#[test]
fn a_child_that_returns_from_a_callback_leaves_the_rest_to_its_parent() {
    for host in both_kinds_of_hosts() {
        let (state, script) = attached(host);
        let kernel = Rc::clone(&script);
        let forks = Request::new(move |_| kernel.inherited.set(true));
        let (second, third) = (Request::new(ignore), Request::new(ignore));
        for request in [forks, second, third] {
            request.submit(state, 0);
        }
        script.complete(BLOCK as i64);
        script.complete(BLOCK as i64);
        // Once more, for what its parent's event loop may run there later.
        for _ in 0..2 {
            host.turn();
            assert!(forks.is_done() && !second.is_done() && !third.is_done());
            assert_eq!((script.completions(), script.in_flight()), (1, 1));
        }
    }
}

/// The same of a request that io_submit(2) refused, with others behind it in the queue.
#[test]
fn a_child_that_returns_from_the_callback_of_a_failure_submits_nothing() {
    for host in both_kinds_of_hosts() {
        let (state, script) = attached(host);
        let kernel = Rc::clone(&script);
        let before = Request::new(ignore);
        before.submit(state, 0);
        script.complete(BLOCK as i64);
        script.answers.borrow_mut().push_back(Err(libc::EBADF));
        let fails = Request::new(move |_| kernel.inherited.set(true));
        let after = Request::new(ignore);
        state.plug();
        fails.submit(state, 0);
        after.submit(state, 0);
        assert!(state.unplug(0));
        assert!(fails.is_done() && !before.is_done() && !after.is_done());
        assert_eq!((script.completions(), script.in_flight()), (1, 0));
    }
}

/// The host has the state's address until the section ends.
#[test]
fn cleanup_is_refused_while_a_deferred_call_is_pending() {
    let host = Loop::new(Options { deferred_calls: true, ..Options::default() });
    let (state, _script) = attached(host);
    host.defer_begin();
    Request::new(ignore).submit(state, 0);
    assert_eq!(state.check_cleanup(), Err(Refusal::DeferredCall));
    host.defer_end();
    assert_eq!(state.check_cleanup(), Ok(()));
}

/// At the end of a section the host makes the calls one after the other. An owner whom the first of
/// them tells may have the second state asked for a call again, and free that state after this and
/// before the first call.
#[test]
fn cleanup_is_refused_while_the_end_of_a_section_has_a_call_in_its_hands() {
    let host = Loop::new(Options { deferred_calls: true, ..Options::default() });
    let ((first, script), (second, other)) = (attached(host), attached(host));
    script.synchronous.set(true);
    other.synchronous.set(true);
    let answer = Rc::new(Cell::new(None));
    let seen = Rc::clone(&answer);
    let frees = Request::new(move |_| seen.set(Some(second.check_cleanup())));
    let asks_again = Request::new(move |_| {
        Request::new(ignore).submit(second, 0);
        frees.submit(first, 0);
    });
    host.defer_begin();
    asks_again.submit(first, 0);
    Request::new(ignore).submit(second, 0);
    host.defer_end();
    assert_eq!(answer.get(), Some(Err(Refusal::DeferredCall)));
    assert_eq!(second.stats().completed, 2);
    assert_eq!(second.check_cleanup(), Ok(()));
}

/// The real kernel, with its mapped ring and with the fallback to io_getevents(2).
#[test]
fn both_ways_of_reaping_complete_real_requests() {
    use std::os::fd::AsRawFd;
    let file = std::fs::File::open(std::env::current_exe().unwrap()).unwrap();
    for kernel in [LinuxAio::new().unwrap(), LinuxAio::with_getevents().unwrap()] {
        let host = plain_loop();
        let state = Box::leak(Box::new(State::new(kernel, host)));
        state.attach(host.context()).unwrap();
        let left = Rc::new(Cell::new(20_000u32));
        let count = Rc::clone(&left);
        let state: &'static State<LinuxAio, &'static Loop> = state;
        let fd = file.as_raw_fd();
        let chains: Vec<_> = (0..40)
            .map(|_| {
                let count = Rc::clone(&count);
                Request::new(move |request| {
                    assert_eq!(request.result.get(), Some(0));
                    count.set(count.get() - 1);
                    if count.get() >= 40 {
                        request.submit(state, fd);
                    }
                })
            })
            .collect();
        chains.iter().for_each(|chain| chain.submit(state, fd));
        while left.get() > 0 {
            host.turn();
        }
        assert_eq!(state.stats().completed, 20_000);
    }
}

/// A retry that forgot its device's limit waited for the end of the plug, behind which its owner
/// may have waited for it.
#[test]
fn the_rest_of_a_short_transfer_keeps_its_devices_batch_limit() {
    for host in both_kinds_of_hosts() {
        let (state, script) = attached(host);
        state.plug();
        Request::new(ignore).in_batches_of(1).submit(state, 0);
        assert_eq!(script.in_flight(), 1);
        script.complete(100);
        // Reaps the short one, under the plug.
        Request::new(ignore).in_batches_of(1).submit(state, 0);
        assert_eq!(script.in_flight(), 2, "the rest waits for the end of the plug");
    }
}

/// An owner takes the state away from its event loop while others of the same batch are failed,
/// short, or queued.
#[test]
fn an_owner_that_detaches_loses_nothing_of_its_batch() {
    for host in both_kinds_of_hosts() {
        for failing in [false, true] {
            let (state, script) = attached(host);
            if failing {
                script.answers.borrow_mut().extend([Err(libc::EIO), Ok(1)]);
            }
            let first = Request::new(move |_| state.detach(host.context()).unwrap());
            let rest: Vec<_> = (0..4).map(|_| Request::new(ignore)).collect();
            state.plug();
            first.submit(state, 0);
            rest.iter().for_each(|request| request.submit(state, 0));
            state.unplug(0);
            if !failing {
                script.complete(BLOCK as i64);
                (1..script.in_flight() + 1).for_each(|_| script.complete(100));
                host.turn();
            }
            assert!(!state.is_attached());
            state.attach(host.context()).unwrap();
            for _ in 0..20 {
                (0..script.in_flight()).for_each(|_| script.complete(BLOCK as i64));
                host.turn();
            }
            assert!(first.is_done() && rest.iter().all(|request| request.is_done()));
            let stats = state.stats();
            assert_eq!((stats.submitted, stats.completed), (5, 5));
            assert!(!host.is_bh_scheduled());
            state.detach(host.context()).unwrap();
        }
    }
}
