// SPDX-License-Identifier: MIT OR Apache-2.0

//! What a program has put into the submission queue of one of liburing's rings, and not submitted.
//!
//! Within io_uring_submit those entries are the library's by liburing's own rules: the program has
//! filled them, and takes them for gone when the call returns. Of the ring nothing is loaded but what
//! liburing itself is about to load.

use std::ffi::c_int;
use std::sync::atomic::{AtomicU32, Ordering};

/// An entry of the queue, of `<linux/io_uring.h>`.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Sqe {
    opcode: u8,
    flags: u8,
    ioprio: u16,
    fd: i32,
    offset: u64,
    address: u64,
    length: u32,
    op_flags: u32,
    user_data: u64,
    rest: [u64; 3],
}

/// `struct io_uring_sq` of liburing 2.
#[repr(C)]
struct SubmissionQueue {
    /// Up to where the kernel has taken entries.
    kernel_head: *const AtomicU32,
    /// Up to where it may.
    kernel_tail: *const AtomicU32,
    kernel_mask: *const u32,
    kernel_entries: *const u32,
    unused: [usize; 3],
    sqes: *mut Sqe,
    /// Up to where the kernel was told of entries.
    told: u32,
    /// Up to where the program has filled them.
    filled: u32,
    also_unused: [usize; 4],
}

/// `struct io_uring` of liburing 2.
#[repr(C)]
pub struct Ring {
    submission: SubmissionQueue,
    completion: [usize; 11],
    flags: u32,
    descriptor: c_int,
    features: u32,
}

pub type Submit = unsafe extern "C" fn(*mut Ring) -> c_int;

const OP_READV: u8 = 1;
const OP_WRITEV: u8 = 2;
const OP_FSYNC: u8 = 3;
const OP_TIMEOUT: u8 = 11;
const OP_READ: u8 = 22;
const OP_WRITE: u8 = 23;

const SQE_FIXED_FILE: u8 = 1 << 0;
const SQE_LINK: u8 = 1 << 2;
const SQE_HARDLINK: u8 = 1 << 3;
const SQE_ASYNC: u8 = 1 << 4;
const SQE_SKIP_SUCCESS: u8 = 1 << 6;

const TIMEOUT_ETIME_SUCCESS: u32 = 1 << 5;

/// IOSQE_CQE_SKIP_SUCCESS (Linux 5.17).
const FEATURE_CQE_SKIP: u32 = 1 << 11;

/// The set-up flags of rings in which entries are what they seem, and complete by themselves:
/// CQSIZE, CLAMP, ATTACH_WQ, SUBMIT_ALL, COOP_TASKRUN, TASKRUN_FLAG, SINGLE_ISSUER, NO_SQARRAY. Not
/// SQPOLL, where another thread takes the entries; nor IOPOLL and DEFER_TASKRUN, where completions
/// only come to who asks the kernel for them; nor R_DISABLED, which may forbid what we would add;
/// nor SQE128, whose entries are larger; nor what is not known yet.
const PLAIN_RINGS: u32 = 1 << 3 | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 9 | 1 << 12 | 1 << 16;

/// `struct __kernel_timespec`.
#[repr(C)]
pub struct Delay {
    seconds: i64,
    nanoseconds: i64,
}

impl Delay {
    /// Of less than a second.
    pub const fn microseconds(count: i64) -> Self {
        Self { seconds: 0, nanoseconds: count * 1000 }
    }
}

impl Sqe {
    /// A request that completes within the call if its storage answers at once, and to which it is
    /// all the same from where it is done. Not one that goes by the file's position, as these do in
    /// their order; nor one with a condition on others.
    fn is_plain(&self) -> bool {
        let is_plain = match self.opcode {
            OP_READV | OP_WRITEV | OP_READ | OP_WRITE => self.offset != u64::MAX,
            OP_FSYNC => true,
            _ => false,
        };
        is_plain && self.flags & !(SQE_FIXED_FILE | SQE_ASYNC) == 0
    }

    /// Lets `request` behind it begin after `delay`, and completes in silence. If it fails, or the
    /// kernel does not like the request, it is the other way round: its own completion is the only
    /// one, and so the request's.
    fn wait(delay: &'static Delay, request: &Self) -> Self {
        Self {
            opcode: OP_TIMEOUT,
            flags: SQE_LINK | SQE_SKIP_SUCCESS,
            fd: -1,
            address: (&raw const *delay).addr() as u64,
            length: 1,
            op_flags: TIMEOUT_ETIME_SUCCESS,
            user_data: request.user_data,
            ..Self::default()
        }
    }
}

/// The entries of a ring that the kernel has not taken.
pub struct Pending {
    ring: *mut Ring,
    first: u32,
    count: u32,
    mask: u32,
}

impl Pending {
    /// `None` if there are none, or the ring is one to leave alone.
    ///
    /// # Safety
    ///
    /// `ring` is what io_uring_submit of liburing 2 was called with, which has not returned.
    pub unsafe fn of(ring: *mut Ring) -> Option<Self> {
        // SAFETY: the caller's promise; liburing loads the same.
        let (queue, flags) = unsafe { (&(*ring).submission, (*ring).flags) };
        if flags & !PLAIN_RINGS != 0 {
            return None;
        }
        // SAFETY: as above: the ring's mappings are there.
        let (first, mask) = unsafe {
            ((*queue.kernel_head).load(Ordering::Acquire), queue.kernel_mask.read_volatile())
        };
        let count = queue.filled.wrapping_sub(first);
        (count > 0 && count <= mask.wrapping_add(1)).then_some(Self { ring, first, count, mask })
    }

    fn sqe(&self, distance: u32) -> *mut Sqe {
        let index = self.first.wrapping_add(distance) & self.mask;
        // SAFETY: within the ring's entries, of which there are `mask` and one.
        unsafe { (*self.ring).submission.sqes.add(index as usize) }
    }

    /// Those that are plain, and are not linked to one before.
    fn plain(&self) -> impl Iterator<Item = *mut Sqe> {
        let mut in_chain = false;
        (0..self.count).map(|distance| self.sqe(distance)).filter(move |&sqe| {
            // SAFETY: an entry that is the library's.
            let sqe = unsafe { &*sqe };
            let is_plain = !in_chain && sqe.is_plain();
            in_chain = sqe.flags & (SQE_LINK | SQE_HARDLINK) != 0;
            is_plain
        })
    }

    /// Gives what is plain to the kernel's workers; returns how many that are.
    pub fn hand_over(&self) -> u32 {
        let mut count = 0;
        for sqe in self.plain() {
            // SAFETY: as in `plain`.
            unsafe { (*sqe).flags |= SQE_ASYNC };
            count += 1;
        }
        count
    }

    /// Puts a delay before each entry. Nothing if they are not all plain, or there is not room for as
    /// many again, or the kernel cannot do it in silence.
    pub fn hold_back(self, delay: &'static Delay) -> Result<HeldBack, Self> {
        // SAFETY: as in `of`.
        let features = unsafe { (*self.ring).features };
        if features & FEATURE_CQE_SKIP == 0
            || self.count > self.mask.wrapping_add(1) / 2
            || self.plain().count() != self.count as usize
        {
            return Err(self);
        }
        for distance in (0..self.count).rev() {
            // SAFETY: entries that are the library's: there is room for twice as many. From the back,
            // so that none is written over that has not been read.
            unsafe {
                let sqe = self.sqe(distance).read();
                self.sqe(2 * distance + 1).write(sqe);
                self.sqe(2 * distance).write(Sqe::wait(delay, &sqe));
            }
        }
        self.set_filled(2 * self.count);
        Ok(HeldBack(self))
    }

    /// Ends the queue after so many entries, which are not told to the kernel.
    fn set_filled(&self, count: u32) {
        // SAFETY: as in `of`; in a call of io_uring_submit nobody else uses the queue.
        unsafe { (*self.ring).submission.filled = self.first.wrapping_add(count) };
    }
}

/// Entries with a delay before each.
pub struct HeldBack(Pending);

impl HeldBack {
    /// How many requests there are.
    pub fn count(&self) -> u32 {
        self.0.count
    }

    /// Submits them by `next`, whose answer then counts requests, as the program does. What the
    /// kernel has not taken loses its delay, and stays in the queue.
    ///
    /// # Safety
    ///
    /// As [`Pending::of`]; `next` is liburing's.
    pub unsafe fn submit(self, next: Submit) -> c_int {
        let Self(pending) = self;
        // SAFETY: the caller's promise.
        let answer = unsafe { next(pending.ring) };
        // SAFETY: as in `Pending::of`.
        let head = unsafe { (*(*pending.ring).submission.kernel_head).load(Ordering::Acquire) };
        let taken = head.wrapping_sub(pending.first).min(2 * pending.count);
        if taken < 2 * pending.count {
            pending.take_back(taken);
        }
        match (answer, taken / 2) {
            (..0, _) => answer,
            // A delay that has lost its request. Zero is an answer that the program may take for
            // something else.
            // SAFETY: the caller's promise.
            (0.., 0) => unsafe { next(pending.ring) },
            (0.., requests) => requests as c_int,
        }
    }
}

impl Pending {
    /// Of twice as many entries the kernel has taken so many: removes the delays from the others.
    fn take_back(&self, taken: u32) {
        let mut kept = taken;
        for distance in taken..2 * self.count {
            if distance % 2 == 1 {
                // SAFETY: entries that the kernel has not taken, in the order of their places.
                unsafe { self.sqe(kept).write(self.sqe(distance).read()) };
                kept += 1;
            }
        }
        let told = self.first.wrapping_add(taken);
        // SAFETY: as in `Pending::of`. The kernel looks at the tail in a system call of this thread's
        // only, since the ring is not polled.
        unsafe {
            let queue = &mut (*self.ring).submission;
            (*queue.kernel_tail).store(told, Ordering::Release);
            queue.told = told;
        }
        self.set_filled(kept);
    }
}

const _: () = {
    assert!(size_of::<Sqe>() == 64);
    assert!(size_of::<SubmissionQueue>() == 104);
    assert!(std::mem::offset_of!(Ring, flags) == 192);
    assert!(std::mem::offset_of!(Ring, features) == 200);
};

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRIES: u32 = 16;
    static DELAY: Delay = Delay::microseconds(1);

    /// A ring whose kernel takes what it is told to. Its queue has been around a few times.
    #[repr(C)]
    struct Fake {
        ring: Ring,
        head: AtomicU32,
        tail: AtomicU32,
        mask: u32,
        sqes: [Sqe; ENTRIES as usize],
        takes: u32,
    }

    impl Fake {
        fn new(sqes: &[Sqe]) -> Box<Self> {
            let start = u32::MAX - 5;
            let mut fake = Box::new(Self {
                ring: Ring {
                    submission: SubmissionQueue {
                        kernel_head: std::ptr::null(),
                        kernel_tail: std::ptr::null(),
                        kernel_mask: std::ptr::null(),
                        kernel_entries: std::ptr::null(),
                        unused: [0; 3],
                        sqes: std::ptr::null_mut(),
                        told: start,
                        filled: start.wrapping_add(sqes.len() as u32),
                        also_unused: [0; 4],
                    },
                    completion: [0; 11],
                    flags: 0,
                    descriptor: -1,
                    features: FEATURE_CQE_SKIP,
                },
                head: AtomicU32::new(start),
                tail: AtomicU32::new(start),
                mask: ENTRIES - 1,
                sqes: [Sqe::default(); ENTRIES as usize],
                takes: u32::MAX,
            });
            for (distance, sqe) in sqes.iter().enumerate() {
                fake.sqes[(start.wrapping_add(distance as u32) & fake.mask) as usize] = *sqe;
            }
            let this = &raw mut *fake;
            // SAFETY: its own fields, which stay in their box.
            unsafe {
                let queue = &mut (*this).ring.submission;
                queue.kernel_head = &raw const (*this).head;
                queue.kernel_tail = &raw const (*this).tail;
                queue.kernel_mask = &raw const (*this).mask;
                queue.sqes = (&raw mut (*this).sqes).cast();
            }
            fake
        }

        fn pending(&mut self) -> Option<Pending> {
            // SAFETY: laid out as liburing's.
            unsafe { Pending::of((&raw mut *self).cast()) }
        }

        /// What is in the queue and was not taken.
        fn left(&self) -> Vec<Sqe> {
            let head = self.head.load(Ordering::Relaxed);
            let count = self.ring.submission.filled.wrapping_sub(head);
            (0..count)
                .map(|distance| self.sqes[(head.wrapping_add(distance) & self.mask) as usize])
                .collect()
        }
    }

    /// What liburing does, and the kernel.
    unsafe extern "C" fn submit(ring: *mut Ring) -> c_int {
        // SAFETY: the tests' own.
        let fake = unsafe { &mut *ring.cast::<Fake>() };
        fake.ring.submission.told = fake.ring.submission.filled;
        fake.tail.store(fake.ring.submission.told, Ordering::Relaxed);
        let takes = (fake.left().len() as u32).min(fake.takes);
        fake.head.fetch_add(takes, Ordering::Relaxed);
        fake.takes = u32::MAX;
        takes as c_int
    }

    fn read(user_data: u64) -> Sqe {
        Sqe { opcode: OP_READV, user_data, ..Sqe::default() }
    }

    fn reads(range: std::ops::Range<u64>) -> Vec<Sqe> {
        range.map(read).collect()
    }

    #[test]
    fn only_plain_entries_are_handed_over() {
        let others = [
            Sqe { opcode: 0, ..read(1) },
            Sqe { offset: u64::MAX, ..read(2) },
            Sqe { flags: SQE_LINK, ..read(3) },
            read(4), // Linked to.
            Sqe { flags: 1 << 1, ..read(5) },
            Sqe { flags: 1 << 5, ..read(6) },
        ];
        let mut fake = Fake::new(&others);
        assert_eq!(fake.pending().unwrap().hand_over(), 0);
        assert_eq!(fake.left(), others);

        let mut fake = Fake::new(&[read(1), Sqe { flags: SQE_FIXED_FILE, ..read(2) }]);
        assert_eq!(fake.pending().unwrap().hand_over(), 2);
        let flags: Vec<u8> = fake.left().iter().map(|sqe| sqe.flags).collect();
        assert_eq!(flags, [SQE_ASYNC, SQE_ASYNC | SQE_FIXED_FILE]);
    }

    #[test]
    fn rings_of_other_kinds_are_left_alone() {
        for bit in (0..32).filter(|bit| PLAIN_RINGS & 1 << bit == 0) {
            let mut fake = Fake::new(&reads(0..3));
            fake.ring.flags = 1 << bit;
            assert!(fake.pending().is_none(), "flag {bit}");
        }
        assert!(Fake::new(&[]).pending().is_none());
    }

    #[test]
    fn there_has_to_be_room_and_silence_to_hold_back() {
        for (count, features) in [(9, FEATURE_CQE_SKIP), (8, 0)] {
            let mut fake = Fake::new(&reads(0..count));
            fake.ring.features = features;
            assert!(fake.pending().unwrap().hold_back(&DELAY).is_err());
            assert_eq!(fake.left().len(), count as usize);
        }
        let mut fake = Fake::new(&[read(1), Sqe { opcode: 0, ..read(2) }]);
        assert!(fake.pending().unwrap().hold_back(&DELAY).is_err());
    }

    #[test]
    fn requests_are_submitted_once_whatever_the_kernel_takes() {
        for count in 1..=8 {
            for takes in 0..=2 * count {
                let mut fake = Fake::new(&reads(0..u64::from(count)));
                fake.takes = takes;
                let Ok(held) = fake.pending().unwrap().hold_back(&DELAY) else {
                    panic!("not held back");
                };
                let queue: Vec<_> = fake.left().iter().map(|sqe| (sqe.opcode, sqe.flags)).collect();
                let pair = [(OP_TIMEOUT, SQE_LINK | SQE_SKIP_SUCCESS), (OP_READV, 0)];
                assert_eq!(queue, pair.repeat(count as usize));
                // SAFETY: the fake's own function.
                let answer = unsafe { held.submit(submit) };
                // Where no request was taken, a second call takes all.
                let taken = if takes < 2 { count } else { takes / 2 };
                assert_eq!(answer, taken as c_int, "{takes} of {count}");
                let left: Vec<u64> = fake.left().iter().map(|sqe| sqe.user_data).collect();
                assert_eq!(left, (u64::from(taken)..count.into()).collect::<Vec<_>>());
                let queue = &fake.ring.submission;
                assert_eq!(queue.told, fake.head.load(Ordering::Relaxed));
                assert_eq!(queue.told, fake.tail.load(Ordering::Relaxed));
            }
        }
    }
}
