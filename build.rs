// SPDX-License-Identifier: MIT OR Apache-2.0

//! Gives the shared library its SONAME and makes the loader bind it completely at load time.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    for arg in ["-Wl,-soname,liblaio.so.1", "-Wl,-z,relro,-z,now"] {
        println!("cargo::rustc-cdylib-link-arg={arg}");
    }
}
