// SPDX-License-Identifier: MIT OR Apache-2.0

//! Where Linux AIO and io_uring differ: what is answered to a submission, in which order requests
//! complete, and results that say nothing of the request.

use laio_engine::errno::Errno;

use crate::kernel::{Complete, SimKernel};
use crate::world::World;

/// What io_uring's kernel object makes of a result that says nothing of the request. A number of its
/// own: the engine has to ask.
pub const TRANSIENT: i64 = -(libc::ERESTART as i64);

/// The answer to a submission.
pub struct Answer {
    pub taken: Result<usize, Errno>,
    /// The last one that was taken completes at once, with this failure.
    pub last_fails: Option<i32>,
}

/// What a kernel may find wrong with a request when it is submitted.
const REFUSALS: [i32; 5] = [libc::EINVAL, libc::EBADF, libc::EINTR, libc::ENOMEM, libc::EIO];

impl SimKernel {
    fn is_uring(&self) -> bool {
        self.world.config.is_uring(self.slot)
    }

    /// How many of `offered` the kernel takes.
    pub fn answer(&self, offered: usize) -> Answer {
        let (world, config) = (self.world, &self.world.config);
        let room = config.capacity - self.ring().in_flight().min(config.capacity);
        let takes = |taken| Answer { taken, last_fails: None };
        if room == 0 {
            return takes(Err(Errno(libc::EAGAIN)));
        }
        let taken = offered.min(room);
        if world.calm.get() {
            return takes(Ok(taken));
        }
        if world.tape.chance(config.eagain) {
            // Linux never takes none without an error, but nothing in its manual rules it out.
            return match world.tape.below(8) {
                7 => takes(Ok(0)),
                _ => takes(Err(Errno(libc::EAGAIN))),
            };
        }
        if world.tape.chance(config.refusal) {
            return self.refusal(taken);
        }
        if world.tape.chance(config.partial) {
            return takes(Ok(1 + world.tape.below(taken.min(256))));
        }
        takes(Ok(taken))
    }

    /// Something is wrong with a request. Linux AIO says so of the first, and takes none. With io_uring
    /// each failure is a completion of its own, and submission stops behind it.
    fn refusal(&self, offered: usize) -> Answer {
        let tape = &self.world.tape;
        let errno = tape.pick(REFUSALS);
        if !self.is_uring() {
            return Answer { taken: Err(Errno(errno)), last_fails: None };
        }
        // That it was interrupted, io_uring_enter(2) would say.
        let errno = if errno == libc::EINTR { libc::EOPNOTSUPP } else { errno };
        Answer { taken: Ok(1 + tape.below(offered.min(256))), last_fails: Some(errno) }
    }

    /// Completes what does not take long, of what was just taken, behind the first `before` that are
    /// held.
    pub fn complete_some(&self, before: usize, last_fails: Option<i32>) {
        let (tape, hold) = (&self.world.tape, self.world.config.hold);
        let mut taken = self.ring().held() - before;
        if let Some(errno) = last_fails {
            taken -= 1;
            self.complete(before + taken, -i64::from(errno), false);
        }
        let mut next = before;
        for _ in 0..taken {
            if tape.chance(hold) {
                next += 1;
            } else if self.is_uring() {
                // Not in the order of their submission, and others in between.
                self.complete_any();
            } else {
                self.complete_one(next);
            }
        }
    }

    /// Completes one of those that are held.
    pub fn complete_any(&self) {
        let held = self.ring().held();
        self.complete_one(self.world.tape.below(held.min(256)));
    }

    fn complete_one(&self, index: usize) {
        let (world, held) = (self.world, self.ring().held.borrow()[index]);
        self.check_unchanged(&held);
        if self.is_uring() && !world.calm.get() && world.tape.chance(world.config.transient) {
            let res = world.tape.pick([-libc::EAGAIN, -libc::EINTR]);
            return self.complete(index, res.into(), true);
        }
        // SAFETY: the engine keeps an entry where it is until it is reaped.
        let res = self.transfer(held.id, unsafe { &*held.entry });
        self.complete(index, res, false);
    }

    fn complete(&self, index: usize, res: i64, transient: bool) {
        let ring = self.ring();
        let held = ring.held.borrow_mut().remove(index);
        self.world.trace(|| format!("kernel {}: #{} completes with {res}", self.slot, held.id));
        ring.complete.borrow_mut().push_back(Complete { held, res, transient });
        ring.signalled.set(true);
    }

    /// What an operation may fail with.
    pub fn failure(&self) -> i64 {
        let tape = &self.world.tape;
        let [a, b, c, d] = [libc::EIO, libc::EINVAL, libc::ENOSPC, libc::EAGAIN];
        // EAGAIN of a descriptor that is non-blocking, and EFAULT of a bad buffer, are final.
        -i64::from(if self.is_uring() {
            tape.pick([a, b, c, d, libc::EFAULT, libc::ECANCELED])
        } else {
            tape.pick([a, b, c, d])
        })
    }

    /// The result as the engine learns it. That of a thread which has ended may be no more than the
    /// kernel's giving up.
    pub fn told_as(&self, complete: &Complete) -> i64 {
        let gives_up = [libc::EFAULT, libc::ECANCELED].map(|errno| -i64::from(errno));
        let is_anothers = complete.held.thread != self.world.thread.get();
        let given_up = is_anothers && gives_up.contains(&complete.res);
        if self.is_uring() && (complete.transient || given_up) { TRANSIENT } else { complete.res }
    }

    /// The kernel gives up some of what a thread that ends has in flight.
    fn give_up(&self, thread: u32) {
        for index in (0..self.ring().held()).rev() {
            let is_its = self.ring().held.borrow()[index].thread == thread;
            if is_its && self.world.tape.below(2) == 1 {
                let res = self.world.tape.pick([-libc::ECANCELED, -libc::EFAULT]);
                self.complete(index, res.into(), false);
            }
        }
    }
}

impl World {
    /// The thread that uses the states ends, and another goes on with them.
    pub fn end_thread(&'static self) {
        self.trace(|| "the thread ends".into());
        let ended = self.thread.replace(self.thread.get() + 1);
        for slot in (0..self.slots.len()).filter(|&slot| self.config.is_uring(slot)) {
            self.kernel(slot).give_up(ended);
        }
    }
}
