// SPDX-License-Identifier: MIT OR Apache-2.0

//! What can be read of a program's file.

use std::fs;
use std::path::{Path, PathBuf};

use object::elf::{PT_GNU_EH_FRAME, PT_INTERP};
use object::read::elf::{ElfFile64, ProgramHeader};
use object::{Endianness, Object, ObjectSymbol};

use super::names::Names;

pub struct Binary {
    pub path: PathBuf,
    /// The loader starts it, and loads what LD_PRELOAD names.
    pub is_dynamic: bool,
    pub has_unwind_tables: bool,
    imports: Vec<String>,
    exports: Vec<String>,
}

impl Binary {
    pub fn open(path: &Path) -> Result<Self, String> {
        let data = fs::read(path).map_err(|error| error.to_string())?;
        let elf = ElfFile64::<Endianness>::parse(&*data).map_err(|_| match data.get(..2) {
            Some(b"#!") => "a script; name the program that it starts",
            _ => "no 64-bit ELF program",
        })?;
        let has_segment = |wanted| {
            elf.elf_program_headers().iter().any(|segment| segment.p_type(elf.endian()) == wanted)
        };
        let named = |undefined| {
            elf.dynamic_symbols()
                .filter(|symbol| symbol.is_undefined() == undefined)
                .filter_map(|symbol| symbol.name().ok().map(str::to_owned))
                .collect()
        };
        Ok(Self {
            path: path.into(),
            is_dynamic: has_segment(PT_INTERP),
            has_unwind_tables: has_segment(PT_GNU_EH_FRAME),
            imports: named(true),
            exports: named(false),
        })
    }

    pub fn imports(&self, name: &str) -> bool {
        self.imports.iter().any(|import| import == name)
    }

    pub fn exports(&self, name: &str) -> bool {
        self.exports.iter().any(|export| export == name)
    }

    pub fn submits_through(&self, library: &Names) -> bool {
        library.submit.to_str().is_ok_and(|name| self.imports(name))
    }

    /// Whether it has another use for that library than QEMU has.
    pub fn reaps_through(&self, library: &Names) -> bool {
        library.reaping.iter().any(|name| name.to_str().is_ok_and(|name| self.imports(name)))
    }

    /// Linked with liblaio, shared or static: its host file gives the hooks.
    pub fn is_on_laio(&self) -> bool {
        self.imports("laio_set_host_ops") || self.exports("laio_set_host_ops")
    }

    /// What QEMU's programs export, they export all.
    pub fn exports_qemus_functions(&self) -> bool {
        self.exports("aio_poll")
    }

    /// Named as QEMU's programs are, or with their functions.
    pub fn is_qemu(&self) -> bool {
        let name = self.path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        name.starts_with("qemu") || name == "kvm" || self.exports_qemus_functions()
    }
}
