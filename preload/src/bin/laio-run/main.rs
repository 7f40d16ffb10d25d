// SPDX-License-Identifier: MIT OR Apache-2.0

//! `laio-run`: runs a command under `liblaio_preload.so`, for who does not want to remember how.

mod check;

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
       laio-run --check BINARY...

Runs COMMAND with liblaio_preload.so in front of it, or says whether QEMU's programs need that.

  --guard    bound the nesting of its io_submit and io_uring_submit calls (the default, unless
             LAIO_PRELOAD is set)
  --engine   run a QEMU's Linux AIO and io_uring on laio's engine
  --off      do nothing, to rule the library out
  --depth N  let submission nest N deep, 1 to 64 (8)
  --stats    print one line of statistics at its exit
  --check    say whether each BINARY, an emulator or qemu-img, recurses without bound, what each mode
             would do with it, and what that rests upon; 0 if none is vulnerable, 1 if one may be
";

enum Asked {
    Help,
    Run(Run),
    Check(Vec<OsString>),
}

struct Run {
    settings: Vec<(&'static str, OsString)>,
    command: Vec<OsString>,
}

fn main() -> ExitCode {
    let asked = match parse(env::args_os().skip(1)) {
        Ok(asked) => asked,
        Err(Misuse { what, status }) => {
            return fail(&format!("{what}; try laio-run --help"), status);
        }
    };
    let preload = find_library().and_then(|library| preload(&library));
    match asked {
        Asked::Help => {
            // Nobody is told when standard output is gone: then nobody reads it.
            let _ = std::io::stdout().write_all(USAGE.as_bytes());
            ExitCode::SUCCESS
        }
        Asked::Run(run) => match preload {
            Ok(preload) => exec(run, preload),
            Err(wrong) => fail(&wrong, CANNOT_RUN),
        },
        Asked::Check(binaries) => check(&binaries, preload),
    }
}

fn exec(run: Run, preload: OsString) -> ExitCode {
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

fn check(binaries: &[OsString], preload: Result<OsString, String>) -> ExitCode {
    let check = check::Check::new(preload.as_deref().map_err(String::as_str));
    let mut status = 0;
    for binary in binaries {
        match check.report(binary) {
            Ok(is_harmless) => status = status.max(u8::from(!is_harmless)),
            Err(wrong) => {
                eprintln!("laio-run: {wrong}");
                status = MISUSED_CHECK;
            }
        }
    }
    ExitCode::from(status)
}

fn fail(wrong: &str, status: u8) -> ExitCode {
    eprintln!("laio-run: {wrong}");
    ExitCode::from(status)
}

/// As env(1) and its like have it, whose other exit statuses are the command's.
const CANNOT_RUN: u8 = 125;
/// Zero and one are verdicts.
const MISUSED_CHECK: u8 = 2;

struct Misuse {
    what: String,
    status: u8,
}

impl<T: Into<String>> From<T> for Misuse {
    fn from(what: T) -> Self {
        Self { what: what.into(), status: CANNOT_RUN }
    }
}

fn parse(mut arguments: impl Iterator<Item = OsString>) -> Result<Asked, Misuse> {
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
            Some("--help" | "-h") => return Ok(Asked::Help),
            Some("--check") if settings.is_empty() => {
                return binaries(arguments.collect()).map(Asked::Check);
            }
            Some("--check") => {
                let what = "--check runs no command, and takes no other option".into();
                return Err(Misuse { what, status: MISUSED_CHECK });
            }
            Some("--") => break arguments.next(),
            Some(option) if option.starts_with('-') => {
                return Err(format!("there is no option {option}").into());
            }
            _ => break Some(argument),
        }
    };
    let first = first.ok_or("which command?")?;
    let command = std::iter::once(first).chain(arguments).collect();
    Ok(Asked::Run(Run { settings, command }))
}

/// What follows --check.
fn binaries(mut arguments: Vec<OsString>) -> Result<Vec<OsString>, Misuse> {
    let misuse = |what: String| Misuse { what, status: MISUSED_CHECK };
    if arguments.first().is_some_and(|first| first == "--") {
        arguments.remove(0);
    } else if let Some(option) = arguments.iter().find(|name| name.as_bytes().starts_with(b"-")) {
        return Err(misuse(format!("--check takes no option {}", Path::new(option).display())));
    }
    match arguments.is_empty() {
        true => Err(misuse("which binary?".into())),
        false => Ok(arguments),
    }
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
