// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the kernel does for a request: it moves bytes, all of them or some, or says why not.

use laio_engine::kernel::{Entry, Opcode};

use crate::kernel::SimKernel;
use crate::model::{Kind, vector_of};

impl SimKernel {
    /// Moves bytes between the file and the request's memory, as the entry says, and the model's.
    pub fn transfer(&self, id: usize, entry: &Entry) -> i64 {
        let (world, config) = (self.world, &self.world.config);
        let mut requests = world.requests.borrow_mut();
        let request = &mut requests[id];
        let calm = world.calm.get();
        if !calm && world.tape.chance(config.failure) {
            return self.failure();
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
