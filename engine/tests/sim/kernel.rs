// SPDX-License-Identifier: MIT OR Apache-2.0

//! A kernel that does to a request whatever a kernel may do, with the manners of Linux AIO or of io_uring.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::os::fd::RawFd;
use std::ptr;
use std::time::Duration;

use laio_engine::depth;
use laio_engine::errno::Errno;
use laio_engine::kernel::{Completion, Entry, Files, Kernel};

use crate::manners::{Answer, TRANSIENT};
use crate::model::{EntryBytes, FIRST_FD, Status, Verdict};
use crate::world::World;

/// As many as Linux AIO.
pub const CAPACITY: usize = 1024;
/// Eventfds are numbers that no request's descriptor has.
pub const FIRST_EVENTFD: RawFd = 10;
/// And so are timers.
pub const FIRST_TIMER: RawFd = 50;

/// The kernel's side of one state.
#[derive(Default)]
pub struct Ring {
    /// Accepted and not complete.
    pub held: RefCell<Vec<Held>>,
    /// Complete and not reaped.
    pub complete: RefCell<VecDeque<Complete>>,
    /// The eventfd is readable.
    pub signalled: Cell<bool>,
    /// The last submission was, and nothing was in flight.
    pub starved: Cell<bool>,
    /// The timer runs.
    pub timer: Cell<bool>,
    /// The last submission was answered "no more now".
    pub refused: Cell<bool>,
}

/// What the kernel has of a request.
#[derive(Clone, Copy)]
pub struct Held {
    pub id: usize,
    pub entry: *mut Entry,
    pub as_submitted: EntryBytes,
    /// The thread that submitted it.
    pub thread: u32,
}

/// How it went.
#[derive(Clone, Copy)]
pub struct Complete {
    pub held: Held,
    pub res: i64,
    /// The result says nothing of the request.
    pub transient: bool,
}

impl Ring {
    pub fn held(&self) -> usize {
        self.held.borrow().len()
    }

    pub fn complete(&self) -> usize {
        self.complete.borrow().len()
    }

    pub fn in_flight(&self) -> usize {
        self.held() + self.complete()
    }
}

/// One state's handle on the simulated kernel.
pub struct SimKernel {
    pub world: &'static World,
    pub slot: usize,
}

fn bytes_of(entry: *mut Entry) -> EntryBytes {
    // SAFETY: the engine keeps an entry where it is until it completes, and it has no padding.
    // Where the engine fails to, an address sanitizer and the comparison with this will tell.
    unsafe { entry.cast::<EntryBytes>().read() }
}

impl Kernel for SimKernel {
    fn capacity(&self) -> usize {
        self.world.config.ring_of(self.slot)
    }

    fn prepare(&self, entry: &mut Entry) {
        self.is_ours("a request is prepared");
        entry.set_eventfd(self.eventfd());
    }

    unsafe fn submit(&self, entries: &[*mut Entry]) -> Result<usize, Errno> {
        let (world, ring) = (self.world, self.ring());
        self.is_ours("a submission");
        world.nothing_due("a submission");
        world.count_step();
        world.check(!entries.is_empty(), "a submission of nothing");
        let depth = depth::current();
        world.check((1..=depth::max()).contains(&depth), "submission outside of the bound");
        world.model(self.slot).count(|counts| {
            counts.deepest_nesting = counts.deepest_nesting.max(depth.into());
        });
        world.check(
            ring.in_flight() + entries.len() <= self.capacity(),
            "more requests than the ring has slots",
        );
        self.check_order(entries);
        world.check_gathered(self.slot);
        let Answer { taken, last_fails } = self.answer(entries.len());
        world.trace(|| {
            let first = self.id_of(entries[0]);
            let frames = "|".repeat(depth as usize);
            format!(
                "kernel {}: {frames} submit {} from #{first}: {taken:?}",
                self.slot,
                entries.len()
            )
        });
        self.count_answer(&taken);
        match taken {
            Ok(count) => {
                let before = ring.held();
                entries[..count].iter().for_each(|&entry| self.take(entry));
                self.complete_some(before, last_fails);
            }
            Err(Errno(libc::EAGAIN)) => {}
            Err(errno) => {
                let id = world.model(self.slot).queue.borrow_mut().pop_front().unwrap();
                self.follow(id, errno.negative().into());
            }
        }
        taken
    }

    fn reap(&self) -> Option<Completion> {
        self.is_ours("reaping");
        self.world.nothing_due("reaping");
        let taken_away = self.world.taken_away.get() == Some(self.slot);
        let served = taken_away && !self.world.slots[self.slot].freeing.get();
        self.world.check(!served, "a state is served that another thread has detached");
        self.world.count_step();
        // The kernel does not stand still while we look.
        if self.ring().held() > 0 && self.world.tape.chance(self.world.config.race) {
            self.complete_any();
        }
        // Full, so the engine need not have asked.
        if self.world.free_slots(self.slot) == 0 {
            self.ring().refused.set(true);
        }
        let complete = self.ring().complete.borrow_mut().pop_front()?;
        let (held, res) = (complete.held, self.told_as(&complete));
        self.check_unchanged(&held);
        // SAFETY: as in `bytes_of`. io_uring's completions name the entry, which is looked at now.
        let token = unsafe { (*held.entry).token() };
        self.world.trace(|| format!("kernel {}: reaped #{}: {res}", self.slot, held.id));
        if self.is_transient(res) {
            self.follow_transient(&held);
        } else {
            self.follow(held.id, res);
        }
        Some(Completion { token, res })
    }

    fn is_transient(&self, res: i64) -> bool {
        self.world.config.is_uring(self.slot) && res == TRANSIENT
    }

    fn has_completions(&self) -> bool {
        self.is_ours("a look for completions");
        self.ring().complete() > 0
    }

    fn eventfd(&self) -> RawFd {
        FIRST_EVENTFD + self.slot as RawFd
    }

    fn clear_eventfd(&self) {
        self.is_ours("clearing the eventfd");
        self.ring().signalled.set(false);
    }

    fn wait(&self) {
        self.is_ours("a wait");
        self.world.count_step();
        self.world.check(self.ring().in_flight() > 0, "waiting for nothing");
        if self.ring().complete() == 0 {
            self.complete_any();
        }
    }

    fn nap(&self) {
        self.is_ours("a nap");
        self.world.count_step();
    }

    fn is_inherited(&self) -> bool {
        self.world.child.get()
    }

    fn arm_timer(&self, _: Duration) -> Result<RawFd, Errno> {
        self.is_ours("a timer");
        if self.world.config.timers_fail {
            return Err(Errno(libc::EMFILE));
        }
        self.world.check(
            self.ring().starved.get(),
            "a timer runs although the kernel did not say no with nothing in flight",
        );
        self.world.trace(|| format!("kernel {}: the timer runs", self.slot));
        self.ring().timer.set(true);
        Ok(FIRST_TIMER + self.slot as RawFd)
    }

    /// Time is the world's: a timer that runs may be due whenever somebody looks.
    fn is_timer_due(&self) -> bool {
        self.is_ours("a look at the timer");
        self.ring().timer.get()
    }

    fn clear_timer(&self) {
        self.is_ours("clearing the timer");
        self.ring().timer.set(false);
    }
}

impl Files for SimKernel {
    fn file_size(&self, fd: RawFd) -> Option<u64> {
        let file = self.world.requests.borrow()[(fd - FIRST_FD) as usize].file;
        self.world.file_size(file).map(|size| size as u64)
    }

    fn size_limit(&self) -> u64 {
        self.world.config.size_limit as u64
    }
}

impl SimKernel {
    /// The child of a fork shares the ring, the eventfd and the timer with its parent, and must not
    /// touch them.
    fn is_ours(&self, what: &str) {
        if self.world.child.get() {
            self.world.fail(&format!("the child of a fork uses what is its parent's: {what}"));
        }
    }

    pub fn ring(&self) -> &'static Ring {
        &self.world.slots[self.slot].ring
    }

    fn id_of(&self, entry: *mut Entry) -> usize {
        // SAFETY: as in `bytes_of`.
        let fd = unsafe { (*entry).fd() };
        let id = usize::try_from(fd - FIRST_FD).unwrap_or(usize::MAX);
        self.world.check(id < self.world.requests.borrow().len(), "an entry of no request");
        id
    }

    /// Whether these are the requests that the model has at the head of its queue, and ask for
    /// what the model says is left of them.
    fn check_order(&self, entries: &[*mut Entry]) {
        let world = self.world;
        let queue = world.model(self.slot).queue.borrow();
        world.check(entries.len() <= queue.len(), "more submitted than queued");
        for (&entry, &expected) in entries.iter().zip(queue.iter()) {
            let id = self.id_of(entry);
            if id != expected {
                world.fail(&format!("#{id} submitted where the order says #{expected}"));
            }
            let mut requests = world.requests.borrow_mut();
            let request = &mut requests[id];
            // SAFETY: as in `bytes_of`.
            let entry = unsafe { &*entry };
            if let Some(fault) = request.fault_of(entry, self.eventfd()) {
                drop(requests);
                world.fail(&format!("#{id}: {fault}"));
            }
            if request
                .again
                .is_some_and(|before| before != bytes_of(ptr::from_ref(entry).cast_mut()))
            {
                drop(requests);
                world.fail(&format!("#{id} is not submitted again as it was"));
            }
            request.name = Some(entry.token());
        }
    }

    pub fn check_unchanged(&self, held: &Held) {
        self.world.check(
            bytes_of(held.entry) == held.as_submitted,
            "an entry changed while the kernel had it",
        );
    }

    fn count_answer(&self, answer: &Result<usize, Errno>) {
        let eagain = matches!(answer, Ok(0) | Err(Errno(libc::EAGAIN)));
        self.ring().refused.set(eagain);
        self.ring().starved.set(eagain && self.ring().in_flight() == 0);
        self.world.model(self.slot).count(|counts| {
            counts.io_submit_calls += 1;
            counts.eagain += u64::from(eagain);
            let taken = answer.unwrap_or(0) as u64;
            counts.largest_batch = counts.largest_batch.max(taken);
        });
    }

    fn take(&self, entry: *mut Entry) {
        let world = self.world;
        let id = world.model(self.slot).queue.borrow_mut().pop_front().unwrap();
        let request = &mut world.requests.borrow_mut()[id];
        request.status = Status::Kernel;
        request.again = None;
        let held = Held { id, entry, as_submitted: bytes_of(entry), thread: world.thread.get() };
        self.ring().held.borrow_mut().push(held);
    }

    /// The model of a result that says nothing: the request is queued as it was.
    fn follow_transient(&self, held: &Held) {
        self.world.transient.set(self.world.transient.get() + 1);
        self.world.requests.borrow_mut()[held.id].again = Some(held.as_submitted);
        self.queue_again(held.id);
    }

    fn queue_again(&self, id: usize) {
        let request = &mut self.world.requests.borrow_mut()[id];
        let model = self.world.model(self.slot);
        request.status = Status::Queued;
        model.queue.borrow_mut().push_back(id);
        model.count(|counts| counts.retried += 1);
        model.wanted_batch.set(request.batch);
    }

    /// What the model says about a result; the engine sees the same now.
    fn follow(&self, id: usize, res: i64) {
        let world = self.world;
        let mut requests = world.requests.borrow_mut();
        let request = &mut requests[id];
        let model = world.model(self.slot);
        match request.verdict(res, world.file_size(request.file), &world.config) {
            Verdict::Retry => {
                drop(requests);
                self.queue_again(id);
            }
            Verdict::Final(result) => {
                request.status = Status::Due(result);
                world.due.set(Some(id));
                model.count(|counts| {
                    counts.completed += 1;
                    counts.failed += u64::from(result < 0);
                });
            }
        }
    }
}
