// SPDX-License-Identifier: MIT OR Apache-2.0

//! Descriptors that a loop watches for states, and which of them it looks at in a turn.
//!
//! A loop of few looks at all of them, in memory: no system call. A loop of many asks its epoll set
//! which are ready, so that what is idle costs nothing. In either, each edge that is taken out of the
//! set is noted ([`Loop::take_edges`]), whoever takes it: a nested turn finds what the outer one has
//! taken, and nothing is overlooked when few become many.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ffi::{c_int, c_void};
use std::os::fd::RawFd;
use std::ptr;

use laio_engine::depth;
use laio_engine::errno::Errno;
use laio_engine::host::{AioContext, LinuxAioState, NotifierHandlers};

use super::{Loop, epoll_of};

/// A descriptor that is watched for the state at `opaque`.
pub struct Notifier {
    /// What epoll knows it by. No other one of the loop has it or has had it.
    number: u64,
    fd: RawFd,
    handlers: NotifierHandlers,
    opaque: *mut c_void,
    /// In the list of those with an edge.
    noted: Cell<bool>,
}

/// Up to so many all are looked at, which costs less than an epoll_wait(2) that finds nothing (and more
/// from 48 on). tools/asan.sh takes all for many, so that all tests see those.
const FEW: usize = if cfg!(laio_all_are_many) { 0 } else { 32 };

/// What a loop watches.
#[derive(Default)]
pub struct Notifiers {
    /// By their numbers, which is in the order in which they came.
    all: RefCell<Vec<Notifier>>,
    /// The numbers of those with an edge that nobody has looked at since, once each. There is room for
    /// all.
    noted: RefCell<VecDeque<u64>>,
    last_number: Cell<u64>,
    /// The index of the one that was expected to become ready when somebody last asked.
    expected: Cell<usize>,
}

impl Notifiers {
    pub fn len(&self) -> usize {
        self.all.borrow().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn at(&self, index: usize) -> Option<(NotifierHandlers, *mut c_void)> {
        self.all.borrow().get(index).map(|of| (of.handlers, of.opaque))
    }

    /// Takes the first of those with an edge. None as well if it is not watched any more.
    fn take_noted(&self) -> Option<(NotifierHandlers, *mut c_void)> {
        let number = self.noted.borrow_mut().pop_front()?;
        let all = self.all.borrow();
        let noted = &all[all.binary_search_by_key(&number, |of| of.number).ok()?];
        noted.noted.set(false);
        Some((noted.handlers, noted.opaque))
    }

    /// The one that epoll knows by this number has an edge.
    fn note(&self, number: u64) {
        let all = self.all.borrow();
        // The bell has a number that is nobody's.
        if let Ok(index) = all.binary_search_by_key(&number, |of| of.number) {
            if !all[index].noted.replace(true) {
                self.noted.borrow_mut().push_back(number);
            }
        }
    }

    fn add(&self, number: u64, fd: RawFd, handlers: NotifierHandlers, opaque: *mut c_void) {
        let mut all = self.all.borrow_mut();
        all.push(Notifier { number, fd, handlers, opaque, noted: Cell::new(false) });
        self.noted.borrow_mut().reserve(all.len());
    }

    fn remove(&self, fd: RawFd) {
        let mut noted = self.noted.borrow_mut();
        self.all.borrow_mut().retain(|of| {
            if of.fd == fd && of.noted.get() {
                noted.retain(|&number| number != of.number);
            }
            of.fd != fd
        });
    }

    fn next_number(&self) -> u64 {
        self.last_number.set(self.last_number.get() + 1);
        self.last_number.get()
    }
}

impl Loop {
    /// Calls the handlers of what is ready. Whether that was progress.
    pub(super) fn run_notifiers(&self) -> bool {
        let mut ran = false;
        // Without a borrow across the calls, under which the list may change.
        if self.notifiers.len() <= FEW {
            let mut index = 0;
            while let Some(notifier) = self.notifiers.at(index) {
                ran |= serve(notifier);
                index += 1;
            }
            return ran;
        }
        if self.notifiers.noted.borrow().is_empty() {
            self.take_edges(0);
        }
        // Those of now, as with bottom halves.
        let now = self.notifiers.noted.borrow().len();
        for _ in 0..now {
            ran |= self.notifiers.take_noted().is_some_and(serve);
        }
        ran
    }

    /// Whether any of the descriptors will become readable some time.
    pub(super) fn expects_any(&self) -> bool {
        let all = self.notifiers.all.borrow();
        let first = self.notifiers.expected.get().min(all.len());
        // SAFETY: given together by the engine, and still watched. It only looks.
        let is_expected =
            |&index: &usize| unsafe { (all[index].handlers.expected)(all[index].opaque) };
        let found = (first..all.len()).chain(0..first).find(is_expected);
        self.notifiers.expected.set(found.unwrap_or(0));
        found.is_some()
    }

    /// Whether any of them would be served now. The edges have been taken.
    pub(super) fn has_ready(&self) -> bool {
        if self.notifiers.len() <= FEW {
            return self.notifiers.all.borrow().iter().any(|of| is_ready((of.handlers, of.opaque)));
        }
        let first = || self.notifiers.noted.borrow().front().copied();
        while let Some(number) = first() {
            if self.notifiers.take_noted().is_some_and(is_ready) {
                self.notifiers.note(number);
                return true;
            }
        }
        false
    }

    /// Takes the edges that are there, waiting for the first as long as it is told, and notes whose they
    /// are. What comes meanwhile stays.
    pub(super) fn take_edges(&self, mut milliseconds: c_int) {
        const AT_ONCE: usize = 16;
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; AT_ONCE];
        // One each for the notifiers and the bell; the oldest come first.
        for _ in 0..=self.notifiers.len() / AT_ONCE {
            let taken = self.epoll_wait(&mut events, milliseconds).max(0) as usize;
            for event in &events[..taken] {
                self.notifiers.note(event.u64);
            }
            if taken < AT_ONCE {
                break;
            }
            milliseconds = 0;
        }
        self.bell.forget();
    }

    pub(super) fn control_epoll(
        &self,
        operation: c_int,
        fd: RawFd,
        number: u64,
    ) -> Result<(), Errno> {
        if !self.process.is_current() {
            return Ok(()); // The set is the parent's.
        }
        let events = (libc::EPOLLIN | libc::EPOLLET) as u32;
        let mut event = libc::epoll_event { events, u64: number };
        // SAFETY: reads one event.
        match unsafe { libc::epoll_ctl(epoll_of(self), operation, fd, &mut event) } {
            0 => Ok(()),
            _ => Err(Errno::last()),
        }
    }
}

fn is_ready((handlers, opaque): (NotifierHandlers, *mut c_void)) -> bool {
    // SAFETY: given together by the engine, and still watched. It only looks.
    unsafe { (handlers.poll)(opaque) }
}

/// Calls the handler if there is something for it. Whether that was progress.
fn serve(notifier: (NotifierHandlers, *mut c_void)) -> bool {
    if !is_ready(notifier) {
        return false;
    }
    let (handlers, opaque) = notifier;
    let told = depth::told();
    // SAFETY: as in `is_ready`.
    unsafe { (handlers.poll_ready)(opaque) };
    !handlers.is_timer || depth::told() != told
}

/// Watches `fd`; no handlers ends that, which cannot fail.
pub fn watch(
    context: *mut AioContext,
    fd: RawFd,
    handlers: Option<NotifierHandlers>,
    opaque: *mut c_void,
) -> Result<(), Errno> {
    // SAFETY: from `new`, by the contract of laio_attach_aio_context().
    let Some(watching) = (unsafe { Loop::from_context(context) }) else {
        return Err(Errno(libc::EINVAL));
    };
    match handlers {
        Some(handlers) => {
            let number = watching.notifiers.next_number();
            watching.control_epoll(libc::EPOLL_CTL_ADD, fd, number)?;
            watching.notifiers.add(number, fd, handlers, opaque);
        }
        None => {
            watching.notifiers.remove(fd);
            // What is not in the set need not be taken out.
            let _ = watching.control_epoll(libc::EPOLL_CTL_DEL, fd, 0);
        }
    }
    Ok(())
}

/// The state that was attached to `context` first.
///
/// # Safety
///
/// `context` is null or a loop.
pub unsafe extern "C" fn first_state(context: *mut AioContext) -> *mut LinuxAioState {
    // SAFETY: the caller's promise.
    let first = unsafe { Loop::from_context(context) }.and_then(|of| of.notifiers.at(0));
    first.map_or(ptr::null_mut(), |(_, opaque)| opaque.cast())
}
