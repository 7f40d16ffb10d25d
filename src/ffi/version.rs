// SPDX-License-Identifier: MIT OR Apache-2.0

//! Which library runs.

use std::ffi::c_uint;

/// The version of the library that runs, as LAIO_VERSION is that of the header: 10203 is 1.2.3. Any
/// thread, at any time.
///
/// A library of the same first number that is as new as the header has all that the header declares;
/// an older one lets the loader refuse a program that calls what it lacks.
#[unsafe(no_mangle)]
pub extern "C" fn laio_version() -> c_uint {
    NUMBER
}

const NUMBER: c_uint = part(env!("CARGO_PKG_VERSION_MAJOR")) * 10_000
    + part(env!("CARGO_PKG_VERSION_MINOR")) * 100
    + part(env!("CARGO_PKG_VERSION_PATCH"));

const fn part(digits: &str) -> c_uint {
    match c_uint::from_str_radix(digits, 10) {
        Ok(number) if number < 100 => number,
        _ => panic!("a part of the version is a number below 100"),
    }
}
