// SPDX-License-Identifier: MIT OR Apache-2.0

//! The program's memory, read by the kernel.
//!
//! What guard mode looks at it only believes to be there: a stack that may have ended a page ago, a
//! return address that may be anything, an iocb that the kernel would have answered EFAULT for.
//! process_vm_readv(2) on the own process says that something cannot be read where a load would be
//! a SIGSEGV, and there is no moment between a check and the load in which another thread could
//! unmap it. Nothing in guard mode dereferences an address of the program's but this.

use std::cell::Cell;
use std::mem::MaybeUninit;

use libc::{iovec, pid_t};

/// Bytes that are read at a time, around what was asked for: the frames of a few small functions.
const PIECE: usize = 64;
/// As many of them lie before what was asked for. A frame pointer is kept next to the return
/// address, below it.
const BEFORE: usize = 16;
/// Pieces that are kept. QEMU has one for each call of io_submit, because of the large frame
/// between them, and one for the iocb.
const PIECES: usize = 10;

/// Where a thread looked last time, and is likely to look again. Read all at once they cost less
/// than half of what they cost one by one.
pub struct Hints {
    count: Cell<usize>,
    /// From the mark.
    distances: [Cell<usize>; PIECES],
}

impl Hints {
    pub const fn new() -> Self {
        Self { count: Cell::new(0), distances: [const { Cell::new(0) }; PIECES] }
    }
}

/// The memory, and what was last read of it.
pub struct Memory {
    pid: pid_t,
    count: usize,
    last_used: usize,
    pieces: [Piece; PIECES],
    bytes: [[u8; PIECE]; PIECES],
}

#[derive(Clone, Copy)]
struct Piece {
    start: usize,
    length: usize,
}

impl Piece {
    const NONE: Self = Self { start: 0, length: 0 };

    fn offset_of(&self, address: usize) -> Option<usize> {
        let offset = address.checked_sub(self.start)?;
        (offset.checked_add(size_of::<usize>())? <= self.length).then_some(offset)
    }
}

impl Memory {
    pub fn new() -> Self {
        // Not kept from one call to the next: the child of a fork has another.
        // SAFETY: always safe.
        let pid = unsafe { libc::getpid() };
        Self {
            pid,
            count: 0,
            last_used: 0,
            pieces: [Piece::NONE; PIECES],
            bytes: [[0; PIECE]; PIECES],
        }
    }

    /// Reads what was looked at when `hints` were [left](Self::leave_hints).
    pub fn follow(&mut self, hints: &Hints, mark: usize) {
        let count = hints.count.get().min(PIECES);
        let mut remote = [iovec { iov_base: std::ptr::null_mut(), iov_len: PIECE }; PIECES];
        for ((hint, piece), remote) in
            hints.distances.iter().zip(&mut self.pieces).zip(&mut remote[..count])
        {
            piece.start = mark.wrapping_add(hint.get());
            remote.iov_base = std::ptr::without_provenance_mut(piece.start);
        }
        // SAFETY: as many bytes as all pieces together.
        let mut length =
            unsafe { read(self.pid, &remote[..count], self.bytes.as_mut_ptr().cast()) };
        for piece in &mut self.pieces[..count] {
            piece.length = length.min(PIECE);
            length -= piece.length;
        }
        self.count = count;
    }

    /// So that the next one can read the same at once, at the same distances from `mark`.
    pub fn leave_hints(&self, hints: &Hints, mark: usize) {
        for (hint, piece) in hints.distances.iter().zip(&self.pieces[..self.count]) {
            hint.set(piece.start.wrapping_sub(mark));
        }
        hints.count.set(self.count);
    }

    /// The word at an address, or `None` if it cannot be read.
    pub fn word(&mut self, address: usize) -> Option<usize> {
        let (index, offset) = match self.find(address) {
            Some(found) => found,
            None => self.fetch(address)?,
        };
        let bytes = self.bytes[index].get(offset..offset + size_of::<usize>())?;
        Some(usize::from_ne_bytes(bytes.try_into().ok()?))
    }

    fn find(&mut self, address: usize) -> Option<(usize, usize)> {
        // What is looked for lies in the same piece as the last, or in the next, mostly.
        let (before, after) = self.pieces[..self.count].split_at(self.last_used.min(self.count));
        let order = after.iter().zip(self.last_used..).chain(before.iter().zip(0..));
        for (piece, index) in order {
            if let Some(offset) = piece.offset_of(address) {
                self.last_used = index;
                return Some((index, offset));
            }
        }
        None
    }

    #[cold]
    fn fetch(&mut self, address: usize) -> Option<(usize, usize)> {
        let index = self.count.min(PIECES - 1);
        self.count = index + 1;
        self.last_used = index;
        // What lies before may be out of reach where the word itself is not.
        for start in [address.wrapping_sub(BEFORE), address] {
            let remote =
                [iovec { iov_base: std::ptr::without_provenance_mut(start), iov_len: PIECE }];
            // SAFETY: a piece.
            let length = unsafe { read(self.pid, &remote, self.bytes[index].as_mut_ptr()) };
            self.pieces[index] = Piece { start, length };
            if let Some(offset) = self.pieces[index].offset_of(address) {
                return Some((index, offset));
            }
        }
        None
    }

    /// The values at two addresses, or `None` if they cannot both be read.
    ///
    /// # Safety
    ///
    /// `A` and `B` are made of integers: whatever bytes are there are one.
    pub unsafe fn values<A: Copy, B: Copy>(&self, a: usize, b: usize) -> Option<(A, B)> {
        #[repr(C, packed)]
        struct Both<A, B>(A, B);
        let mut both = MaybeUninit::<Both<A, B>>::uninit();
        let remote = [(a, size_of::<A>()), (b, size_of::<B>())].map(|(address, iov_len)| iovec {
            iov_base: std::ptr::without_provenance_mut(address),
            iov_len,
        });
        // SAFETY: room for both.
        let length = unsafe { read(self.pid, &remote, both.as_mut_ptr().cast()) };
        if length < size_of::<Both<A, B>>() {
            return None;
        }
        // SAFETY: written completely, and the caller's promise.
        let Both(a, b) = unsafe { both.assume_init() };
        Some((a, b))
    }
}

/// Copies what `from` names, of this process, until something cannot be read; returns how many bytes
/// there were.
///
/// # Safety
///
/// `to` has room for all of it.
unsafe fn read(pid: pid_t, from: &[iovec], to: *mut u8) -> usize {
    let length = from.iter().map(|piece| piece.iov_len).sum();
    let local = iovec { iov_base: to.cast(), iov_len: length };
    // SAFETY: the kernel writes to `to`, and says so where `from` cannot be read.
    let read = unsafe {
        libc::process_vm_readv(pid, &local, 1, from.as_ptr(), from.len() as libc::c_ulong, 0)
    };
    usize::try_from(read).unwrap_or(0)
}

/// Puts errno back when it goes out of scope: libaio's io_submit leaves it alone.
pub struct KeepErrno(i32);

impl KeepErrno {
    pub fn new() -> Self {
        // SAFETY: always valid in its thread.
        Self(unsafe { *libc::__errno_location() })
    }
}

impl Drop for KeepErrno {
    fn drop(&mut self) {
        // SAFETY: as above.
        unsafe { *libc::__errno_location() = self.0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = 4096;

    /// Two pages, of which the second cannot be read.
    fn ends_after_a_page() -> usize {
        // SAFETY: a new mapping.
        let pages = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                3 * PAGE,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        assert_ne!(pages, libc::MAP_FAILED);
        let middle = pages.addr() + PAGE;
        // SAFETY: a page of that mapping.
        let changed = unsafe {
            libc::mprotect(pages.byte_add(PAGE), PAGE, libc::PROT_READ | libc::PROT_WRITE)
        };
        assert_eq!(changed, 0);
        middle
    }

    #[test]
    fn a_word_is_read() {
        let words = [Cell::new(1usize), Cell::new(2), Cell::new(3)];
        let mut memory = Memory::new();
        assert_eq!(memory.word(words.as_ptr().addr() + 8), Some(2));
        assert_eq!(memory.word(words.as_ptr().addr()), Some(1));
    }

    #[test]
    fn what_cannot_be_read_is_nothing() {
        let mut memory = Memory::new();
        for address in [0, 1, 8, usize::MAX, usize::MAX - 7, 0x8000_0000_0000, 1 << 63] {
            assert_eq!(memory.word(address), None, "{address:#x}");
            let here = (&raw const address).addr();
            // SAFETY: integers.
            let values = unsafe { memory.values::<u64, usize>(address, here) };
            assert_eq!(values, None, "{address:#x}");
        }
    }

    #[test]
    fn hints_are_read_as_far_as_they_can_be() {
        let page = ends_after_a_page();
        let hints = Hints::new();
        let mut memory = Memory::new();
        for address in [page + 256, page + 1024, page + PAGE - 64] {
            assert_eq!(memory.word(address), Some(0));
        }
        memory.leave_hints(&hints, page);
        for (moved, words) in [(0, 3), (64, 2), (PAGE - 1000, 1), (PAGE, 0)] {
            let mut memory = Memory::new();
            memory.follow(&hints, page + moved);
            let known = [256, 1024, PAGE - 64]
                .map(|distance| memory.find(page + moved + distance).is_some());
            assert_eq!(known, [words > 0, words > 1, words > 2], "{moved}");
            assert_eq!(memory.word(page + PAGE), None);
        }
    }

    #[test]
    fn more_pieces_than_are_kept_can_be_read() {
        let words: Vec<usize> = (0..4096).collect();
        let mut memory = Memory::new();
        for index in (0..4096).step_by(100).chain((0..4096).rev().step_by(77)) {
            assert_eq!(memory.word((&raw const words[index]).addr()), Some(index));
        }
    }

    #[test]
    fn a_stack_is_read_up_to_its_last_word_on_both_sides() {
        let page = ends_after_a_page();
        for address in [page, page + 8, page + PAGE - PIECE, page + PAGE - 16, page + PAGE - 8] {
            assert_eq!(Memory::new().word(address), Some(0), "{:#x}", address - page);
        }
        for address in [page - 8, page - 4, page + PAGE - 4, page + PAGE, page + 2 * PAGE] {
            assert_eq!(Memory::new().word(address), None, "{:#x}", address.wrapping_sub(page));
        }
    }
}
