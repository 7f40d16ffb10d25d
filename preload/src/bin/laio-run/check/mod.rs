// SPDX-License-Identifier: MIT OR Apache-2.0

//! `laio-run --check`: whether a QEMU's submissions recurse without bound, and what each mode of the library
//! would do about it.
//!
//! Certain is only what was tried, with the binary itself. A qemu-img can be: it is made to recurse. Any other
//! program of QEMU's is judged by the qemu-img of the same version, if there is one, then by what it is linked
//! to and exports, then by its version; each of these is likely at most, and the line says which it was.

mod binary;
#[path = "../../../names.rs"]
mod names;
mod trial;
mod version;

use std::env;
use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use binary::Binary;
use names::{LIBAIO, LIBURING, Names};
use trial::{Hole, Mode, Outcome};
use version::{Aio, Version, package_of_line};

/// A run that ends well may have been lucky.
const TRIES: u32 = 3;
/// For what nothing certain can be said of.
const FIND_OUT: &str = "a distribution may have brought the fix: check its qemu-img (laio-run --check), or \
                        read its changelog";

/// Whether an engine of QEMU's recurses, and what says so.
struct Verdict {
    word: &'static str,
    is_harmless: bool,
    why: String,
}

impl Verdict {
    fn new(word: &'static str, why: impl Into<String>) -> Self {
        let is_harmless = [NOT_VULNERABLE, LIKELY_NOT].contains(&word);
        Self { word, is_harmless, why: why.into() }
    }
}

const VULNERABLE: &str = "vulnerable";
const NOT_VULNERABLE: &str = "not vulnerable";
const LIKELY: &str = "likely vulnerable";
const LIKELY_NOT: &str = "likely not vulnerable";
const UNKNOWN: &str = "unknown";

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.word, self.why)
    }
}

/// What all checks have in common.
pub struct Check<'a> {
    /// What LD_PRELOAD is to be, or why it cannot.
    preload: Result<&'a OsStr, &'a str>,
    hole: Result<Hole, String>,
}

impl<'a> Check<'a> {
    pub fn new(preload: Result<&'a OsStr, &'a str>) -> Self {
        Self { preload, hole: Hole::new() }
    }

    /// Prints what is found of the program `name`. Whether it is harmless.
    pub fn report(&self, name: &OsStr) -> Result<bool, String> {
        let wrong = |why: String| format!("{}: {why}", Path::new(name).display());
        let path = find(name).ok_or_else(|| wrong("not found".into()))?;
        let binary = Binary::open(&path).map_err(wrong)?;
        if !binary.is_qemu() {
            return Ok(report_other(&binary));
        }
        let qemu = Qemu::new(self, binary);
        println!(
            "{}: {}",
            path.display(),
            qemu.version_line().unwrap_or("a QEMU of unknown version")
        );
        let mut is_harmless = true;
        for aio in [Aio::Native, Aio::IoUring] {
            let verdict = qemu.verdict(aio);
            println!("  {:<14}{verdict}", format!("aio={}", aio.name()));
            is_harmless &= verdict.is_harmless;
        }
        println!("  {:<14}{}", "guard mode", qemu.guard());
        println!("  {:<14}{}", "engine mode", qemu.engine());
        Ok(is_harmless)
    }

    fn mode(&self, name: &'static str) -> Result<Mode<'a>, &'a str> {
        self.preload.map(|preload| Mode { name, preload })
    }
}

/// Where the name leads, as for a shell.
fn find(name: &OsStr) -> Option<PathBuf> {
    let path = Path::new(name);
    if path.components().count() > 1 {
        return path.is_file().then(|| path.into());
    }
    env::split_paths(&env::var_os("PATH")?)
        .map(|place| place.join(path))
        .find(|path| path.is_file())
}

/// Of a program that is not QEMU's only the links are known.
fn report_other(binary: &Binary) -> bool {
    let submits = [&LIBAIO, &LIBURING].map(|library| binary.submits_through(library));
    let verdict = if !binary.is_dynamic {
        Verdict::new(
            UNKNOWN,
            "not QEMU's, and linked statically; the library is not loaded into it",
        )
    } else if submits == [false, false] {
        Verdict::new(LIKELY_NOT, "it is linked to neither libaio's nor liburing's submission")
    } else {
        Verdict::new(UNKNOWN, "not QEMU's, and only of QEMU it is known what recurses")
    };
    println!("{}: {verdict}", binary.path.display());
    println!("  {:<14}{}", "guard mode", guard_by_links(binary));
    verdict.is_harmless
}

/// A program of QEMU's.
struct Qemu<'a> {
    check: &'a Check<'a>,
    binary: Binary,
    /// What it prints first when asked for its version, or why it does not.
    version: Result<String, String>,
}

impl<'a> Qemu<'a> {
    fn new(check: &'a Check<'a>, binary: Binary) -> Self {
        let version = version_line(&binary.path, None).map(|(line, _)| line);
        Self { check, binary, version }
    }

    fn version_line(&self) -> Option<&str> {
        self.version.as_deref().ok()
    }

    fn verdict(&self, aio: Aio) -> Verdict {
        match self.tried(aio) {
            Some(Ok(verdict)) => verdict,
            Some(Err(why)) => {
                let verdict = self.judged(aio);
                Verdict { why: format!("{} (not tried: {why})", verdict.why), ..verdict }
            }
            None => self.judged(aio),
        }
    }

    fn is_qemu_img(&self) -> bool {
        self.version_line().is_some_and(|line| line.starts_with("qemu-img version "))
    }

    /// By experiment; `None` if that is not to be had of this program.
    fn tried(&self, aio: Aio) -> Option<Result<Verdict, String>> {
        let qemu_img =
            if self.is_qemu_img() { self.binary.path.clone() } else { self.companion()? };
        let hole = match &self.check.hole {
            Ok(hole) => hole,
            Err(why) => return Some(Err(why.clone())),
        };
        for _ in 0..TRIES {
            match hole.bench(&qemu_img, aio, None) {
                Outcome::Completed(_) => {}
                Outcome::Overflowed => {
                    let what =
                        "SIGSEGV while it read a hole, one request at a time, on a stack of 1 MiB";
                    return Some(Ok(self.by_experiment([VULNERABLE, LIKELY], what, &qemu_img)));
                }
                Outcome::Failed(why) => return Some(Err(why)),
            }
        }
        let what =
            format!("read a hole in {} to the end on a stack of 1 MiB", hole.directory.display());
        Some(Ok(self.by_experiment([NOT_VULNERABLE, LIKELY_NOT], &what, &qemu_img)))
    }

    /// What was seen of another is likely of this one.
    fn by_experiment(&self, words: [&'static str; 2], what: &str, qemu_img: &Path) -> Verdict {
        if self.is_qemu_img() {
            Verdict::new(words[0], format!("tried: {what}"))
        } else {
            let other = qemu_img.display();
            Verdict::new(words[1], format!("tried with {other}, of the same version: {what}"))
        }
    }

    /// The qemu-img of the same version, beside it or where programs are found.
    fn companion(&self) -> Option<PathBuf> {
        let package = package_of_line(self.version_line()?)?;
        let beside = self.binary.path.with_file_name("qemu-img");
        [Some(beside), find(OsStr::new("qemu-img"))].into_iter().flatten().find(|qemu_img| {
            version_line(qemu_img, None)
                .is_ok_and(|(line, _)| package_of_line(&line) == Some(package))
        })
    }

    /// By what can be read.
    fn judged(&self, aio: Aio) -> Verdict {
        let binary = &self.binary;
        let library = match aio {
            Aio::Native => &LIBAIO,
            Aio::IoUring => &LIBURING,
        };
        let exports_all = binary.exports_qemus_functions();
        let exports = |name| exports_all && binary.exports(name);
        let lacks = |name| exports_all && !binary.exports(name);
        if binary.is_on_laio() && (aio == Aio::Native || exports("luring_init")) {
            return Verdict::new(LIKELY_NOT, "it is built on laio");
        }
        if binary.is_dynamic && !binary.submits_through(library) {
            let submit = library.submit.to_string_lossy();
            return Verdict::new(LIKELY_NOT, format!("it is not linked to {submit}"));
        }
        if lacks("defer_call") {
            return Verdict::new(
                LIKELY_NOT,
                "it has no defer_call, by which releases from 8.2 on recurse",
            );
        }
        if aio == Aio::IoUring {
            if lacks("luring_init") {
                return Verdict::new(LIKELY_NOT, "it has no luring_init, as releases from 10.2 on");
            }
            if exports("luring_init") && exports("defer_call") {
                let why =
                    "it has luring_init and defer_call, by which releases from 8.2 to 10.1 recurse";
                return Verdict::new(LIKELY, why);
            }
        }
        self.judged_by_version(aio)
    }

    fn judged_by_version(&self, aio: Aio) -> Verdict {
        let line = match &self.version {
            Ok(line) => line,
            Err(why) => {
                return Verdict::new(UNKNOWN, format!("it does not say its version: {why}"));
            }
        };
        match Version::of_line(line).map(|version| version.recurses(aio)) {
            Some(Ok(why)) => Verdict::new(LIKELY, format!("by its version: {why}; {FIND_OUT}")),
            Some(Err(why)) => Verdict::new(LIKELY_NOT, format!("by its version: {why}")),
            None => Verdict::new(UNKNOWN, format!("no version in {line:?}")),
        }
    }

    fn guard(&self) -> String {
        match self.decision("guard") {
            Err(why) => why,
            Ok(_) if self.is_qemu_img() => self.benched("guard"),
            Ok(_) => guard_by_links(&self.binary),
        }
    }

    fn engine(&self) -> String {
        match self.decision("engine") {
            Err(why) => why,
            Ok(Decision::Guard) => "finds nothing to take over, and is a guard".into(),
            Ok(Decision::GuardBecause(why)) => format!("is a guard: {why}"),
            Ok(Decision::Engine) if self.is_qemu_img() => self.benched("engine"),
            Ok(Decision::Engine) => {
                "takes it over (tried: it did when --version was asked for)".into()
            }
        }
    }

    /// What the library does when it is loaded into the program.
    fn decision(&self, mode: &'static str) -> Result<Decision, String> {
        let mode = self.check.mode(mode)?;
        let (_, said) = version_line(&self.binary.path, Some(&mode))
            .map_err(|why| format!("unknown: the program does not run here: {why}"))?;
        Decision::of(&said).ok_or_else(|| "no use: it is not loaded into this program".into())
    }

    /// How `qemu-img bench` fares under a mode that does something.
    fn benched(&self, mode: &'static str) -> String {
        let (Ok(mode), Ok(hole)) = (self.check.mode(mode), &self.check.hole) else {
            return "is loaded (tried), and could not be seen at work".into();
        };
        let of = |aio| match hole.bench(&self.binary.path, aio, Some(&mode)) {
            Outcome::Completed(said) => format!("aio={} completes, {}", aio.name(), counted(&said)),
            Outcome::Overflowed => format!("aio={} overflows its stack even so", aio.name()),
            Outcome::Failed(why) => format!("aio={}: {why}", aio.name()),
        };
        format!("tried: {}\n{:16}tried: {}", of(Aio::Native), "", of(Aio::IoUring))
    }
}

/// What guard mode goes by.
fn guard_by_links(binary: &Binary) -> String {
    if !binary.is_dynamic {
        return "no use: it is not loaded into a program that is linked statically".into();
    }
    if !binary.has_unwind_tables {
        return "no use: it sees no nesting in a program without unwind tables".into();
    }
    let of = |library: &Names| {
        let submit = library.submit.to_string_lossy();
        match (binary.submits_through(library), binary.reaps_through(library)) {
            (false, _) => format!("nothing to do about {submit}"),
            (true, false) => format!("bounds the nesting of {submit}"),
            (true, true) => {
                format!("leaves {submit} alone: the program waits through that library too")
            }
        }
    };
    format!("by what it is linked to: {}; {}", of(&LIBAIO), of(&LIBURING))
}

enum Decision {
    Engine,
    Guard,
    GuardBecause(String),
}

impl Decision {
    /// `None` if the library was not there.
    fn of(said: &str) -> Option<Self> {
        let line = said.lines().rfind(|line| line.starts_with("laio_preload["))?;
        if line.contains("]: engine: ") {
            return Some(Self::Engine);
        }
        let why = said.lines().find_map(|line| line.strip_prefix("laio_preload: no engine mode: "));
        Some(match why {
            Some(why) => Self::GuardBecause(why.trim_end_matches("; using guard").into()),
            None => Self::Guard,
        })
    }
}

/// The part of the line at exit that speaks of what was used.
fn counted(said: &str) -> String {
    let parts = said.lines().last().unwrap_or_default().split("; ");
    let used =
        parts.filter_map(|part| part.split_once(" submissions, ").map(|(_, nesting)| nesting));
    used.last().unwrap_or("and the library said nothing").into()
}

/// The first line that the program prints when asked for its version, and what it says on standard error.
fn version_line(program: &Path, mode: Option<&Mode>) -> Result<(String, String), String> {
    let mut command = Command::new(program);
    command.arg("--version");
    let output = trial::run(command, mode).map_err(|error| error.to_string())?;
    let line =
        String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() {
        Ok((line, said))
    } else {
        Err(format!("{}: {said}", output.status))
    }
}
