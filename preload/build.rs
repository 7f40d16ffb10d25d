// SPDX-License-Identifier: MIT OR Apache-2.0

//! Gives the shared library its SONAME and makes the loader bind it completely at load time, so that
//! no call of it has to be resolved on a coroutine's stack.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    for arg in ["-Wl,-soname,liblaio_preload.so", "-Wl,-z,relro,-z,now"] {
        println!("cargo::rustc-cdylib-link-arg={arg}");
    }
}
