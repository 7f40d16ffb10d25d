// SPDX-License-Identifier: MIT OR Apache-2.0

//! Jumps in place of functions, on x86-64.
//!
//! The pages with the functions are copied from the executable's file, changed in the copy, made
//! executable, and then moved over the originals by one mremap(2). So code is never writable and
//! executable at once; a system that forbids changed code (SELinux, MemoryDenyWriteExecute) says so
//! while the originals are untouched; and there is no moment with half of the functions replaced.

use std::ffi::c_void;
use std::{ptr, slice};

use super::Refusal;
use super::executable::{Executable, Function};

/// `jmp`, and the distance: what fits into the shortest function, but does not reach us.
const NEAR_JUMP_SIZE: usize = 1 + size_of::<i32>();
/// `jmp *0(%rip)`, and then the address.
const FAR_JUMP: [u8; 6] = [0xff, 0x25, 0, 0, 0, 0];
const FAR_JUMP_SIZE: usize = FAR_JUMP.len() + size_of::<u64>();
/// What a function that may be called indirectly begins with, where the processor checks it.
const ENDBR64: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];
/// The functions come from two source files that are linked one behind the other; further apart they
/// are not what we think.
const MAX_SPAN: u64 = 64 << 10;

const CALL: u8 = 0xe8;
const NEAR_JUMP: u8 = 0xe9;

/// Changed code that has not taken its place yet.
pub struct Patch {
    copy: *mut c_void,
    original: *mut c_void,
    size: usize,
}

impl Patch {
    pub fn prepare(
        executable: &Executable,
        functions: &[(Function, usize)],
    ) -> Result<Self, Refusal> {
        let code = executable.code().ok_or("the executable is cut short")?;
        check_callers(executable, code, functions)?;
        let (largest, _) = *functions
            .iter()
            .max_by_key(|(function, _)| function.size)
            .ok_or("nothing to replace")?;
        // SAFETY: a number of the system.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as u64;
        let starts = functions.iter().map(|(function, _)| function.address);
        let ends = functions.iter().map(|(function, _)| function.address + function.size);
        let start = starts.min().unwrap_or(0) / page * page;
        let end = ends.max().unwrap_or(0).next_multiple_of(page);
        let text = executable.text;
        if end - start > MAX_SPAN || start < text.address || end > text.address + text.size {
            return Err("the functions to replace are not where they are expected".into());
        }
        let mut patch = Self::copy(executable, start, (end - start) as usize)?;
        // The far jumps stand in the largest function, which nobody needs any more.
        let first = ENDBR64.len() + NEAR_JUMP_SIZE;
        if first + functions.len() * FAR_JUMP_SIZE > largest.size as usize {
            return Err("the functions to replace are too short".into());
        }
        let mut far = (largest.address - start) as usize + first;
        for &(function, replacement) in functions {
            patch.write_far_jump(far, replacement);
            patch.write_near_jump((function.address - start) as usize, function.size, far)?;
            far += FAR_JUMP_SIZE;
        }
        patch.make_executable()?;
        Ok(patch)
    }

    /// A writable copy of the file's pages, if memory has the same.
    fn copy(executable: &Executable, start: u64, size: usize) -> Result<Self, Refusal> {
        let text = executable.text;
        // SAFETY: a new mapping.
        let copy = unsafe {
            libc::mmap(
                ptr::null_mut(),
                size,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE,
                executable.descriptor(),
                (text.offset + (start - text.address)) as libc::off_t,
            )
        };
        if copy == libc::MAP_FAILED {
            return Err(failed("copy"));
        }
        let patch = Self { copy, original: executable.in_memory(start), size };
        // SAFETY: the loader mapped the text segment, of which this is a part, readable.
        let original = unsafe { slice::from_raw_parts(patch.original.cast::<u8>(), size) };
        if original != patch.bytes() {
            return Err("somebody has changed the program's code already".into());
        }
        Ok(patch)
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: our own mapping.
        unsafe { slice::from_raw_parts(self.copy.cast(), self.size) }
    }

    /// Only before it is made executable.
    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: our own mapping, borrowed as it should be.
        unsafe { slice::from_raw_parts_mut(self.copy.cast(), self.size) }
    }

    fn write_far_jump(&mut self, at: usize, target: usize) {
        let (jump, address) = self.bytes_mut()[at..at + FAR_JUMP_SIZE].split_at_mut(FAR_JUMP.len());
        jump.copy_from_slice(&FAR_JUMP);
        address.copy_from_slice(&(target as u64).to_le_bytes());
    }

    fn write_near_jump(&mut self, at: usize, space: u64, target: usize) -> Result<(), Refusal> {
        let kept = match self.bytes()[at..].starts_with(&ENDBR64) {
            true => ENDBR64.len(),
            false => 0,
        };
        if space < (kept + NEAR_JUMP_SIZE) as u64 {
            return Err("a function is too short to be replaced".into());
        }
        let end = at + kept + NEAR_JUMP_SIZE;
        // Both lie within MAX_SPAN.
        let distance = target as i32 - end as i32;
        let (jump, operand) = self.bytes_mut()[at + kept..end].split_at_mut(1);
        jump.copy_from_slice(&[NEAR_JUMP]);
        operand.copy_from_slice(&distance.to_le_bytes());
        Ok(())
    }

    fn make_executable(&self) -> Result<(), Refusal> {
        // SAFETY: our own mapping.
        let done =
            unsafe { libc::mprotect(self.copy, self.size, libc::PROT_READ | libc::PROT_EXEC) };
        if done == 0 { Ok(()) } else { Err(failed("change")) }
    }

    /// Puts the code in its place.
    pub fn commit(self) -> Result<(), Refusal> {
        // SAFETY: replaces pages of the executable's code, of which no thread runs any yet, by the
        // same with jumps in place of the functions.
        let moved = unsafe {
            libc::mremap(
                self.copy,
                self.size,
                self.size,
                libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED,
                self.original,
            )
        };
        if moved == libc::MAP_FAILED {
            return Err(failed("replace"));
        }
        std::mem::forget(self);
        Ok(())
    }
}

impl Drop for Patch {
    fn drop(&mut self) {
        // SAFETY: our own mapping, which has not become the program's.
        unsafe { libc::munmap(self.copy, self.size) };
    }
}

fn failed(what: &str) -> Refusal {
    let error = std::io::Error::last_os_error();
    format!("cannot {what} the program's code: {error}").into()
}

/// Checks that the functions are called: a compiler that sees the whole program puts their code
/// into their callers instead, and some of the program would then go on with its own.
fn check_callers(
    executable: &Executable,
    code: &[u8],
    functions: &[(Function, usize)],
) -> Result<(), Refusal> {
    let mut called = vec![false; functions.len()];
    for (offset, window) in code.windows(5).enumerate() {
        let [CALL | NEAR_JUMP, distance @ ..] = window else {
            continue;
        };
        let Ok(distance) = <[u8; 4]>::try_from(distance) else {
            continue;
        };
        let target = (executable.text.address + offset as u64 + 5)
            .wrapping_add_signed(i32::from_le_bytes(distance).into());
        if let Some(index) = functions.iter().position(|(function, _)| function.address == target) {
            called[index] = true;
        }
    }
    if called.contains(&false) {
        return Err("the program does not call its laio_* or luring_* functions as such".into());
    }
    Ok(())
}
