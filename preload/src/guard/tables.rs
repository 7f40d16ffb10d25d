// SPDX-License-Identifier: MIT OR Apache-2.0

//! Where a function's caller is, by the function's unwind tables.
//!
//! Not by libgcc's unwinder, though it knows everything that there is to know: it loads what the
//! tables tell it to, return addresses included, and the outermost frame of a stack may have none. A
//! coroutine that is entered by a jump has whatever was there, and where it was entered at the very
//! top of its stack, that is the next page. libgcc would look for a signal frame's code at such an
//! address, or load it from there.
//!
//! What is understood here is what compilers emit for a function that calls another: the stack
//! pointer or the frame pointer at a fixed distance. Everything else (a signal frame, a realigned
//! stack, a switch of stacks, a function without tables) ends the search.

use std::ffi::c_void;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use gimli::{
    BaseAddresses, CallFrameInstruction, CommonInformationEntry, EhFrame, EhFrameOffset,
    EndianSlice, NativeEndian, UnwindSection,
};

use super::arch::{FRAME_POINTER, RETURN_ADDRESS, STACK_POINTER};

type Reader = EndianSlice<'static, NativeEndian>;
type Instruction = CallFrameInstruction<usize>;

/// How to get from a place in a function to its caller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rule {
    /// Where the function begins.
    pub function: usize,
    /// The caller's stack pointer is at this distance from...
    pub distance: usize,
    /// ...this.
    pub base: Base,
    /// How far below the caller's stack pointer the return address is.
    pub return_address: usize,
    pub frame_pointer: FramePointer,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Base {
    StackPointer,
    FramePointer,
}

/// The caller's frame pointer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FramePointer {
    /// As it is now.
    Same,
    /// So far below the caller's stack pointer.
    Saved(usize),
    Lost,
}

/// How to get to the caller from `place`; `None` if that cannot be told, or there is none.
pub fn rule_at(place: usize) -> Option<Rule> {
    CACHE.get(place).or_else(|| {
        let rule = look_up(place)?;
        CACHE.put(place, &rule);
        Some(rule)
    })
}

#[repr(C)]
struct Bases {
    text: usize,
    data: usize,
    function: usize,
}

// Of libgcc_s, which every Rust library is linked to. It compares addresses, and loads nothing but
// tables.
unsafe extern "C" {
    fn _Unwind_Find_FDE(place: *const c_void, bases: *mut Bases) -> *const u8;
}

#[cold]
#[inline(never)]
fn look_up(place: usize) -> Option<Rule> {
    let mut bases = Bases { text: 0, data: 0, function: 0 };
    // SAFETY: `place` is only compared.
    let entry = unsafe { _Unwind_Find_FDE(std::ptr::without_provenance(place), &mut bases) };
    if entry.is_null() {
        return None;
    }
    // SAFETY: an entry of a loaded table begins with its length, and with the distance from here to
    // the common one, which comes before it. The loader checked neither; the unwinder trusts both.
    let (section, offset) = unsafe {
        let length = entry.cast::<u32>().read_unaligned();
        let to_common = entry.add(4).cast::<u32>().read_unaligned() as usize;
        if length == u32::MAX {
            return None; // 64-bit, which nobody writes.
        }
        let offset = to_common.checked_sub(4)?;
        let size = offset + 4 + length as usize;
        (std::slice::from_raw_parts(entry.sub(offset), size), offset)
    };
    let mut table = EhFrame::new(section, NativeEndian);
    table.set_address_size(size_of::<usize>() as u8);
    let addresses = BaseAddresses::default()
        .set_eh_frame(section.as_ptr().addr() as u64)
        .set_text(bases.text as u64)
        .set_got(bases.data as u64);
    let entry =
        table.fde_from_offset(&addresses, EhFrameOffset(offset), EhFrame::cie_from_offset).ok()?;
    let common = entry.cie();
    if common.is_signal_trampoline() || common.return_address_register() != RETURN_ADDRESS {
        return None;
    }
    let mut row = Row::new(common, entry.initial_address(), place as u64);
    let mut instructions = common.instructions(&table, &addresses);
    while let Some(instruction) = instructions.next().ok()? {
        row.apply(&instruction)?;
    }
    row.initial = row.state;
    let mut instructions = entry.instructions(&table, &addresses);
    while let Some(instruction) = instructions.next().ok()? {
        if !row.apply(&instruction)? {
            break;
        }
    }
    row.state.rule(bases.function)
}

/// Where a register's value in the caller is.
#[derive(Clone, Copy)]
enum Slot {
    Same,
    /// At this distance from the caller's stack pointer.
    At(i64),
    Unknown,
}

#[derive(Clone, Copy)]
struct State {
    /// Where the caller's stack pointer is; `None` for an expression.
    base: Option<gimli::Register>,
    distance: i64,
    frame_pointer: Slot,
    return_address: Slot,
}

impl State {
    fn slot(&mut self, register: gimli::Register) -> Option<&mut Slot> {
        match register {
            FRAME_POINTER => Some(&mut self.frame_pointer),
            RETURN_ADDRESS => Some(&mut self.return_address),
            _ => None,
        }
    }

    fn rule(&self, function: usize) -> Option<Rule> {
        let below = |offset: i64| usize::try_from(-offset).ok();
        Some(Rule {
            function,
            distance: usize::try_from(self.distance).ok()?,
            base: match self.base? {
                STACK_POINTER => Base::StackPointer,
                FRAME_POINTER => Base::FramePointer,
                _ => return None,
            },
            return_address: match self.return_address {
                Slot::At(offset) => below(offset)?,
                Slot::Same | Slot::Unknown => return None,
            },
            frame_pointer: match self.frame_pointer {
                Slot::Same => FramePointer::Same,
                Slot::At(offset) => FramePointer::Saved(below(offset)?),
                Slot::Unknown => FramePointer::Lost,
            },
        })
    }
}

/// Deeper than any compiler goes.
const REMEMBERED: usize = 4;

/// A row of the table, from the first to that of `place`.
struct Row {
    state: State,
    initial: State,
    remembered: [State; REMEMBERED],
    remembered_count: usize,
    code_alignment: u64,
    data_alignment: i64,
    at: u64,
    place: u64,
}

impl Row {
    fn new(common: &CommonInformationEntry<Reader>, begin: u64, place: u64) -> Self {
        let state = State {
            base: None,
            distance: 0,
            frame_pointer: Slot::Same,
            return_address: Slot::Same,
        };
        Self {
            state,
            initial: state,
            remembered: [state; REMEMBERED],
            remembered_count: 0,
            code_alignment: common.code_alignment_factor(),
            data_alignment: common.data_alignment_factor(),
            at: begin,
            place,
        }
    }

    /// Whether the row of `place` is not complete yet; `None` for what cannot be understood.
    fn apply(&mut self, instruction: &Instruction) -> Option<bool> {
        use CallFrameInstruction as I;
        let (alignment, initial) = (self.data_alignment, self.initial);
        let state = &mut self.state;
        match *instruction {
            I::SetLoc { address } => {
                self.at = address;
                return Some(self.at <= self.place);
            }
            I::AdvanceLoc { delta } => {
                self.at = self.at.checked_add(self.code_alignment.checked_mul(delta.into())?)?;
                return Some(self.at <= self.place);
            }
            I::DefCfa { register, offset } => {
                (state.base, state.distance) = (Some(register), i64::try_from(offset).ok()?);
            }
            I::DefCfaSf { register, factored_offset } => {
                state.base = Some(register);
                state.distance = factored_offset.checked_mul(alignment)?;
            }
            I::DefCfaRegister { register } => state.base = Some(register),
            I::DefCfaOffset { offset } => state.distance = i64::try_from(offset).ok()?,
            I::DefCfaOffsetSf { factored_offset } => {
                state.distance = factored_offset.checked_mul(alignment)?;
            }
            I::DefCfaExpression { .. } => state.base = None,
            I::Offset { register, factored_offset } => {
                let offset = i64::try_from(factored_offset).ok()?.checked_mul(alignment)?;
                state.set(register, Slot::At(offset));
            }
            I::OffsetExtendedSf { register, factored_offset } => {
                state.set(register, Slot::At(factored_offset.checked_mul(alignment)?));
            }
            I::Undefined { register }
            | I::ValOffset { register, .. }
            | I::ValOffsetSf { register, .. }
            | I::Register { dest_register: register, .. }
            | I::Expression { register, .. }
            | I::ValExpression { register, .. } => state.set(register, Slot::Unknown),
            I::SameValue { register } => state.set(register, Slot::Same),
            I::Restore { register } => {
                let mut initial = initial;
                if let Some(slot) = initial.slot(register) {
                    state.set(register, *slot);
                }
            }
            I::RememberState => {
                *self.remembered.get_mut(self.remembered_count)? = *state;
                self.remembered_count += 1;
            }
            I::RestoreState => {
                self.remembered_count = self.remembered_count.checked_sub(1)?;
                *state = *self.remembered.get(self.remembered_count)?;
            }
            I::ArgsSize { .. } | I::NegateRaState | I::Nop => {}
        }
        Some(true)
    }
}

impl State {
    fn set(&mut self, register: gimli::Register, value: Slot) {
        if let Some(slot) = self.slot(register) {
            *slot = value;
        }
    }
}

/// Rules that were looked up: a program that recurses once does so thousands of times, by the same
/// functions.
static CACHE: Cache = Cache::new();

const ENTRIES: usize = 128;

/// Shared by all threads without a lock: an entry of which another thread has written one half only
/// does not match, because what is kept of the place is combined with the rule.
///
/// A rule stays when its library is unloaded. If another's code comes to lie at the very same place,
/// the way from there leads to nowhere: it is still read safely, and what is found there is not the
/// same function once more for each level of the bound.
struct Cache {
    entries: [Entry; ENTRIES],
}

struct Entry {
    key: AtomicUsize,
    rule: AtomicU64,
}

impl Cache {
    const fn new() -> Self {
        Self {
            entries: [const { Entry { key: AtomicUsize::new(0), rule: AtomicU64::new(0) } };
                ENTRIES],
        }
    }

    fn entry(&self, place: usize) -> &Entry {
        // Fibonacci hashing: the high bits of the product are well mixed.
        let hash = (place as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        &self.entries[hash as usize % ENTRIES]
    }

    fn get(&self, place: usize) -> Option<Rule> {
        let entry = self.entry(place);
        let rule = entry.rule.load(Ordering::Relaxed);
        if entry.key.load(Ordering::Relaxed) != place ^ rule as usize {
            return None;
        }
        Rule::unpack(rule, place)
    }

    fn put(&self, place: usize, rule: &Rule) {
        if let Some(packed) = rule.pack(place) {
            let entry = self.entry(place);
            entry.rule.store(packed, Ordering::Relaxed);
            entry.key.store(place ^ packed as usize, Ordering::Relaxed);
        }
    }
}

/// The word that a frame's distances are multiples of.
const WORD: usize = size_of::<usize>();
/// What stands for a lost frame pointer, which cannot be saved as far away as this.
const LOST: u64 = Field::FRAME_POINTER.largest();

/// Bits of a packed rule.
struct Field {
    shift: u32,
    width: u32,
}

impl Field {
    const BASE: Self = Self { shift: 0, width: 1 };
    const DISTANCE: Self = Self { shift: 1, width: 20 };
    const FRAME_POINTER: Self = Self { shift: 21, width: 12 };
    const RETURN_ADDRESS: Self = Self { shift: 33, width: 12 };
    const FROM_FUNCTION: Self = Self { shift: 45, width: 19 };

    const fn largest(&self) -> u64 {
        (1 << self.width) - 1
    }

    fn put(&self, value: u64) -> Option<u64> {
        (value <= self.largest()).then_some(value << self.shift)
    }

    fn put_words(&self, bytes: usize) -> Option<u64> {
        if bytes % WORD == 0 { self.put((bytes / WORD) as u64) } else { None }
    }

    fn get(&self, packed: u64) -> u64 {
        packed >> self.shift & self.largest()
    }

    fn get_words(&self, packed: u64) -> usize {
        self.get(packed) as usize * WORD
    }
}

impl Rule {
    /// `None` for one that is too large, which no ordinary function has.
    fn pack(&self, place: usize) -> Option<u64> {
        let frame_pointer = match self.frame_pointer {
            FramePointer::Same => 0,
            FramePointer::Saved(0) => return None,
            FramePointer::Saved(distance) => {
                let packed = Field::FRAME_POINTER.put_words(distance)?;
                if Field::FRAME_POINTER.get(packed) == LOST {
                    return None;
                }
                packed
            }
            FramePointer::Lost => Field::FRAME_POINTER.put(LOST)?,
        };
        let packed = Field::BASE.put((self.base == Base::FramePointer).into())?
            | Field::DISTANCE.put_words(self.distance)?
            | frame_pointer
            | Field::RETURN_ADDRESS.put_words(self.return_address)?
            | Field::FROM_FUNCTION.put(place.checked_sub(self.function)? as u64)?;
        Some(packed)
    }

    /// `None` for an empty entry: every frame has a return address, below its end.
    fn unpack(packed: u64, place: usize) -> Option<Self> {
        let return_address = Field::RETURN_ADDRESS.get_words(packed);
        if return_address == 0 {
            return None;
        }
        Some(Self {
            function: place.wrapping_sub(Field::FROM_FUNCTION.get(packed) as usize),
            distance: Field::DISTANCE.get_words(packed),
            base: match Field::BASE.get(packed) {
                0 => Base::StackPointer,
                _ => Base::FramePointer,
            },
            return_address,
            frame_pointer: match Field::FRAME_POINTER.get(packed) {
                0 => FramePointer::Same,
                LOST => FramePointer::Lost,
                _ => FramePointer::Saved(Field::FRAME_POINTER.get_words(packed)),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cached_rule_is_what_was_put_there() {
        let place = 0x7f12_3456_789a;
        let rules = [
            (8, Base::StackPointer, FramePointer::Same, 8),
            (8456, Base::StackPointer, FramePointer::Saved(48), 8),
            (16, Base::FramePointer, FramePointer::Saved(16), 8),
            (1 << 22, Base::FramePointer, FramePointer::Lost, 8),
            (96, Base::StackPointer, FramePointer::Saved(96), 88),
        ];
        for (distance, base, frame_pointer, return_address) in rules {
            let function = place - 0x1234;
            let rule = Rule { function, distance, base, return_address, frame_pointer };
            let cache = Cache::new();
            assert_eq!(cache.get(place), None);
            cache.put(place, &rule);
            assert_eq!(cache.get(place), Some(rule));
            assert_eq!(cache.get(place + 1), None);
        }
    }

    #[test]
    fn what_does_not_fit_is_not_cached() {
        let fits = Rule {
            function: 0x1000,
            distance: 16,
            base: Base::StackPointer,
            return_address: 8,
            frame_pointer: FramePointer::Same,
        };
        assert!(fits.pack(0x1010).is_some());
        let odd = Rule { distance: 12, ..fits };
        let large = Rule { distance: 8 << 20, ..fits };
        let far = Rule { frame_pointer: FramePointer::Saved(LOST as usize * WORD), ..fits };
        for rule in [odd, large, far] {
            assert_eq!(rule.pack(0x1010), None);
        }
        assert_eq!(fits.pack(0x1000 + (1 << 19)), None);
        assert_eq!(fits.pack(0xfff), None);
    }

    #[test]
    fn nothing_is_known_of_what_is_no_code() {
        let data = 0u64;
        for place in [0, 1, usize::MAX, 0xdead_beef, (&raw const data).addr()] {
            assert_eq!(rule_at(place), None);
        }
    }
}
