// SPDX-License-Identifier: MIT OR Apache-2.0

//! The program that we were loaded into: its file, and where it lies in memory.

use std::ffi::{c_int, c_void};
use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::{ptr, slice};

use object::elf::{ET_DYN, ET_EXEC, PF_W, PF_X, PT_LOAD};
use object::read::elf::{ElfFile64, FileHeader, ProgramHeader};
use object::{Endianness, Object, ObjectSymbol, ObjectSymbolTable, SymbolKind};

use super::Refusal;

const SELF: &str = "/proc/self/exe";

/// A mapped file.
struct Mapping(&'static [u8]);

impl Mapping {
    fn of(file: &File, size: usize) -> Option<Self> {
        // SAFETY: a new read-only mapping, which is never unmapped.
        let address = unsafe {
            libc::mmap(
                ptr::null_mut(),
                size,
                libc::PROT_READ,
                libc::MAP_PRIVATE,
                file.as_raw_fd(),
                0,
            )
        };
        // SAFETY: mapped for good, `size` bytes.
        (address != libc::MAP_FAILED)
            .then(|| Self(unsafe { slice::from_raw_parts(address.cast(), size) }))
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: our own mapping; whoever borrowed from it did so from `self`.
        unsafe { libc::munmap(self.0.as_ptr().cast_mut().cast(), self.0.len()) };
    }
}

/// A function of the executable.
#[derive(Clone, Copy)]
pub struct Function {
    /// Its address in the file's terms.
    pub address: u64,
    /// In bytes.
    pub size: u64,
}

/// The executable segment.
#[derive(Clone, Copy)]
pub struct Text {
    pub address: u64,
    pub offset: u64,
    pub size: u64,
}

pub struct Executable {
    file: File,
    mapping: Mapping,
    /// What is to be added to the file's addresses.
    bias: u64,
    pub text: Text,
}

impl Executable {
    pub fn open() -> Result<Self, Refusal> {
        let cannot = |error| format!("cannot read {SELF}: {error}");
        let file = File::open(SELF).map_err(cannot)?;
        let size = file.metadata().map_err(cannot)?.len() as usize;
        let mapping = Mapping::of(&file, size).ok_or("cannot map the executable")?;
        let elf = parse(&mapping)?;
        let header = elf.elf_header();
        let endian = elf.endian();
        let kind = header.e_type(endian);
        if kind != ET_DYN && kind != ET_EXEC {
            return Err("the executable is of no known kind".into());
        }
        let mut texts = elf.elf_program_headers().iter().filter(|segment| {
            segment.p_type(endian) == PT_LOAD && segment.p_flags(endian) & PF_X != 0
        });
        let (Some(text), None) = (texts.next(), texts.next()) else {
            return Err("the executable has not exactly one segment of code".into());
        };
        if text.p_flags(endian) & PF_W != 0 {
            return Err("the executable's code is writable".into());
        }
        let text = Text {
            address: text.p_vaddr(endian),
            offset: text.p_offset(endian),
            size: text.p_filesz(endian),
        };
        let bias = load_bias();
        Ok(Self { file, mapping, bias, text })
    }

    fn elf(&self) -> Result<ElfFile64<'_, Endianness>, Refusal> {
        parse(&self.mapping)
    }

    fn symbols(&self, found: impl Fn(&str, bool) -> bool) -> bool {
        let Ok(elf) = self.elf() else { return false };
        elf.dynamic_symbols()
            .any(|symbol| symbol.name().is_ok_and(|name| found(name, symbol.is_undefined())))
    }

    /// Whether it exports anything under this prefix.
    pub fn has_any(&self, prefix: &str) -> bool {
        self.symbols(|name, undefined| name.starts_with(prefix) && !undefined)
    }

    pub fn imports(&self, wanted: &str) -> bool {
        self.symbols(|name, undefined| name == wanted && undefined)
    }

    pub fn exports(&self, wanted: &str) -> bool {
        self.symbols(|name, undefined| name == wanted && !undefined)
    }

    /// What it exports under this prefix that is not among `known`.
    pub fn other(&self, prefix: &str, known: &[&str]) -> Option<String> {
        let elf = self.elf().ok()?;
        elf.dynamic_symbols()
            .filter(|symbol| !symbol.is_undefined())
            .filter_map(|symbol| symbol.name().ok())
            .find(|name| name.starts_with(prefix) && !known.contains(name))
            .map(str::to_owned)
    }

    /// The exported function `name`, whose code is in [`text`](Self::text).
    pub fn function(&self, name: &str) -> Result<Function, Refusal> {
        let elf = self.elf()?;
        let table = elf.dynamic_symbol_table().ok_or("the executable exports nothing")?;
        let symbol = table
            .symbols()
            .find(|symbol| !symbol.is_undefined() && symbol.name() == Ok(name))
            .ok_or_else(|| format!("the program does not export {name}"))?;
        let function = Function { address: symbol.address(), size: symbol.size() };
        let inside = function
            .address
            .checked_sub(self.text.address)
            .and_then(|start| start.checked_add(function.size))
            .is_some_and(|end| end <= self.text.size);
        if symbol.kind() != SymbolKind::Text || !inside {
            return Err(format!("{name} is not a function of the program's own").into());
        }
        Ok(function)
    }

    /// Where the file's address is in memory.
    pub fn in_memory(&self, address: u64) -> *mut c_void {
        ptr::with_exposed_provenance_mut(address.wrapping_add(self.bias) as usize)
    }

    pub fn descriptor(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// The file's bytes of [`text`](Self::text).
    pub fn code(&self) -> Option<&[u8]> {
        let start = self.text.offset as usize;
        self.mapping.0.get(start..start.checked_add(self.text.size as usize)?)
    }
}

fn parse(mapping: &Mapping) -> Result<ElfFile64<'_, Endianness>, Refusal> {
    ElfFile64::parse(mapping.0)
        .map_err(|error| format!("cannot read the executable: {error}").into())
}

/// The main program's load bias: it is the first that the loader knows.
fn load_bias() -> u64 {
    unsafe extern "C" fn first(
        info: *mut libc::dl_phdr_info,
        _size: usize,
        bias: *mut c_void,
    ) -> c_int {
        // SAFETY: the loader's information, and the place that the caller gave.
        unsafe { bias.cast::<u64>().write((*info).dlpi_addr) };
        1
    }
    let mut bias = 0u64;
    // SAFETY: the callback gets the address of `bias`, which outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(first), (&raw mut bias).cast()) };
    bias
}
