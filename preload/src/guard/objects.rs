// SPDX-License-Identifier: MIT OR Apache-2.0

//! Whether the calls come from a program that takes its completions as QEMU does: out of the ring.
//!
//! Who asks libaio for them may well wait there, after an EAGAIN, for a completion to make room; and
//! there may be none to come. QEMU's engine has no use for io_getevents, so an object (the
//! executable, or a library) that is linked to it is another program, and is left alone.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::atomic::{AtomicUsize, Ordering};

/// What libaio has to get completions with, by names of any version.
const REAPING: [&CStr; 4] = [c"io_getevents", c"io_pgetevents", c"io_queue_run", c"io_queue_wait"];

/// The last places that were looked at, by the verdict.
static LIKE_QEMU: AtomicUsize = AtomicUsize::new(0);
static UNLIKE_QEMU: AtomicUsize = AtomicUsize::new(0);

/// Whether the object that `place` is in calls io_submit, and gets completions without libaio.
pub fn reaps_by_itself(place: usize) -> bool {
    if UNLIKE_QEMU.load(Ordering::Relaxed) == place {
        return false;
    }
    if LIKE_QEMU.load(Ordering::Relaxed) == place {
        return true;
    }
    let mut search = Search { address: place, reaps_by_itself: false };
    // SAFETY: the callback gets the address of a `Search` that outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(Search::visit), (&raw mut search).cast()) };
    let verdict = if search.reaps_by_itself { &LIKE_QEMU } else { &UNLIKE_QEMU };
    verdict.store(place, Ordering::Relaxed);
    search.reaps_by_itself
}

struct Search {
    address: usize,
    reaps_by_itself: bool,
}

impl Search {
    unsafe extern "C" fn visit(
        object: *mut libc::dl_phdr_info,
        _: usize,
        this: *mut c_void,
    ) -> c_int {
        // SAFETY: the loader's description of an object, and what `reaps_by_itself` gave.
        let (object, this) = unsafe { (&*object, &mut *this.cast::<Self>()) };
        // SAFETY: as the loader says.
        let headers =
            unsafe { std::slice::from_raw_parts(object.dlpi_phdr, object.dlpi_phnum.into()) };
        let base = object.dlpi_addr as usize;
        let contains = headers.iter().any(|header| {
            let offset = this.address.wrapping_sub(base.wrapping_add(header.p_vaddr as usize));
            header.p_type == libc::PT_LOAD && offset < header.p_memsz as usize
        });
        if !contains {
            return 0;
        }
        if let Some(dynamic) = headers.iter().find(|header| header.p_type == libc::PT_DYNAMIC) {
            let table = base.wrapping_add(dynamic.p_vaddr as usize);
            // SAFETY: the dynamic section of a loaded object.
            this.reaps_by_itself = unsafe { Imports::new(base, table).are_like_qemus() };
        }
        1
    }
}

// Of <elf.h>, which the libc crate has only a part of.
#[repr(C)]
struct Relocation {
    offset: u64,
    info: u64,
    addend: i64,
}

const DT_NULL: usize = 0;
const DT_PLTRELSZ: usize = 2;
const DT_STRTAB: usize = 5;
const DT_SYMTAB: usize = 6;
const DT_RELA: usize = 7;
const DT_RELASZ: usize = 8;
const DT_JMPREL: usize = 23;

/// The names that an object's relocations ask the loader for.
#[derive(Default)]
struct Imports {
    names: usize,
    symbols: usize,
    /// Address and size of both tables.
    relocations: [(usize, usize); 2],
}

impl Imports {
    /// # Safety
    ///
    /// `table` is the dynamic section of an object that is loaded at `base`.
    unsafe fn new(base: usize, table: usize) -> Self {
        // The loader has made the addresses absolute, except where it could not write to them.
        let absolute = |value: usize| if value < base { value.wrapping_add(base) } else { value };
        let mut imports = Self::default();
        let mut entry: *const [usize; 2] = std::ptr::with_exposed_provenance(table);
        loop {
            // SAFETY: the caller's promise; the section ends with DT_NULL.
            let [tag, value] = unsafe { entry.read() };
            match tag {
                DT_NULL => return imports,
                DT_STRTAB => imports.names = absolute(value),
                DT_SYMTAB => imports.symbols = absolute(value),
                DT_RELA => imports.relocations[0].0 = absolute(value),
                DT_RELASZ => imports.relocations[0].1 = value,
                DT_JMPREL => imports.relocations[1].0 = absolute(value),
                DT_PLTRELSZ => imports.relocations[1].1 = value,
                _ => {}
            }
            // SAFETY: as above.
            entry = unsafe { entry.add(1) };
        }
    }

    /// # Safety
    ///
    /// The object is loaded.
    unsafe fn are_like_qemus(&self) -> bool {
        let mut submits = false;
        for (table, size) in self.relocations {
            if self.names == 0 || self.symbols == 0 || table == 0 {
                continue;
            }
            let table: *const Relocation = std::ptr::with_exposed_provenance(table);
            for index in 0..size / size_of::<Relocation>() {
                // SAFETY: an entry of a table of the object's.
                let symbol = unsafe { (*table.add(index)).info >> 32 } as usize;
                if symbol == 0 {
                    continue; // It is relative, as most are.
                }
                // SAFETY: the caller's promise.
                let name = unsafe { self.name_of(symbol) };
                if REAPING.contains(&name) {
                    return false;
                }
                submits |= name == c"io_submit";
            }
        }
        submits
    }

    /// # Safety
    ///
    /// The object is loaded, and has that symbol.
    unsafe fn name_of(&self, symbol: usize) -> &CStr {
        let symbols: *const libc::Elf64_Sym = std::ptr::with_exposed_provenance(self.symbols);
        let names: *const c_char = std::ptr::with_exposed_provenance(self.names);
        // SAFETY: the caller's promise; names are C strings.
        unsafe { CStr::from_ptr(names.add((*symbols.add(symbol)).st_name as usize)) }
    }
}
