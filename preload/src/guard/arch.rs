// SPDX-License-Identifier: MIT OR Apache-2.0

//! The registers that finding the frames of a stack takes, by their numbers in unwind tables.

use gimli::Register;

/// Where a frame is.
#[derive(Clone, Copy)]
pub struct Registers {
    pub instruction: usize,
    pub stack_pointer: usize,
    pub frame_pointer: Kept,
}

/// A register that functions keep for their callers.
#[derive(Clone, Copy)]
pub enum Kept {
    Value(usize),
    /// Where it was put. Few functions need it, so it is read when it is needed.
    At(usize),
    Lost,
}

#[cfg(target_arch = "x86_64")]
mod numbers {
    pub const FRAME_POINTER: u16 = 6;
    pub const STACK_POINTER: u16 = 7;
    pub const RETURN_ADDRESS: u16 = 16;
}

#[cfg(target_arch = "aarch64")]
mod numbers {
    pub const FRAME_POINTER: u16 = 29;
    pub const STACK_POINTER: u16 = 31;
    pub const RETURN_ADDRESS: u16 = 30;
}

// No register has these numbers, so no frame is ever found, and guard mode sees no nesting.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod numbers {
    pub const FRAME_POINTER: u16 = u16::MAX;
    pub const STACK_POINTER: u16 = u16::MAX - 1;
    pub const RETURN_ADDRESS: u16 = u16::MAX - 2;
}

pub const FRAME_POINTER: Register = Register(numbers::FRAME_POINTER);
pub const STACK_POINTER: Register = Register(numbers::STACK_POINTER);
pub const RETURN_ADDRESS: Register = Register(numbers::RETURN_ADDRESS);

impl Registers {
    /// Those of the function that this is expanded into. The instruction is the next, as a return address
    /// is: the one before belongs to the same row of the tables.
    #[inline(always)]
    pub fn here() -> Self {
        let (instruction, stack_pointer, frame_pointer): (usize, usize, usize);
        // SAFETY: copies three registers.
        #[cfg(target_arch = "x86_64")]
        unsafe {
            std::arch::asm!(
                "lea {}, [rip]",
                "mov {}, rsp",
                "mov {}, rbp",
                out(reg) instruction,
                out(reg) stack_pointer,
                out(reg) frame_pointer,
                options(nomem, nostack, preserves_flags),
            );
        }
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        unsafe {
            std::arch::asm!(
                "adr {}, . + 4",
                "mov {}, sp",
                "mov {}, x29",
                out(reg) instruction,
                out(reg) stack_pointer,
                out(reg) frame_pointer,
                options(nomem, nostack, preserves_flags),
            );
        }
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        {
            (instruction, stack_pointer, frame_pointer) = (0, 0, 0);
        }
        Self { instruction, stack_pointer, frame_pointer: Kept::Value(frame_pointer) }
    }
}

/// A return address as it was before it was signed (arm64's pointer authentication).
pub fn unsigned(return_address: usize) -> usize {
    if cfg!(target_arch = "aarch64") { return_address & ((1 << 48) - 1) } else { return_address }
}
