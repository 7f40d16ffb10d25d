// SPDX-License-Identifier: MIT OR Apache-2.0

//! The completion ring that io_setup(2) maps into the process.
//!
//! The kernel writes events and moves `tail`; whoever reaps moves `head`. The layout is the
//! kernel's `struct aio_ring` (fs/aio.c). It is in no header, but it carries a magic number and a
//! word of incompatible features, which are checked before anything else is believed.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use super::sys::{aio_context_t, io_event};
use crate::kernel::Completion;

const MAGIC: u32 = 0xa10a_10a1;
const KNOWN_INCOMPAT_FEATURES: u32 = 0;

#[repr(C)]
struct Header {
    id: u32,
    /// Slots in the ring.
    nr: u32,
    head: AtomicU32,
    tail: AtomicU32,
    magic: u32,
    compat_features: u32,
    incompat_features: u32,
    header_length: u32,
}

/// A mapped ring. Only one reaper at a time: the engine's state is used by one thread.
pub struct Ring {
    header: NonNull<Header>,
    events: NonNull<io_event>,
    /// Copied at the start: the mapped word is writable by any stray pointer of the process.
    slots: u32,
}

impl Ring {
    /// The ring of `context`, or `None` when it is not of the one kind that is known here.
    ///
    /// # Safety
    ///
    /// `context` came from io_setup(2) in this process and outlives the ring.
    pub unsafe fn of(context: aio_context_t) -> Option<Self> {
        let header =
            NonNull::new(std::ptr::with_exposed_provenance_mut::<Header>(context as usize))?;
        // SAFETY: a context's value is the address of its mapped ring, readable and writable.
        unsafe { Self::at(header) }
    }

    /// # Safety
    ///
    /// `header` points to a readable, writable ring that outlives the result.
    unsafe fn at(header: NonNull<Header>) -> Option<Self> {
        // SAFETY: the caller's promise; the fields read here do not change after the set-up.
        let fixed = unsafe { header.as_ref() };
        let known = fixed.magic == MAGIC
            && fixed.incompat_features == KNOWN_INCOMPAT_FEATURES
            && fixed.header_length as usize == size_of::<Header>()
            && fixed.nr > 0;
        if !known {
            return None;
        }
        // SAFETY: in a ring of the known kind the events follow the header.
        let events = unsafe { header.add(1) }.cast();
        Some(Self { header, events, slots: fixed.nr })
    }

    fn header(&self) -> &Header {
        // SAFETY: mapped for as long as the ring lives; what changes in it is atomic.
        unsafe { self.header.as_ref() }
    }

    /// The slot to reap next, if the kernel has filled it.
    #[inline]
    fn next_slot(&self) -> Option<u32> {
        // Only the reaper moves `head`, and that is this thread.
        let head = self.header().head.load(Ordering::Relaxed);
        // Acquire: the event was written before the tail that announces it.
        let tail = self.header().tail.load(Ordering::Acquire);
        // A head out of the ring would be a stray write of the process, and is not followed.
        if head != tail && head < self.slots { Some(head) } else { None }
    }

    pub fn has_events(&self) -> bool {
        self.next_slot().is_some()
    }

    /// Copies the oldest event out and gives its slot back.
    #[inline]
    pub fn take(&self) -> Option<Completion> {
        let slot = self.next_slot()?;
        // SAFETY: `slot` is below `slots`, and the kernel writes no slot between head and tail.
        let event = unsafe { self.events.add(slot as usize).as_ref() };
        let completion = Completion::from(event);
        // Release: the copy is done before the kernel may write the slot again.
        let next = if slot + 1 == self.slots { first_slot() } else { slot + 1 };
        self.header().head.store(next, Ordering::Release);
        Some(completion)
    }
}

/// Behind the last one. So rare that a branch, which is foreseen, costs less than a choice.
#[cold]
fn first_slot() -> u32 {
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOTS: usize = 3;

    #[repr(C)]
    struct Memory {
        header: Header,
        events: [io_event; SLOTS],
    }

    fn memory() -> Box<Memory> {
        Box::new(Memory {
            header: Header {
                id: 0,
                nr: SLOTS as u32,
                head: AtomicU32::new(0),
                tail: AtomicU32::new(0),
                magic: MAGIC,
                compat_features: 1,
                incompat_features: KNOWN_INCOMPAT_FEATURES,
                header_length: size_of::<Header>() as u32,
            },
            events: [io_event::default(); SLOTS],
        })
    }

    fn ring(memory: &mut Memory) -> Option<Ring> {
        // SAFETY: every test keeps its memory longer than the ring.
        unsafe { Ring::at(NonNull::from(memory).cast()) }
    }

    /// What the kernel does: write the event, then announce it.
    fn complete(memory: *mut Memory, data: u64) {
        // SAFETY: the tests use the memory from this one thread.
        unsafe {
            let tail = (*memory).header.tail.load(Ordering::Relaxed);
            (*memory).events[tail as usize].data = data;
            (*memory).header.tail.store((tail + 1) % SLOTS as u32, Ordering::Release);
        }
    }

    #[test]
    fn the_header_is_the_kernels() {
        assert_eq!(size_of::<Header>(), 32);
        assert_eq!(std::mem::offset_of!(Header, head), 8);
        assert_eq!(std::mem::offset_of!(Header, magic), 16);
    }

    #[test]
    fn events_come_out_in_order_and_around_the_end() {
        let mut memory = memory();
        let raw: *mut Memory = &mut *memory;
        // SAFETY: as in `ring`.
        let ring = unsafe { Ring::at(NonNull::new(raw).unwrap().cast()) }.unwrap();
        assert!(!ring.has_events());
        assert!(ring.take().is_none());
        for round in 0..10 {
            complete(raw, round * 2);
            complete(raw, round * 2 + 1);
            assert!(ring.has_events());
            assert_eq!(ring.take().unwrap().token, round * 2);
            assert_eq!(ring.take().unwrap().token, round * 2 + 1);
            assert!(ring.take().is_none());
        }
    }

    #[test]
    fn an_unknown_ring_is_not_touched() {
        let changes: [fn(&mut Header); 4] = [
            |header| header.magic = 0,
            |header| header.incompat_features = 1,
            |header| header.header_length = 64,
            |header| header.nr = 0,
        ];
        for change in changes {
            let mut memory = memory();
            change(&mut memory.header);
            assert!(ring(&mut memory).is_none());
        }
        assert!(ring(&mut memory()).is_some());
    }
}
