// SPDX-License-Identifier: MIT OR Apache-2.0

//! What a request must do, told by the simplest means: a second copy of the files, and of the
//! request's memory, to which the rules of QEMU are applied one kernel result at a time.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ffi::{c_int, c_void};

use laio_engine::LaioStats;
use laio_engine::kernel::{Entry, Opcode};
use laio_engine::request::{REQ_FUA, aio_type};
use libc::iovec;

use crate::config::Config;
use crate::world::World;

/// Each request has a descriptor of its own, so that its entry tells whose it is.
pub const FIRST_FD: c_int = 100;
pub const FILES: usize = 2;
/// Filled in around and between the parts of a request's memory.
const GUARD: u8 = 0xEE;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Read,
    Write,
    Flush,
    ZoneAppend,
}

impl Kind {
    pub fn number(self) -> c_int {
        match self {
            Self::Read => aio_type::READ,
            Self::Write => aio_type::WRITE,
            Self::Flush => aio_type::FLUSH,
            Self::ZoneAppend => aio_type::ZONE_APPEND,
        }
    }

    pub fn writes(self) -> bool {
        matches!(self, Self::Write | Self::ZoneAppend)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    Callback,
    Coroutine(usize),
    /// The thread itself, driving the event loop until its request is done.
    Thread,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    /// In the engine's queue.
    Queued,
    /// With the kernel, or in its ring.
    Kernel,
    /// The result is known, and its owner must learn it.
    Due(c_int),
    /// The owner learned it.
    Done(c_int),
    /// The engine said no.
    Refused,
}

impl Status {
    /// Whether the engine has nothing more to do for it.
    pub fn is_over(self) -> bool {
        !matches!(self, Self::Queued | Self::Kernel)
    }
}

/// What follows from a result of the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    Final(c_int),
    Retry,
}

/// All of an entry.
pub type EntryBytes = [u8; size_of::<Entry>()];

pub struct Request {
    pub slot: usize,
    pub kind: Kind,
    pub file: usize,
    pub fd: c_int,
    pub offset: usize,
    pub fua: bool,
    /// The batch that it wants to be part of.
    pub batch: u64,
    pub bytes: usize,
    pub done: usize,
    /// It was begun again from its start, when so many bytes were done.
    begun_again: Option<usize>,
    fruitless: u32,
    pub status: Status,
    pub owner: Owner,
    /// What the kernel was told the request is called, from its first submission on.
    pub name: Option<u64>,
    /// The kernel said nothing of it, so that it is submitted again just as it was: like this.
    pub again: Option<EntryBytes>,
    pub parts: Box<[iovec]>,
    /// The parts, with guards around them. Only used through `memory`'s address once submitted.
    memory: *mut [u8],
    /// What `memory` must look like.
    image: Vec<u8>,
    /// For the callback: which request of which world.
    pub ticket: Box<(*const World, usize)>,
}

impl Drop for Request {
    fn drop(&mut self) {
        // SAFETY: came from a box in `new`.
        drop(unsafe { Box::from_raw(self.memory) });
    }
}

impl Request {
    /// A request with parts of these lengths; a writer's bytes are made from `id`.
    pub fn new(world: &World, id: usize, slot: usize, kind: Kind, lengths: &[usize]) -> Self {
        let bytes: usize = lengths.iter().sum();
        let mut image = vec![GUARD; bytes + lengths.len() + 1];
        let mut position = 1;
        let mut starts = [0; 8];
        for (part, &length) in lengths.iter().enumerate() {
            starts[part] = position;
            if kind.writes() {
                for (index, byte) in image[position..position + length].iter_mut().enumerate() {
                    *byte = (id * 31 + part * 7 + index) as u8 | 1;
                }
            }
            position += length + 1;
        }
        let memory: *mut [u8] = Box::into_raw(image.clone().into_boxed_slice());
        let base: *mut u8 = memory.cast();
        let parts = lengths
            .iter()
            .enumerate()
            .map(|(part, &iov_len)| iovec {
                iov_base: base.wrapping_add(starts[part]).cast(),
                iov_len,
            })
            .collect();
        Self {
            slot,
            kind,
            file: 0,
            fd: FIRST_FD + id as c_int,
            offset: 0,
            fua: false,
            batch: 1,
            bytes,
            done: 0,
            begun_again: None,
            fruitless: 0,
            status: Status::Queued,
            owner: Owner::Callback,
            name: None,
            again: None,
            parts,
            memory,
            image,
            ticket: Box::new((world, id)),
        }
    }

    pub fn opaque(&self) -> *mut c_void {
        std::ptr::from_ref(&*self.ticket).cast_mut().cast()
    }

    pub fn flags(&self) -> u32 {
        if self.fua { REQ_FUA } else { 0 }
    }

    /// The address and length of each non-empty part behind the first `skip` bytes.
    fn segments(&self, mut skip: usize) -> impl Iterator<Item = (usize, usize)> {
        self.parts.iter().filter_map(move |part| {
            let skipped = skip.min(part.iov_len);
            skip -= skipped;
            (part.iov_len > skipped)
                .then(|| (part.iov_base.addr() + skipped, part.iov_len - skipped))
        })
    }

    /// What is wrong with `entry` as the request for what is left, if anything.
    pub fn fault_of(&self, entry: &Entry, eventfd: c_int) -> Option<&'static str> {
        let opcode = match self.kind {
            Kind::Read => Opcode::Read,
            Kind::Write | Kind::ZoneAppend => Opcode::Write,
            Kind::Flush => Opcode::DataSync,
        };
        if entry.opcode() != opcode {
            return Some("the opcode is wrong");
        }
        if entry.eventfd() != Some(eventfd) {
            return Some("the completion would not signal the eventfd");
        }
        if self.name.is_some_and(|name| name != entry.token()) {
            return Some("it has another name than at its first submission");
        }
        if entry.is_durable() != (self.fua && self.kind.writes()) {
            return Some("the flags are wrong");
        }
        if self.kind == Kind::Flush {
            return None;
        }
        if entry.offset() != (self.offset + self.done) as i64 {
            return Some("the offset is not where the last try stopped");
        }
        // SAFETY: the kernel would read the same.
        let asked = unsafe { vector_of(entry) };
        let asked = asked
            .iter()
            .filter(|part| part.iov_len > 0)
            .map(|part| (part.iov_base.addr(), part.iov_len));
        (!asked.eq(self.segments(self.done))).then_some("the vector is not what is left")
    }

    /// Writes `from` into the expected memory, from the `at`th byte of the request on.
    fn expect_bytes(&mut self, mut at: usize, mut from: &[u8]) {
        let base = self.memory.cast::<u8>().addr();
        for part in &self.parts {
            let skipped = at.min(part.iov_len);
            at -= skipped;
            let length = (part.iov_len - skipped).min(from.len());
            let start = part.iov_base.addr() - base + skipped;
            self.image[start..start + length].copy_from_slice(&from[..length]);
            from = &from[length..];
        }
    }

    /// The bytes to be written, from the `at`th on, `length` of them.
    fn bytes_at(&self, at: usize, length: usize) -> Vec<u8> {
        let base = self.memory.cast::<u8>().addr();
        let all = self.parts.iter().flat_map(|part| {
            let start = part.iov_base.addr() - base;
            self.image[start..start + part.iov_len].iter().copied()
        });
        all.skip(at).take(length).collect()
    }

    /// Follows a transfer of `length` bytes, in the model's own `file`.
    pub fn transferred(&mut self, file: &mut Vec<u8>, length: usize) {
        let position = self.offset + self.done;
        match self.kind {
            Kind::Flush => {}
            Kind::Read => {
                let from = file.iter().skip(position).take(length);
                self.expect_bytes(self.done, &from.copied().collect::<Vec<_>>());
            }
            Kind::Write | Kind::ZoneAppend => {
                if length > 0 {
                    file.resize(file.len().max(position + length), 0);
                    file[position..position + length]
                        .copy_from_slice(&self.bytes_at(self.done, length));
                }
            }
        }
    }

    /// QEMU's rules for the result `res` of one try.
    pub fn verdict(&mut self, res: i64, size: Option<usize>, config: &Config) -> Verdict {
        let position = self.offset + self.done;
        let at_end = size.is_some_and(|size| size <= position);
        let einval = res == -i64::from(libc::EINVAL);
        if let Some(before) = self.begun_again {
            return self.verdict_of_second_try(res, before, size, config);
        }
        match (self.kind, res) {
            (Kind::Flush, res) => Verdict::Final(res.min(0) as c_int),
            (Kind::Read, _) if einval && self.done > 0 && at_end => self.zero_the_rest(),
            (Kind::Read | Kind::Write, _) if einval && self.done > 0 => {
                self.begun_again = Some(std::mem::take(&mut self.done));
                Verdict::Retry
            }
            (Kind::Write, res) if res == -i64::from(libc::EFBIG) && self.done > 0 => {
                Verdict::Final(-libc::ENOSPC)
            }
            (_, res) if res < 0 => Verdict::Final(res as c_int),
            (_, res) if res as usize == self.bytes - self.done => Verdict::Final(0),
            (Kind::ZoneAppend, _) | (Kind::Write, 0) => Verdict::Final(-libc::ENOSPC),
            (Kind::Read, 0) => self.zero_the_rest(),
            (_, res) => self.go_on(res as usize, config),
        }
    }

    /// Part was transferred: the rest is tried, unless a write would go beyond the limit.
    fn go_on(&mut self, transferred: usize, config: &Config) -> Verdict {
        self.done += transferred;
        let beyond = self.offset + self.done >= config.size_limit && config.sizes_known;
        match self.kind {
            Kind::Write if beyond => Verdict::Final(-libc::ENOSPC),
            _ => Verdict::Retry,
        }
    }

    /// The rest began where the device could not, so all of it was tried once more. `before` bytes
    /// had been transferred.
    fn verdict_of_second_try(
        &mut self,
        res: i64,
        before: usize,
        size: Option<usize>,
        config: &Config,
    ) -> Verdict {
        if res == -i64::from(libc::EFBIG) && self.kind == Kind::Write {
            return Verdict::Final(-libc::ENOSPC);
        }
        let ends_here = |at: usize| size.is_some_and(|size| size <= self.offset + at);
        if res == -i64::from(libc::EINVAL) && self.kind == Kind::Read && ends_here(0) {
            return self.zero_the_rest();
        }
        if res < 0 {
            return Verdict::Final(res as c_int);
        }
        let transferred = res as usize;
        if transferred == self.bytes {
            return Verdict::Final(0);
        }
        if transferred > before {
            self.begun_again = None;
            self.fruitless = 0;
            return self.go_on(transferred, config);
        }
        if self.kind == Kind::Write {
            return Verdict::Final(-libc::ENOSPC);
        }
        if ends_here(before) {
            self.done = before;
            return self.zero_the_rest();
        }
        self.fruitless += 1;
        if self.fruitless < 8 { Verdict::Retry } else { Verdict::Final(-libc::EINVAL) }
    }

    fn zero_the_rest(&mut self) -> Verdict {
        let zeros = vec![0; self.bytes - self.done];
        self.expect_bytes(self.done, &zeros);
        Verdict::Final(0)
    }

    /// Whether the engine keeps something for it that is not part of the request: a rest.
    pub fn has_rest(&self) -> bool {
        self.done > 0 || self.begun_again.is_some()
    }

    pub fn memory_is_as_expected(&self) -> bool {
        // SAFETY: not freed before `drop`, and nobody writes to it now.
        unsafe { &*self.memory == self.image.as_slice() }
    }
}

/// The vector of a submitted entry.
///
/// # Safety
///
/// It has one, as every entry but a flush's.
pub unsafe fn vector_of<'a>(entry: &Entry) -> &'a [iovec] {
    let (parts, count) = entry.vector();
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(parts, count) }
}

/// The model of one state: its queue, and what it must have counted.
#[derive(Default)]
pub struct StateModel {
    pub queue: RefCell<VecDeque<usize>>,
    pub counts: Cell<LaioStats>,
    pub plugs: Cell<u32>,
    /// The batch that the last request wanted to be part of.
    pub wanted_batch: Cell<u64>,
}

impl StateModel {
    pub fn count(&self, change: impl FnOnce(&mut LaioStats)) {
        let mut counts = self.counts.get();
        change(&mut counts);
        self.counts.set(counts);
    }
}
