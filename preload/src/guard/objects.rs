// SPDX-License-Identifier: MIT OR Apache-2.0

//! Whether the calls come from a program that takes its completions as QEMU does: out of the ring.
//!
//! Who asks libaio for them may well wait there, after an EAGAIN, for a completion to make room; and
//! there may be none to come. QEMU's engine has no use for io_getevents, so an object (the
//! executable, or a library) that is linked to it is another program, and is left alone. So is one
//! that waits in liburing, and does not recurse through it because requests complete too soon.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::names::{self, Names};

/// A library to submit through.
pub struct Library {
    names: Names,
    /// The last places that were looked at, by the verdict.
    like_qemu: AtomicUsize,
    unlike_qemu: AtomicUsize,
}

pub static LIBAIO: Library = Library::new(names::LIBAIO);
pub static LIBURING: Library = Library::new(names::LIBURING);

impl Library {
    const fn new(names: Names) -> Self {
        let (like_qemu, unlike_qemu) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self { names, like_qemu, unlike_qemu }
    }

    /// Whether the object that `place` is in submits through this library, and gets completions
    /// without it.
    pub fn is_used_like_qemu_does(&'static self, place: usize) -> bool {
        if self.unlike_qemu.load(Ordering::Relaxed) == place {
            return false;
        }
        if self.like_qemu.load(Ordering::Relaxed) == place {
            return true;
        }
        let mut search = Search { library: self, address: place, is_like_qemu: false };
        // SAFETY: the callback gets the address of a `Search` that outlives the call.
        unsafe { libc::dl_iterate_phdr(Some(Search::visit), (&raw mut search).cast()) };
        let verdict = if search.is_like_qemu { &self.like_qemu } else { &self.unlike_qemu };
        verdict.store(place, Ordering::Relaxed);
        search.is_like_qemu
    }
}

struct Search {
    library: &'static Library,
    address: usize,
    is_like_qemu: bool,
}

impl Search {
    unsafe extern "C" fn visit(
        object: *mut libc::dl_phdr_info,
        _: usize,
        this: *mut c_void,
    ) -> c_int {
        // SAFETY: the loader's description of an object, and what `dl_iterate_phdr` was given.
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
            this.is_like_qemu = unsafe { Imports::new(base, table).are_like_qemus(this.library) };
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
    unsafe fn are_like_qemus(&self, library: &Library) -> bool {
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
                if library.names.reaping.contains(&name) {
                    return false;
                }
                submits |= name == library.names.submit;
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
