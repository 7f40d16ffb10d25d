// SPDX-License-Identifier: MIT OR Apache-2.0

//! Gives the shared library its SONAME and makes the loader bind it completely at load time.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // The name changes with what programs are linked against: with the first number of the version.
    let soname = format!("-Wl,-soname,liblaio.so.{}", env!("CARGO_PKG_VERSION_MAJOR"));
    for arg in [soname.as_str(), "-Wl,-z,relro,-z,now,-z,nodelete"] {
        println!("cargo::rustc-cdylib-link-arg={arg}");
    }
}
