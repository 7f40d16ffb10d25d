// SPDX-License-Identifier: MIT OR Apache-2.0

//! Engine mode: a stock QEMU on laio's engine.
//!
//! QEMU's executable exports its functions, but its own calls do not go through any table, so the
//! entry points of its `laio_*`, and `luring_*`, are overwritten with jumps to [`entry`]. The engine gets the
//! executable's event loop and coroutines by their names ([`qemu`]).
//!
//! All or nothing: everything is looked up and checked before, and [`patch`] replaces the code in one
//! system call.

#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
mod entry;
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
mod executable;
#[cfg(target_arch = "x86_64")]
mod patch;
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
mod qemu;

use std::borrow::Cow;

pub use entry::{forget_statistics, total};
use executable::Executable;
use qemu::Generation;

/// Why there is no engine mode. Nothing was changed.
pub enum Refusal {
    /// The program has no such functions, as most programs do not.
    NothingThere,
    /// One that looks like QEMU, but not enough.
    Unfamiliar(Cow<'static, str>),
}

impl<T: Into<Cow<'static, str>>> From<T> for Refusal {
    fn from(why: T) -> Self {
        Self::Unfamiliar(why.into())
    }
}

/// What was taken over besides Linux AIO.
pub struct TakenOver {
    pub io_uring: bool,
}

/// Takes the executable over.
pub fn start(max_depth: u32) -> Result<TakenOver, Refusal> {
    let executable = Executable::open()?;
    if !executable.has_any("laio_") {
        return match executable.imports("io_submit") {
            true => Err("the program exports no laio_* functions".into()),
            false => Err(Refusal::NothingThere),
        };
    }
    let generation = Generation::of(&executable)?;
    let functions = qemu::Functions::find(&executable)?;
    let mut replacements = entry::replacements(generation);
    let mut for_io_uring = None;
    if qemu::has_io_uring_states(&executable)? {
        replacements.extend(entry::io_uring_replacements(generation));
        for_io_uring = Some(functions.for_io_uring(&executable)?);
    }
    redirect(&executable, &replacements)?;
    // The executable's own code has not run yet: it calls nothing before this.
    laio_engine::depth::set_max(max_depth);
    let io_uring = for_io_uring.is_some();
    entry::start(functions, for_io_uring);
    Ok(TakenOver { io_uring })
}

#[cfg(target_arch = "x86_64")]
fn redirect(executable: &Executable, replacements: &[(&str, usize)]) -> Result<(), Refusal> {
    let functions = replacements
        .iter()
        .map(|&(name, replacement)| Ok((executable.function(name)?, replacement)))
        .collect::<Result<Vec<_>, Refusal>>()?;
    patch::Patch::prepare(executable, &functions)?.commit()
}

#[cfg(not(target_arch = "x86_64"))]
fn redirect(_: &Executable, _: &[(&str, usize)]) -> Result<(), Refusal> {
    Err("it needs an x86-64 processor".into())
}
