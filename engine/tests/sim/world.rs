// SPDX-License-Identifier: MIT OR Apache-2.0

//! One scenario's whole world: states, kernel, host, model, and the checks between them.

use std::cell::{Cell, RefCell};
use std::ffi::{c_int, c_void};
use std::os::fd::RawFd;

use laio_engine::State;
use laio_engine::depth;
use laio_engine::host::HostCallback;

use crate::config::{Config, Polls};
use crate::coroutines::SimCoroutine;
use crate::host::{BottomHalf, SimHost, Watch};
use crate::kernel::{CAPACITY, FIRST_EVENTFD, FIRST_TIMER, Ring, SimKernel};
use crate::model::{FILES, Owner, Request, StateModel, Status};
use crate::tape::Tape;

pub type Engine = State<SimKernel, SimHost>;

/// A scenario that takes more steps than this makes no progress.
const MAX_STEPS: usize = 400_000;
const FILE_BYTES: usize = 64;

/// One state of the engine, its kernel and its model.
pub struct Slot {
    /// Null while it is being cleaned up.
    pub engine: Cell<*mut Engine>,
    /// The event loop it is attached to; 0 for none.
    pub context: Cell<usize>,
    pub freeing: Cell<bool>,
    /// How often it was attached.
    pub attaches: Cell<u32>,
    pub watch: Cell<Option<Watch>>,
    pub timer_watch: Cell<Option<Watch>>,
    pub ring: Ring,
    pub model: StateModel,
}

pub struct World {
    pub tape: Tape,
    pub config: Config,
    pub slots: Vec<Slot>,
    pub requests: RefCell<Vec<Request>>,
    /// Each as the kernel has it, and as the model has it.
    pub files: RefCell<[(Vec<u8>, Vec<u8>); FILES]>,

    pub bottom_halves: RefCell<Vec<BottomHalf>>,
    pub coroutines: RefCell<Vec<SimCoroutine>>,
    /// The coroutines on the stack, the innermost last.
    pub running: RefCell<Vec<usize>>,
    /// Coroutines that will be resumed by the event loop.
    pub wakes: RefCell<Vec<usize>>,
    /// Sections open, and those that the scenario opened itself.
    pub sections: Cell<u32>,
    pub own_sections: Cell<u32>,
    pub deferred: RefCell<Vec<(HostCallback, *mut c_void)>>,
    /// Of a section that has ended, and not made yet.
    pub due_calls: RefCell<Vec<(HostCallback, *mut c_void)>>,
    pub locks: Cell<i32>,
    /// What another thread detached while an entry waited for the lock, until that is released.
    pub taken_away: Cell<Option<usize>>,
    pub rotor: Cell<usize>,
    /// Event loops on the stack.
    pub loops: Cell<u32>,

    /// The request whose owner must be told next, before anything else happens.
    pub due: Cell<Option<usize>>,
    /// Owners being told, one within the other, since the last entry from the event loop.
    pub nest: Cell<u32>,
    /// Who was told last, and may be asked about once more.
    pub last_told: Cell<Option<Owner>>,
    /// Owners told since the last entry from the event loop.
    pub told_here: Cell<u32>,
    /// Entries from the event loop on the stack.
    pub entries: Cell<u32>,
    /// Hooks that act, on the stack.
    pub hooks: Cell<u32>,
    /// The process is the child of a fork, and has what it inherited.
    pub child: Cell<bool>,
    /// How many threads have used the states and ended.
    pub thread: Cell<u32>,
    /// Children that were forked, and results that said nothing of their requests.
    pub children: Cell<u64>,
    pub transient: Cell<u64>,
    /// The calling thread is not the states'.
    pub foreign: Cell<bool>,
    /// An unplug is on the stack.
    pub unplugging: Cell<u32>,
    /// No faults any more.
    pub calm: Cell<bool>,
    steps: Cell<usize>,
    tracing: bool,
    on_failure: fn(&World, &str) -> !,
}

impl World {
    pub fn new(tape: Tape, tracing: bool, on_failure: fn(&Self, &str) -> !) -> Self {
        let config = Config::of(&tape);
        let slots = (0..config.states)
            .map(|_| Slot {
                engine: Cell::new(std::ptr::null_mut()),
                context: Cell::new(0),
                freeing: Cell::new(false),
                attaches: Cell::new(0),
                watch: Cell::new(None),
                timer_watch: Cell::new(None),
                ring: Ring::default(),
                model: StateModel::default(),
            })
            .collect();
        let contents = |file: u8| (0..FILE_BYTES as u8).map(|at| at ^ (file << 6)).collect();
        let files = [0, 1].map(|file| (contents(file), contents(file)));
        Self {
            tape,
            config,
            slots,
            requests: RefCell::default(),
            files: RefCell::new(files),
            bottom_halves: RefCell::default(),
            coroutines: RefCell::default(),
            running: RefCell::default(),
            wakes: RefCell::default(),
            sections: Cell::new(0),
            own_sections: Cell::new(0),
            deferred: RefCell::default(),
            due_calls: RefCell::default(),
            locks: Cell::new(0),
            taken_away: Cell::new(None),
            rotor: Cell::new(0),
            loops: Cell::new(0),
            due: Cell::new(None),
            nest: Cell::new(0),
            last_told: Cell::new(None),
            told_here: Cell::new(0),
            entries: Cell::new(0),
            hooks: Cell::new(0),
            child: Cell::new(false),
            thread: Cell::new(0),
            children: Cell::new(0),
            transient: Cell::new(0),
            foreign: Cell::new(false),
            unplugging: Cell::new(0),
            calm: Cell::new(false),
            steps: Cell::new(0),
            tracing,
            on_failure,
        }
    }

    pub fn engine(&self, slot: usize) -> &Engine {
        // SAFETY: a state lives until its slot is given another, and no one keeps this longer.
        unsafe { &*self.slots[slot].engine.get() }
    }

    pub fn kernel(&'static self, slot: usize) -> SimKernel {
        SimKernel { world: self, slot }
    }

    pub fn model(&self, slot: usize) -> &StateModel {
        &self.slots[slot].model
    }

    /// The watch of an eventfd, or of a timer.
    pub fn watch_of(&self, fd: RawFd) -> &Cell<Option<Watch>> {
        let (first, is_timer) =
            if fd >= FIRST_TIMER { (FIRST_TIMER, true) } else { (FIRST_EVENTFD, false) };
        let slot = usize::try_from(fd - first).ok().and_then(|slot| self.slots.get(slot));
        let Some(slot) = slot else { self.fail("a descriptor of no state is watched") };
        if is_timer { &slot.timer_watch } else { &slot.watch }
    }

    /// Room in the ring of the state in `slot`.
    pub fn free_slots(&self, slot: usize) -> usize {
        self.config.ring_of(slot).saturating_sub(self.slots[slot].ring.in_flight())
    }

    /// `None` where the kernel does not tell, as for a device.
    pub fn file_size(&self, file: usize) -> Option<usize> {
        self.config.sizes_known.then(|| self.files.borrow()[file].1.len())
    }

    pub fn outstanding(&self, slot: usize) -> usize {
        self.slots[slot].ring.in_flight() + self.model(slot).queue.borrow().len()
    }

    pub fn steps(&self) -> usize {
        self.steps.get()
    }

    /// A line of the trace.
    pub fn trace(&self, line: impl FnOnce() -> String) {
        if self.tracing {
            let indent = "  ".repeat((self.nest.get() + self.loops.get()) as usize);
            eprintln!("{:6}  {indent}{}", self.steps.get(), line());
        }
    }

    pub fn fail(&self, what: &str) -> ! {
        (self.on_failure)(self, what)
    }

    #[track_caller]
    pub fn check(&self, holds: bool, otherwise: &str) {
        if !holds {
            self.fail(otherwise);
        }
    }

    pub fn count_step(&self) {
        self.steps.set(self.steps.get() + 1);
        self.check(self.steps.get() < MAX_STEPS, "no end: the steps are used up");
    }

    /// A result that the engine has seen goes to its owner before anything else happens.
    pub fn nothing_due(&self, instead: &str) {
        if let Some(id) = self.due.get() {
            self.fail(&format!("#{id} is complete, but its owner is not told: {instead} instead"));
        }
    }

    /// The owner of the request that is due has the result, or is about to be called.
    pub fn told_by_result(&self, owner: Owner) {
        self.check(!self.child.get(), "the child of a fork tells an owner");
        self.told_here.set(self.told_here.get() + 1);
        // A submission of the program itself has a budget of its own, and so has each of cleanup's
        // rounds.
        let counts = self.entries.get() > 0 && !self.calm.get();
        self.check(
            !counts || self.told_here.get() <= self.config.max_told,
            "one entry from the event loop tells more owners than it may",
        );
        let Some(id) = self.due.take() else {
            self.fail("an owner is told, but nothing is due");
        };
        let of = self.requests.borrow()[id].owner;
        if of != owner {
            self.fail(&format!("#{id} is told to {owner:?} and not to {of:?}"));
        }
    }

    /// A coroutine is asked about: either because it is complete, or once more after that.
    pub fn is_told(&self, owner: Owner) {
        let due = self.due.get().map(|id| self.requests.borrow()[id].owner);
        if due.is_none() && self.last_told.get() == Some(owner) {
            return;
        }
        self.told_by_result(owner);
        self.last_told.set(Some(owner));
    }

    /// The owner of `id` has the result `result`.
    pub fn told(&self, id: usize, result: c_int) {
        self.trace(|| format!("#{id} is done: {result}"));
        let mut requests = self.requests.borrow_mut();
        let request = &mut requests[id];
        let fault = match request.status {
            Status::Due(expected) if expected == result => None,
            status => Some(format!("#{id} gets {result}, but it is {status:?}")),
        };
        request.status = Status::Done(result);
        let intact = request.memory_is_as_expected();
        drop(requests);
        if let Some(fault) = fault {
            self.fail(&fault);
        }
        if !intact {
            self.fail(&format!("#{id}: the memory does not hold what the model says"));
        }
    }

    /// Runs an owner, one level deeper.
    pub fn nested(&self, owner: impl FnOnce()) {
        self.nest.set(self.nest.get() + 1);
        // The outermost is told by the event loop, without a frame of submission.
        self.check(
            self.nest.get() <= self.config.bound + 1,
            "owners are told deeper within each other than the bound",
        );
        owner();
        self.nest.set(self.nest.get() - 1);
    }

    /// What must hold whenever control is with the host.
    pub fn check_at_rest(&self) {
        self.nothing_due("control is with the host");
        for (index, slot) in self.slots.iter().enumerate() {
            if !slot.engine.get().is_null() {
                self.check_counts(index);
                if slot.context.get() != 0 {
                    self.check_live(index);
                }
            }
        }
    }

    pub fn bh_scheduled(&self, slot: usize) -> bool {
        let context = self.slots[slot].context.get();
        let opaque: *mut c_void = self.slots[slot].engine.get().cast();
        let list = self.bottom_halves.borrow();
        list.iter().any(|bh| bh.scheduled && bh.context == context && bh.is_of(opaque))
    }

    /// Somebody will come back for what is queued, and for what is complete.
    fn check_live(&self, index: usize) {
        let slot = &self.slots[index];
        let scheduled = self.bh_scheduled(index);
        let queued = slot.model.queue.borrow().len();
        let in_flight = slot.ring.in_flight();
        let refused = slot.ring.refused.get() || self.free_slots(index) == 0;
        let timer = slot.ring.timer.get() && slot.timer_watch.get().is_some();
        if queued > 0 && !scheduled && !(refused && (in_flight > 0 || timer)) {
            self.fail(&format!(
                "state {index} is left with {queued} queued, {in_flight} in flight, and nobody to resume"
            ));
        }
        let polled = self.config.polls == Polls::Only;
        if slot.ring.complete() > 0 && !slot.ring.signalled.get() && !scheduled && !polled {
            self.fail(&format!("state {index}: completions that nobody will reap"));
        }
    }

    /// With a plug, requests go to the kernel when the batch is full, at its end, or when control is
    /// with the event loop: a section's end changes nothing.
    pub fn check_gathered(&self, index: usize) {
        let (slot, config) = (&self.slots[index], &self.config);
        let whole = config.refusal == 0 && config.partial == 0 && config.eagain == 0;
        let excused = self.entries.get() > 0
            || self.unplugging.get() > 0
            || slot.engine.get().is_null()
            || slot.context.get() == 0
            || slot.model.queue.borrow().len() >= self.free_slots(index)
            || !whole
            || config.hook_acts > 0
            || config.capacity < CAPACITY;
        let queued = slot.model.queue.borrow().len() as u64;
        if slot.model.plugs.get() > 0 && !excused && queued < slot.model.wanted_batch.get() {
            self.fail("submitted although a plug gathers");
        }
    }

    pub fn check_counts(&self, index: usize) {
        let slot = &self.slots[index];
        let stats = self.engine(index).stats();
        let mut expected = slot.model.counts.get();
        expected.in_queue = slot.model.queue.borrow().len() as u64;
        expected.in_flight = slot.ring.in_flight() as u64;
        // What only the engine knows.
        expected.at_bound = stats.at_bound;
        if self.config.hook_acts > 0 {
            // The hook that locks may have submitted what was queued.
            expected.bh_resumptions = stats.bh_resumptions;
        }
        let deepest_seen = expected.deepest_nesting;
        expected.deepest_nesting = stats.deepest_nesting;
        if stats != expected {
            self.fail(&format!("state {index} counts {stats:?}, the model {expected:?}"));
        }
        let all = stats.completed + stats.in_queue + stats.in_flight;
        self.check(stats.submitted == all, "the counts do not add up");
        self.check(
            (deepest_seen..=u64::from(depth::max())).contains(&stats.deepest_nesting),
            "the deepest nesting is not what was seen, or above the bound",
        );
    }
}
