// SPDX-License-Identifier: MIT OR Apache-2.0

//! Tests of the C functions, written in Rust.

mod allocation;
mod builtin;
mod fork;
mod kernels;
mod kill;
mod layout;

/// Where tests make their files: beside this program, since a build directory is on a file system
/// with O_DIRECT.
fn scratch_directory() -> std::path::PathBuf {
    let program = std::env::current_exe().expect("the path of this program");
    program.parent().expect("a directory").to_owned()
}
