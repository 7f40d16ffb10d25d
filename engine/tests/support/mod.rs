// SPDX-License-Identifier: MIT OR Apache-2.0

//! A small host, and a kernel that does what a test tells it, for the tests of the engine.

#![allow(dead_code)] // Each test uses its part.
#![allow(clippy::not_unsafe_ptr_arg_deref)] // Only the engine calls a host, with what it got.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ffi::{CStr, c_int, c_void};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::rc::Rc;
use std::time::Duration;

use laio_engine::State;
use laio_engine::errno::Errno;
use laio_engine::host::{
    AioContext, Coroutine, Error, Host, HostCallback, LinuxAioState, NotifierHandlers, QEMUBH,
};
use laio_engine::kernel::{Completion, Entry, Files, Kernel, Timer};
use laio_engine::request::{Io, aio_type};

/// What kind of host it is.
#[derive(Default)]
pub struct Options {
    pub deferred_calls: bool,
    /// Loses the eventfd: only bottom halves come.
    pub never_deliver: bool,
    pub max_batch: u64,
    /// The thread itself is a coroutine, which drives the loop while it waits.
    pub drives: bool,
}

/// An event loop with what the engine asks for, and nothing hidden.
#[derive(Default)]
pub struct Loop {
    options: Options,
    bottom_halves: RefCell<Vec<BottomHalf>>,
    notifiers: RefCell<Vec<(RawFd, NotifierHandlers, *mut c_void)>>,
    /// What another thread did before it released the lock.
    before_acquire: RefCell<Option<Box<dyn FnOnce()>>>,
    /// Nested event loops lock again: QEMU's lock is recursive.
    locks: Cell<u32>,
    sections: Cell<u32>,
    deferred: RefCell<Vec<(HostCallback, *mut c_void)>>,
}

#[derive(Clone, Copy)]
struct BottomHalf {
    callback: HostCallback,
    opaque: *mut c_void,
    scheduled: bool,
    deleted: bool,
}

impl Loop {
    /// A loop for the rest of the test process, so that handles to it are plain references.
    pub fn new(options: Options) -> &'static Self {
        Box::leak(Box::new(Self { options, ..Self::default() }))
    }

    /// Lets `act` happen in another thread before this one gets the lock the next time.
    pub fn before_acquire(&self, act: impl FnOnce() + 'static) {
        self.before_acquire.replace(Some(Box::new(act)));
    }

    pub fn is_bh_scheduled(&self) -> bool {
        self.bottom_halves.borrow().iter().any(|bh| bh.scheduled)
    }

    pub fn run_bottom_halves(&self) -> bool {
        let mut ran = false;
        let count = self.bottom_halves.borrow().len();
        for index in 0..count {
            let bh = self.bottom_halves.borrow()[index];
            if bh.scheduled {
                self.bottom_halves.borrow_mut()[index].scheduled = false;
                // SAFETY: given together by the engine.
                unsafe { (bh.callback)(bh.opaque) };
                ran = true;
            }
        }
        ran
    }

    pub fn run_notifiers(&self) -> bool {
        let mut ran = false;
        let notifiers = self.notifiers.borrow().clone();
        for (fd, handlers, opaque) in notifiers {
            if !self.options.never_deliver && is_readable(fd) {
                // SAFETY: given together by the engine.
                unsafe { (handlers.read)(opaque) };
                ran = true;
            }
        }
        ran
    }

    /// One turn; whether anything happened.
    pub fn turn(&self) -> bool {
        self.run_bottom_halves() | self.run_notifiers()
    }

    /// Turns, sleeping in between until some descriptor is readable, until `done`. Panics when
    /// nothing comes.
    pub fn turn_until(&self, done: impl Fn() -> bool) {
        while !done() {
            if self.turn() {
                continue;
            }
            let list = self.notifiers.borrow();
            let mut polls: Vec<_> = list
                .iter()
                .map(|&(fd, ..)| libc::pollfd { fd, events: libc::POLLIN, revents: 0 })
                .collect();
            drop(list);
            // SAFETY: as many entries as it has.
            let ready = unsafe { libc::poll(polls.as_mut_ptr(), polls.len() as _, 60_000) };
            assert!(ready > 0, "nothing will ever happen");
        }
    }

    /// How many descriptors are watched.
    pub fn watched(&self) -> usize {
        self.notifiers.borrow().len()
    }

    fn bh(&self, bh: *mut QEMUBH) -> std::cell::RefMut<'_, BottomHalf> {
        std::cell::RefMut::map(self.bottom_halves.borrow_mut(), |list| {
            let found = &mut list[bh.addr() - 1];
            assert!(!found.deleted, "a bottom half is used after bh_delete");
            found
        })
    }
}

fn is_readable(fd: RawFd) -> bool {
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one descriptor, one entry.
    unsafe { libc::poll(&mut poll, 1, 0) == 1 }
}

impl Host for &'static Loop {
    fn bh_new(
        self,
        _: *mut AioContext,
        callback: HostCallback,
        opaque: *mut c_void,
    ) -> *mut QEMUBH {
        let mut list = self.bottom_halves.borrow_mut();
        list.push(BottomHalf { callback, opaque, scheduled: false, deleted: false });
        ptr::without_provenance_mut(list.len())
    }

    fn bh_schedule(self, bh: *mut QEMUBH) {
        self.bh(bh).scheduled = true;
    }

    fn bh_cancel(self, bh: *mut QEMUBH) {
        self.bh(bh).scheduled = false;
    }

    fn bh_delete(self, bh: *mut QEMUBH) {
        let mut bh = self.bh(bh);
        bh.scheduled = false;
        bh.deleted = true;
    }

    fn set_event_notifier(
        self,
        _: *mut AioContext,
        fd: RawFd,
        handlers: Option<NotifierHandlers>,
        opaque: *mut c_void,
    ) -> Result<(), Errno> {
        let mut list = self.notifiers.borrow_mut();
        match handlers {
            Some(handlers) => list.push((fd, handlers, opaque)),
            None => list.retain(|&(known, ..)| known != fd),
        }
        Ok(())
    }

    fn coroutine_self(self) -> Option<*mut Coroutine> {
        self.options.drives.then(ptr::dangling_mut)
    }

    fn coroutine_yield(self, _: *mut AioContext) {
        assert!(self.turn(), "the thread waits, and nothing happens");
    }

    fn coroutine_entered(self, _: *mut Coroutine) -> bool {
        self.options.drives
    }

    fn coroutine_wake(self, _: *mut Coroutine) {}

    fn has_deferred_calls(self) -> bool {
        self.options.deferred_calls
    }

    fn defer_begin(self) {
        self.sections.set(self.sections.get() + 1);
    }

    fn defer_call(self, callback: HostCallback, opaque: *mut c_void) {
        if self.sections.get() == 0 {
            // SAFETY: given together by the engine.
            return unsafe { callback(opaque) };
        }
        let mut list = self.deferred.borrow_mut();
        if !list.iter().any(|&(_, known)| known == opaque) {
            list.push((callback, opaque));
        }
    }

    fn defer_end(self) {
        self.sections.set(self.sections.get() - 1);
        if self.sections.get() == 0 {
            let calls = self.deferred.take();
            for (callback, opaque) in calls {
                // SAFETY: given together by the engine.
                unsafe { callback(opaque) };
            }
        }
    }

    fn current_aio_context(self) -> *mut AioContext {
        self.context()
    }

    fn linux_aio_state(self, _: *mut AioContext) -> *mut LinuxAioState {
        ptr::null_mut()
    }

    fn aio_max_batch(self, _: *mut AioContext) -> u64 {
        self.options.max_batch
    }

    fn is_home(self, context: *mut AioContext) -> bool {
        context == self.context()
    }

    fn has_lock(self) -> bool {
        true
    }

    fn context_acquire(self, _: *mut AioContext) {
        let other_thread = self.before_acquire.take();
        other_thread.into_iter().for_each(|act| act());
        self.locks.set(self.locks.get() + 1);
    }

    fn context_release(self, _: *mut AioContext) {
        self.locks.set(self.locks.get().checked_sub(1).expect("released without being held"));
    }

    fn error_set(self, _: *mut *mut Error, _: c_int, _: &CStr) {}
    fn log(self, _: &CStr) {}
}

impl Loop {
    pub fn context(&self) -> *mut AioContext {
        ptr::from_ref(self).cast_mut().cast()
    }
}

/// What the kernel does with requests.
pub struct Script {
    /// Answers to the next io_submit(2) calls, before it takes everything.
    pub answers: RefCell<VecDeque<Result<usize, c_int>>>,
    /// Completes each request with its size before io_submit(2) returns, except those of `SLOW`.
    pub synchronous: Cell<bool>,
    /// The most requests that were in flight.
    pub most_in_flight: Cell<usize>,
    /// How many can be in flight. For a state that is not made yet.
    pub capacity: Cell<usize>,
    /// The process is the child of a fork.
    pub inherited: Cell<bool>,
    in_flight: RefCell<VecDeque<*mut Entry>>,
    ring: RefCell<VecDeque<Completion>>,
    eventfd: OwnedFd,
    timer: Timer,
}

impl Script {
    /// Completes the oldest request in flight with `res`.
    pub fn complete(&self, res: i64) {
        let entry = self.in_flight.borrow_mut().pop_front().expect("nothing is in flight");
        self.announce(entry, res);
    }

    /// Completes the newest with its size.
    pub fn complete_newest(&self) {
        let entry = self.in_flight.borrow_mut().pop_back().expect("nothing is in flight");
        self.announce(entry, BLOCK as i64);
    }

    /// The vector and the offset that the oldest request in flight has.
    pub fn asked(&self) -> (*const libc::iovec, usize, i64) {
        let oldest = *self.in_flight.borrow().front().expect("nothing is in flight");
        // SAFETY: as in `announce`.
        let entry = unsafe { &*oldest };
        let (parts, count) = entry.vector();
        (parts, count, entry.offset())
    }

    /// Completions that nobody has taken.
    pub fn unreaped(&self) -> usize {
        self.ring.borrow().len()
    }

    fn complete_synchronous(&self) {
        // SAFETY: as in `announce`.
        let is_slow = |entry: *mut Entry| unsafe { (*entry).fd() } == SLOW;
        let (slow, quick) = self.in_flight.take().into_iter().partition(|&entry| is_slow(entry));
        self.in_flight.replace(slow);
        let quick: VecDeque<_> = quick;
        quick.into_iter().for_each(|entry| self.announce(entry, BLOCK as i64));
    }

    fn announce(&self, entry: *mut Entry, res: i64) {
        // SAFETY: the engine keeps it until it has reaped the event.
        let token = unsafe { (*entry).token() };
        self.ring.borrow_mut().push_back(Completion { token, res });
        // SAFETY: an eventfd takes eight bytes.
        let wrote = unsafe {
            libc::write(self.eventfd.as_raw_fd(), (&raw const ONE).cast(), size_of::<u64>())
        };
        assert_eq!(wrote, 8);
    }

    /// Completions that nobody has reaped.
    pub fn completions(&self) -> usize {
        self.ring.borrow().len()
    }

    pub fn in_flight(&self) -> usize {
        self.in_flight.borrow().len()
    }

    /// The descriptors of the requests in flight, in the order of their submission.
    pub fn descriptors(&self) -> Vec<RawFd> {
        // SAFETY: as in `announce`.
        self.in_flight.borrow().iter().map(|&entry| unsafe { (*entry).fd() }).collect()
    }
}

static ONE: u64 = 1;

/// A result that says nothing of the request.
pub const TRANSIENT: i64 = -(libc::ERESTART as i64);

/// A descriptor that never completes at once.
pub const SLOW: RawFd = 99;

/// The kernel that a test tells what to do, through its own handle to the script.
pub struct Scripted(pub Rc<Script>);

pub fn scripted() -> (Scripted, Rc<Script>) {
    // SAFETY: eventfd(2) takes no pointer; the descriptor is new.
    let eventfd = unsafe { OwnedFd::from_raw_fd(libc::eventfd(0, libc::EFD_NONBLOCK)) };
    let script = Rc::new(Script {
        answers: RefCell::default(),
        synchronous: Cell::new(false),
        most_in_flight: Cell::new(0),
        capacity: Cell::new(CAPACITY),
        inherited: Cell::new(false),
        in_flight: RefCell::default(),
        ring: RefCell::default(),
        eventfd,
        timer: Timer::default(),
    });
    (Scripted(Rc::clone(&script)), script)
}

impl Kernel for Scripted {
    fn capacity(&self) -> usize {
        self.0.capacity.get()
    }

    fn prepare(&self, _: &mut Entry) {}

    fn is_transient(&self, res: i64) -> bool {
        res == TRANSIENT
    }

    unsafe fn submit(&self, entries: &[*mut Entry]) -> Result<usize, Errno> {
        let script = &self.0;
        let answer = script.answers.borrow_mut().pop_front().unwrap_or(Ok(entries.len()));
        let taken = answer.map_err(Errno)?.min(entries.len());
        script.in_flight.borrow_mut().extend(&entries[..taken]);
        script.most_in_flight.set(script.most_in_flight.get().max(script.in_flight()));
        if script.synchronous.get() {
            script.complete_synchronous();
        }
        Ok(taken)
    }

    fn reap(&self) -> Option<Completion> {
        self.0.ring.borrow_mut().pop_front()
    }

    fn has_completions(&self) -> bool {
        !self.0.ring.borrow().is_empty()
    }

    fn eventfd(&self) -> RawFd {
        self.0.eventfd.as_raw_fd()
    }

    fn clear_eventfd(&self) {
        let mut count = 0u64;
        // SAFETY: eight bytes into eight bytes.
        unsafe { libc::read(self.eventfd(), (&raw mut count).cast(), size_of::<u64>()) };
    }

    fn wait(&self) {
        while !self.has_completions() {
            self.0.complete(BLOCK as i64);
        }
    }

    fn is_inherited(&self) -> bool {
        self.0.inherited.get()
    }

    fn arm_timer(&self, delay: Duration) -> Result<RawFd, Errno> {
        self.0.timer.arm(delay)
    }

    fn is_timer_due(&self) -> bool {
        self.0.timer.is_due()
    }

    fn clear_timer(&self) {
        self.0.timer.clear();
    }
}

impl Files for Scripted {
    fn file_size(&self, _: RawFd) -> Option<u64> {
        None
    }
}

/// As many as Linux AIO.
pub const CAPACITY: usize = 1024;

/// Bytes of a request in these tests.
pub const BLOCK: usize = 512;

/// A request with its memory, and what shall happen when it completes. Lives for the test process.
pub struct Request {
    pub result: Cell<Option<c_int>>,
    dev_max_batch: Cell<u64>,
    iov: libc::iovec,
    then: Box<dyn Fn(&'static Request)>,
}

impl Request {
    pub fn new(then: impl Fn(&'static Request) + 'static) -> &'static Self {
        let memory: &'static mut [u8] = vec![0; BLOCK].leak();
        let iov = libc::iovec { iov_base: memory.as_mut_ptr().cast(), iov_len: BLOCK };
        let (result, dev_max_batch) = (Cell::new(None), Cell::new(0));
        Box::leak(Box::new(Self { result, dev_max_batch, iov, then: Box::new(then) }))
    }

    pub fn is_done(&self) -> bool {
        self.result.get().is_some()
    }

    /// Tells the state that the device wants batches of `limit`.
    pub fn in_batches_of(&'static self, limit: u64) -> &'static Self {
        self.dev_max_batch.set(limit);
        self
    }

    /// Submits a read of descriptor `fd` to `state`.
    pub fn submit<K: Kernel, H: Host>(&'static self, state: &State<K, H>, fd: RawFd) {
        self.try_submit(state, fd).unwrap();
    }

    pub fn try_submit<K: Kernel, H: Host>(
        &'static self,
        state: &State<K, H>,
        fd: RawFd,
    ) -> Result<(), Errno> {
        self.result.set(None);
        let io = self.io(fd);
        let opaque = ptr::from_ref(self).cast_mut().cast();
        state.submit(|| Ok(io), self.dev_max_batch.get(), on_complete, opaque)
    }

    /// Reads as a coroutine does: returns when that is complete.
    pub fn read<K: Kernel, H: Host>(&'static self, state: &State<K, H>, fd: RawFd) {
        // SAFETY: a state that stays.
        let result = unsafe { State::co_submit(Ok(self.io(fd)), 0, || State::usable(state)) };
        self.result.set(Some(result.unwrap()));
    }

    fn io(&'static self, fd: RawFd) -> Io {
        // SAFETY: one part, in memory that stays.
        unsafe { Io::new(aio_type::READ, 0, fd, 0, (&self.iov, 1)) }.unwrap()
    }
}

unsafe extern "C" fn on_complete(opaque: *mut c_void, ret: c_int) {
    // SAFETY: `submit` gave it, and it lives for the process.
    let request: &'static Request = unsafe { &*opaque.cast() };
    assert_eq!(request.result.replace(Some(ret)), None, "completed twice");
    (request.then)(request);
}
