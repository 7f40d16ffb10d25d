// SPDX-License-Identifier: MIT OR Apache-2.0

//! `laio-run`: runs a command under `liblaio_preload.so`, for who does not want to remember how.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const LIBRARY: &str = "liblaio_preload.so";
const USAGE: &str = "\
usage: laio-run [--guard | --engine | --off] [--depth N] [--stats] [--] COMMAND [ARGUMENT...]

Runs COMMAND with liblaio_preload.so in front of it.

  --guard    bound the nesting of its io_submit and io_uring_submit calls (the default, unless
             LAIO_PRELOAD is set)
  --engine   run a QEMU's Linux AIO and io_uring on laio's engine
  --off      do nothing, to rule the library out
  --depth N  let submission nest N deep, 1 to 64 (8)
  --stats    print one line of statistics at its exit
";

struct Run {
    settings: Vec<(&'static str, OsString)>,
    command: Vec<OsString>,
}

fn main() -> ExitCode {
    let run = match parse(env::args_os().skip(1)) {
        Ok(Some(run)) => run,
        Ok(None) => {
            // Nobody is told when standard output is gone: then nobody reads it.
            let _ = std::io::stdout().write_all(USAGE.as_bytes());
            return ExitCode::SUCCESS;
        }
        Err(wrong) => return fail(&format!("{wrong}; try laio-run --help")),
    };
    let preload = match find_library().and_then(|library| preload(&library)) {
        Ok(preload) => preload,
        Err(wrong) => return fail(&wrong),
    };
    let program = &run.command[0];
    let error = Command::new(program)
        .args(&run.command[1..])
        .envs(run.settings)
        .env("LD_PRELOAD", preload)
        .exec();
    eprintln!("laio-run: {}: {error}", Path::new(program).display());
    // As a shell has it: not found, or found and not to be run.
    ExitCode::from(match error.kind() {
        std::io::ErrorKind::NotFound => 127,
        _ => 126,
    })
}

fn fail(wrong: &str) -> ExitCode {
    eprintln!("laio-run: {wrong}");
    ExitCode::from(125)
}

/// `None` when help is asked for.
fn parse(mut arguments: impl Iterator<Item = OsString>) -> Result<Option<Run>, String> {
    let mut settings = Vec::new();
    let first = loop {
        let Some(argument) = arguments.next() else {
            break None;
        };
        match argument.to_str() {
            Some("--guard") => settings.push(("LAIO_PRELOAD", "guard".into())),
            Some("--engine") => settings.push(("LAIO_PRELOAD", "engine".into())),
            Some("--off") => settings.push(("LAIO_PRELOAD", "off".into())),
            Some("--stats") => settings.push(("LAIO_STATS", "1".into())),
            Some("--depth") => {
                let depth = arguments.next().unwrap_or_default();
                if !is_depth(&depth) {
                    return Err("--depth takes a number from 1 to 64".into());
                }
                settings.push(("LAIO_MAX_SUBMIT_DEPTH", depth));
            }
            Some("--help" | "-h") => return Ok(None),
            Some("--") => break arguments.next(),
            Some(option) if option.starts_with('-') => {
                return Err(format!("there is no option {option}"));
            }
            _ => break Some(argument),
        }
    };
    let first = first.ok_or("which command?")?;
    let command = std::iter::once(first).chain(arguments).collect();
    Ok(Some(Run { settings, command }))
}

fn is_depth(depth: &OsStr) -> bool {
    let depth = depth.to_str().and_then(|depth| depth.parse::<u32>().ok());
    depth.is_some_and(|depth| (1..=64).contains(&depth))
}

/// Beside this program, as in a build, or in the library directory of the same prefix.
fn find_library() -> Result<PathBuf, String> {
    let program = env::current_exe().map_err(|error| format!("where am I? {error}"))?;
    let directory = program.parent().unwrap_or(Path::new("/"));
    let multiarch = format!("../lib/{}-linux-gnu", env::consts::ARCH);
    [".", "../lib", "../lib64", &multiarch]
        .iter()
        .filter_map(|place| directory.join(place).join(LIBRARY).canonicalize().ok())
        .next()
        .ok_or_else(|| {
            let directory = directory.display();
            format!("no {LIBRARY} in {directory} or in a library directory beside it")
        })
}

/// Ours first, and then what was there.
fn preload(library: &Path) -> Result<OsString, String> {
    // What separates names in LD_PRELOAD cannot be part of one.
    if library.as_os_str().as_bytes().iter().any(|byte| b" :".contains(byte)) {
        let library = library.display();
        return Err(format!("LD_PRELOAD cannot name {library}: a space or colon in it"));
    }
    let mut preload = OsString::from(library);
    if let Some(others) = env::var_os("LD_PRELOAD").filter(|others| !others.is_empty()) {
        preload.push(":");
        preload.push(others);
    }
    Ok(preload)
}
