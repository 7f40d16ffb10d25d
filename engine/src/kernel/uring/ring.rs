// SPDX-License-Identifier: MIT OR Apache-2.0

//! The submission queue (SQ) and the completion queue (CQ), both mapped.
//!
//! Ours are the SQ's tail and the CQ's head; the kernel moves the other two. All four count on and
//! wrap, so that `SQ tail - CQ head` is the number of requests in flight: each entry that the kernel
//! takes becomes one completion.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};

use super::set_up::{self, Mapping, SetUp, check};
use super::sys::*;
use crate::errno::Errno;
use crate::kernel::{Entry, Opcode, SetupError};

/// A completion, and whose it is.
pub struct Cqe {
    pub entry: *const Entry,
    pub res: i32,
}

/// A ring that one thread at a time uses.
pub struct Ring {
    sq_tail: NonNull<AtomicU32>,
    sqes: NonNull<io_uring_sqe>,
    /// A power of two, as the CQ's: a place is a count without its upper bits.
    sq_entries: u32,
    cq_mask: u32,
    cq_head: NonNull<AtomicU32>,
    cq_tail: NonNull<AtomicU32>,
    cqes: NonNull<io_uring_cqe>,
    // The mappings, for as long as the pointers into them; then the descriptor.
    _mappings: [Mapping; 2],
    fd: OwnedFd,
}

impl Ring {
    pub fn new(entries: u32) -> Result<Self, SetupError> {
        let SetUp { fd, params, rings, sqes } = SetUp::new(entries)?;
        let (sq, cq, sq_entries) = (&params.sq_off, &params.cq_off, params.sq_entries);
        let array = rings.at::<u32>(sq.array, sq_entries);
        for place in 0..sq_entries {
            // The array could let entries go in another order than they lie. They never do.
            // SAFETY: one of `sq_entries` places, and the kernel reads none before it is entered.
            unsafe { array.add(place as usize).write(place) };
        }
        Ok(Self {
            sq_tail: rings.at(sq.tail, 1),
            sqes: sqes.at(0, sq_entries),
            sq_entries,
            cq_mask: params.cq_entries - 1,
            cq_head: rings.at(cq.head, 1),
            cq_tail: rings.at(cq.tail, 1),
            cqes: rings.at(cq.cqes, params.cq_entries),
            _mappings: [rings, sqes],
            fd,
        })
    }

    pub fn register(&self, eventfd: RawFd) -> Result<(), SetupError> {
        set_up::register(&self.fd, eventfd)
    }

    pub fn entries(&self) -> u32 {
        self.sq_entries
    }

    pub fn in_flight(&self) -> u32 {
        let submitted = self.word(self.sq_tail).load(Ordering::Relaxed);
        submitted.wrapping_sub(self.word(self.cq_head).load(Ordering::Relaxed))
    }

    #[inline]
    fn word(&self, place: NonNull<AtomicU32>) -> &AtomicU32 {
        // SAFETY: mapped for as long as the ring lives, and only ever used as an atomic.
        unsafe { place.as_ref() }
    }

    /// Publishes the entries, enters, and takes back what the kernel did not take. They are marked
    /// as `submitter`'s.
    ///
    /// # Safety
    ///
    /// As [`Kernel::submit`](crate::kernel::Kernel::submit).
    #[inline]
    pub unsafe fn submit(&self, entries: &[*mut Entry], submitter: u32) -> Result<usize, Errno> {
        debug_assert!(entries.len() <= self.sq_entries as usize, "more than there is room for");
        let tail = self.word(self.sq_tail);
        // Only this thread moves it. The kernel has taken all up to here: the queue is empty.
        let start = tail.load(Ordering::Relaxed);
        for (index, &entry) in entries.iter().enumerate() {
            // SAFETY: the caller's promise; it is not with the kernel yet.
            unsafe { (*entry).set_submitter(submitter) };
            let place = start.wrapping_add(index as u32) & (self.sq_entries - 1);
            // SAFETY: one of `sq_entries` places, which the kernel reads only below the tail.
            unsafe { self.sqes.add(place as usize).write(sqe_of(entry)) };
        }
        let count = entries.len() as u32;
        // Release: the entries are written before they are announced.
        tail.store(start.wrapping_add(count), Ordering::Release);
        match self.enter(count, 0, 0) {
            Ok(taken) if taken as u32 == count => Ok(taken),
            answer => self.take_back(start, answer),
        }
    }

    /// Moves the tail back over what the kernel left, of entries that began at `start`. It looks at
    /// the tail only while it is entered, as nobody else polls this queue, so they are still ours.
    #[cold]
    fn take_back(&self, start: u32, answer: Result<usize, Errno>) -> Result<usize, Errno> {
        let taken = *answer.as_ref().unwrap_or(&0) as u32;
        self.word(self.sq_tail).store(start.wrapping_add(taken), Ordering::Release);
        match answer {
            // The completion queue was full at some time, and what did not fit waits in the kernel
            // until there is room: reaping makes it, as after EAGAIN.
            Err(Errno(libc::EBUSY)) => Err(Errno(libc::EAGAIN)),
            answer => answer,
        }
    }

    fn enter(&self, submit: u32, wait: u32, flags: u32) -> Result<usize, Errno> {
        loop {
            let (call, fd, no_mask) = (libc::SYS_io_uring_enter, self.fd.as_raw_fd(), 0usize);
            // SAFETY: the entries below the tail name memory that stays, by the promise of who put
            // them there.
            let answer =
                check(unsafe { libc::syscall(call, fd, submit, wait, flags, no_mask, 0usize) });
            if !matches!(answer, Err(Errno(libc::EINTR))) {
                return answer;
            }
        }
    }

    /// Sleeps until there is a completion.
    pub fn sleep(&self) -> Result<(), Errno> {
        self.enter(0, 1, IORING_ENTER_GETEVENTS).map(|_| ())
    }

    /// How often entries were taken out, if there is another one.
    #[inline]
    fn next_cqe(&self) -> Option<u32> {
        // Only the reaper moves the head, and that is this thread.
        let head = self.word(self.cq_head).load(Ordering::Relaxed);
        // Acquire: the entry was written before the tail that announces it.
        let tail = self.word(self.cq_tail).load(Ordering::Acquire);
        (head != tail).then_some(head)
    }

    pub fn has_cqes(&self) -> bool {
        self.next_cqe().is_some()
    }

    /// Copies the oldest completion out and gives its place back.
    #[inline]
    pub fn take(&self) -> Option<Cqe> {
        let head = self.next_cqe()?;
        // SAFETY: masked, so one of the places, and the kernel writes none between head and tail.
        let cqe = unsafe { self.cqes.add((head & self.cq_mask) as usize).as_ref() };
        let entry = ptr::with_exposed_provenance(cqe.user_data as usize);
        let taken = Cqe { entry, res: cqe.res };
        // Release: the copy is done before the kernel may write the place again.
        self.word(self.cq_head).store(head.wrapping_add(1), Ordering::Release);
        Some(taken)
    }
}

/// What the kernel reads for `entry`. The completion names the entry itself, and so finds who
/// submitted it.
///
/// # Safety
///
/// `entry` is valid.
#[inline]
unsafe fn sqe_of(entry: *mut Entry) -> io_uring_sqe {
    let user_data = entry.expose_provenance() as u64;
    // SAFETY: the caller's promise.
    let entry = unsafe { &*entry };
    let (parts, count) = entry.vector();
    let (opcode, op_flags) = match entry.opcode() {
        Opcode::Read => (IORING_OP_READV, entry.flags() as u32),
        Opcode::Write => (IORING_OP_WRITEV, entry.flags() as u32),
        Opcode::DataSync => (IORING_OP_FSYNC, IORING_FSYNC_DATASYNC),
    };
    io_uring_sqe {
        opcode,
        fd: entry.fd(),
        off: entry.offset() as u64,
        addr: parts.expose_provenance() as u64,
        len: count as u32,
        op_flags,
        user_data,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel reads for `entry`, without its opcode.
    fn read_for(mut entry: Entry, opcode: u8) -> (i32, u64, u64, u32, u32) {
        // SAFETY: a reference is valid.
        let sqe = unsafe { sqe_of(&raw mut entry) };
        assert_eq!((sqe.opcode, sqe.user_data), (opcode, (&raw const entry).addr() as u64));
        (sqe.fd, sqe.off, sqe.addr, sqe.len, sqe.op_flags)
    }

    /// Which a file does not show: whether a write was on stable storage when it completed, and how
    /// much a sync has synchronised.
    #[test]
    fn an_entry_is_read_by_the_kernel_as_it_was_meant() {
        let parts = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; 2];
        let vector = (parts.as_ptr(), parts.len());
        let place = parts.as_ptr().addr() as u64;
        let read = Entry::transfer(Opcode::Read, 3, vector, 4096);
        assert_eq!(read_for(read, IORING_OP_READV), (3, 4096, place, 2, 0));
        let write = || Entry::transfer(Opcode::Write, 4, vector, 512);
        assert_eq!(read_for(write(), IORING_OP_WRITEV), (4, 512, place, 2, 0));
        let durable = write().with_flags(libc::RWF_DSYNC);
        let flags = libc::RWF_DSYNC as u32;
        assert_eq!(read_for(durable, IORING_OP_WRITEV), (4, 512, place, 2, flags));
        let sync = Entry::data_sync(5);
        assert_eq!(read_for(sync, IORING_OP_FSYNC), (5, 0, 0, 0, IORING_FSYNC_DATASYNC));
    }
}
