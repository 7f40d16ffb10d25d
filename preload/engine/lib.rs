// SPDX-License-Identifier: MIT OR Apache-2.0

//! laio's engine as a Rust library, from the same sources as the package `laio`.
//!
//! A package of its own because rustc exports every `#[no_mangle]` function of every dependency
//! from a cdylib. `liblaio_preload.so` must not have `laio_*` among its symbols: a hypervisor
//! that binds them by ordinary look-up would then be taken over in guard mode, without hooks.

#[path = "../../src/engine/mod.rs"]
pub mod engine;
#[allow(dead_code)] // The built-in event loop is made and freed through the C API alone.
#[path = "../../src/host/mod.rs"]
pub mod host;
#[path = "../../src/kernel/mod.rs"]
pub mod kernel;
#[path = "../../src/ffi/qemu.rs"]
pub mod qemu;

/// The pair of kernel and host that the modules above name.
pub type LinuxAioState = engine::State<kernel::LinuxAio, host::ProcessHost>;
