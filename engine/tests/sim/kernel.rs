// SPDX-License-Identifier: MIT OR Apache-2.0

//! A kernel that does to a request whatever a kernel may do.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::os::fd::RawFd;
use std::time::Duration;

use laio_engine::depth;
use laio_engine::errno::Errno;
use laio_engine::kernel::{Completion, Entry, Files, Kernel, Opcode};

use crate::model::{FIRST_FD, Kind, Status, Verdict, vector_of};
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
    held: RefCell<Vec<Held>>,
    /// Complete and not reaped: whose, and the event.
    complete: RefCell<VecDeque<(usize, Completion)>>,
    /// The eventfd is readable.
    pub signalled: Cell<bool>,
    /// The last submission was, and nothing was in flight.
    pub starved: Cell<bool>,
    /// The timer runs.
    pub timer: Cell<bool>,
    /// The last submission was answered "no more now".
    pub refused: Cell<bool>,
}

struct Held {
    id: usize,
    entry: *mut Entry,
    as_submitted: [u8; size_of::<Entry>()],
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

fn bytes_of(entry: *mut Entry) -> [u8; size_of::<Entry>()] {
    // SAFETY: the engine keeps an entry where it is until it completes, and it has no padding.
    // Where the engine fails to, an address sanitizer and the comparison with this will tell.
    unsafe { entry.cast::<[u8; size_of::<Entry>()]>().read() }
}

impl Kernel for SimKernel {
    fn capacity(&self) -> usize {
        CAPACITY
    }

    fn prepare(&self, entry: &mut Entry) {
        entry.set_eventfd(self.eventfd());
    }

    unsafe fn submit(&self, entries: &[*mut Entry]) -> Result<usize, Errno> {
        let (world, ring) = (self.world, self.ring());
        world.nothing_due("io_submit(2)");
        world.count_step();
        world.check(!entries.is_empty(), "io_submit(2) of nothing");
        let depth = depth::current();
        world.check((1..=depth::max()).contains(&depth), "submission outside of the bound");
        world.model(self.slot).count(|counts| {
            counts.deepest_nesting = counts.deepest_nesting.max(depth.into());
        });
        world.check(
            ring.in_flight() + entries.len() <= CAPACITY,
            "more requests than the ring has slots",
        );
        self.check_order(entries);
        world.check_gathered(self.slot);
        let answer = self.answer(entries.len());
        world.trace(|| {
            let first = self.id_of(entries[0]);
            let frames = "|".repeat(depth as usize);
            format!(
                "kernel {}: {frames} submit {} from #{first}: {answer:?}",
                self.slot,
                entries.len()
            )
        });
        self.count_answer(&answer);
        match answer {
            Ok(taken) => {
                let mut next = ring.held();
                entries[..taken].iter().for_each(|&entry| self.take(entry));
                for _ in 0..taken {
                    if world.tape.chance(world.config.hold) {
                        next += 1;
                    } else {
                        self.complete_one(next);
                    }
                }
            }
            Err(Errno(libc::EAGAIN)) => {}
            Err(errno) => {
                let id = world.model(self.slot).queue.borrow_mut().pop_front().unwrap();
                self.follow(id, errno.negative().into());
            }
        }
        answer
    }

    fn reap(&self) -> Option<Completion> {
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
        if self.ring().in_flight() >= CAPACITY {
            self.ring().refused.set(true);
        }
        let (id, event) = self.ring().complete.borrow_mut().pop_front()?;
        self.world.trace(|| format!("kernel {}: reaped #{id}: {}", self.slot, event.res));
        self.follow(id, event.res);
        Some(event)
    }

    fn is_transient(&self, _res: i64) -> bool {
        false
    }

    fn has_completions(&self) -> bool {
        self.ring().complete() > 0
    }

    fn eventfd(&self) -> RawFd {
        FIRST_EVENTFD + self.slot as RawFd
    }

    fn clear_eventfd(&self) {
        self.ring().signalled.set(false);
    }

    fn wait(&self) {
        self.world.count_step();
        self.world.check(self.ring().in_flight() > 0, "waiting for nothing");
        if self.ring().complete() == 0 {
            self.complete_any();
        }
    }

    fn nap(&self) {
        self.world.count_step();
    }

    fn is_inherited(&self) -> bool {
        false
    }

    fn arm_timer(&self, _: Duration) -> Result<RawFd, Errno> {
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
        self.ring().timer.get()
    }

    fn clear_timer(&self) {
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
    fn ring(&self) -> &'static Ring {
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
            request.name = Some(entry.token());
        }
    }

    /// How many of `offered` the kernel takes.
    fn answer(&self, offered: usize) -> Result<usize, Errno> {
        let (world, config) = (self.world, &self.world.config);
        let room = config.capacity - self.ring().in_flight().min(config.capacity);
        if room == 0 {
            return Err(Errno(libc::EAGAIN));
        }
        let taken = offered.min(room);
        if world.calm.get() {
            return Ok(taken);
        }
        if world.tape.chance(config.eagain) {
            // Linux never takes none without an error, but nothing in its manual rules it out.
            return match world.tape.below(8) {
                7 => Ok(0),
                _ => Err(Errno(libc::EAGAIN)),
            };
        }
        if world.tape.chance(config.refusal) {
            return Err(Errno(world.tape.pick([
                libc::EINVAL,
                libc::EBADF,
                libc::EINTR,
                libc::ENOMEM,
                libc::EIO,
            ])));
        }
        if world.tape.chance(config.partial) {
            return Ok(1 + world.tape.below(taken.min(256)));
        }
        Ok(taken)
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
        let id = self.world.model(self.slot).queue.borrow_mut().pop_front().unwrap();
        self.world.requests.borrow_mut()[id].status = Status::Kernel;
        self.ring().held.borrow_mut().push(Held { id, entry, as_submitted: bytes_of(entry) });
    }

    /// Completes one of those that are held.
    pub fn complete_any(&self) {
        let held = self.ring().held();
        self.complete_one(self.world.tape.below(held.min(256)));
    }

    fn complete_one(&self, index: usize) {
        let (world, ring) = (self.world, self.ring());
        let held = ring.held.borrow_mut().remove(index);
        world.check(
            bytes_of(held.entry) == held.as_submitted,
            "an entry changed while the kernel had it",
        );
        // SAFETY: as in `bytes_of`.
        let entry = unsafe { &*held.entry };
        let res = self.transfer(held.id, entry);
        let event = Completion { token: entry.token(), res };
        world.trace(|| format!("kernel {}: #{} completes with {res}", self.slot, held.id));
        ring.complete.borrow_mut().push_back((held.id, event));
        ring.signalled.set(true);
    }

    /// Moves bytes between the file and the request's memory, as the entry says, and the model's.
    fn transfer(&self, id: usize, entry: &Entry) -> i64 {
        let (world, config) = (self.world, &self.world.config);
        let mut requests = world.requests.borrow_mut();
        let request = &mut requests[id];
        let calm = world.calm.get();
        if !calm && world.tape.chance(config.failure) {
            return -i64::from(world.tape.pick([
                libc::EIO,
                libc::EINVAL,
                libc::ENOSPC,
                libc::EAGAIN,
            ]));
        }
        if request.kind == Kind::Flush {
            return 0;
        }
        let mut files = world.files.borrow_mut();
        let (real, model) = &mut files[request.file];
        let position = entry.offset() as usize;
        let left = request.bytes - request.done;
        let possible = match request.kind {
            Kind::Read => left.min(real.len().saturating_sub(position)),
            // As far as a file may grow. Beyond that nothing goes in, and a signal comes.
            _ if position < config.size_limit => left.min(config.size_limit - position),
            _ if request.done > 0 && config.sizes_known => {
                world.fail("a short write is continued beyond the limit: SIGXFSZ")
            }
            _ => return -i64::from(libc::EFBIG),
        };
        let length = if !calm && world.tape.chance(config.short) {
            world.tape.below(possible + 1)
        } else {
            possible
        };
        request.transferred(model, length);
        // SAFETY: no flush; the engine and the owner keep the vector and its parts.
        unsafe { move_bytes(real, position, entry, length) };
        length as i64
    }

    /// What the model says about a result; the engine sees the same now.
    fn follow(&self, id: usize, res: i64) {
        let world = self.world;
        let mut requests = world.requests.borrow_mut();
        let request = &mut requests[id];
        let model = world.model(self.slot);
        match request.verdict(res, world.file_size(request.file), &world.config) {
            Verdict::Retry => {
                request.status = Status::Queued;
                model.queue.borrow_mut().push_back(id);
                model.count(|counts| counts.retried += 1);
                model.wanted_batch.set(request.batch);
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

/// # Safety
///
/// As the kernel assumes of an entry.
unsafe fn move_bytes(file: &mut Vec<u8>, start: usize, entry: &Entry, length: usize) {
    let mut position = start;
    let mut left = length;
    // SAFETY: the caller's promise.
    for part in unsafe { vector_of(entry) } {
        let count = part.iov_len.min(left);
        if count == 0 {
            continue;
        }
        let memory: *mut u8 = part.iov_base.cast();
        if entry.opcode() == Opcode::Read {
            // SAFETY: the caller's promise.
            unsafe { memory.copy_from(file[position..].as_ptr(), count) };
        } else {
            file.resize(file.len().max(position + count), 0);
            // SAFETY: the caller's promise.
            unsafe { memory.copy_to(file[position..].as_mut_ptr(), count) };
        }
        position += count;
        left -= count;
    }
}
