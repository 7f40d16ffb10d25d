// SPDX-License-Identifier: MIT OR Apache-2.0

//! What io_submit is called with. The program may have given it anything.

use std::ffi::{c_int, c_long};

use laio_engine::kernel::aio::sys::IOCB_FLAG_RESFD;

use super::Iocb;
use super::memory::Memory;

const WORDS: usize = size_of::<Iocb>() / size_of::<u64>();

/// The first of the requests that io_submit was called with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    context: usize,
    iocb: usize,
    content: [u64; WORDS],
}

impl Offer {
    pub const NONE: Self = Self { context: 0, iocb: 0, content: [0; WORDS] };

    /// `None` if there is no request, or the kernel will not find one either.
    pub fn new(
        memory: &mut Memory,
        context: usize,
        count: c_long,
        iocbs: *mut *mut Iocb,
    ) -> Option<Self> {
        if count <= 0 {
            return None;
        }
        let iocb = memory.word(iocbs.addr())?;
        // SAFETY: integers.
        let (content, ()) = unsafe { memory.values(iocb, iocb) }?;
        Some(Self { context, iocb, content })
    }

    pub fn context(&self) -> usize {
        self.context
    }

    /// Whether this is what io_submit is called with, at the head of `iocbs`.
    pub fn is_at(&self, memory: &Memory, iocbs: *mut *mut Iocb) -> bool {
        // SAFETY: integers.
        let found = unsafe { memory.values::<usize, [u64; WORDS]>(iocbs.addr(), self.iocb) };
        found == Some((self.iocb, self.content))
    }

    /// Whether an event loop that watches the request's eventfd finds it readable.
    pub fn eventfd_is_readable(&self) -> bool {
        // SAFETY: of the same size, and made of integers.
        let iocb = unsafe { std::mem::transmute::<[u64; WORDS], Iocb>(self.content) };
        if iocb.aio_flags & IOCB_FLAG_RESFD == 0 {
            return false;
        }
        let mut eventfd =
            libc::pollfd { fd: iocb.aio_resfd as c_int, events: libc::POLLIN, revents: 0 };
        let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // Not by libc's function: io_submit is no cancellation point, and that is one.
        // SAFETY: one entry, a time, and no signal mask.
        let ready = unsafe {
            libc::syscall(libc::SYS_ppoll, &raw mut eventfd, 1usize, &raw const now, 0usize, 0usize)
        };
        ready == 1 && eventfd.revents & libc::POLLIN != 0
    }
}
