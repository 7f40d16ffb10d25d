// SPDX-License-Identifier: MIT OR Apache-2.0

//! C links the Rust engine: C programs are compiled against `include/laio.h`, linked with the library
//! in both its forms, and run. Nothing is needed but cargo and a C compiler; `c-tests/`, which meson
//! builds, goes much further.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

/// What cargo has for the files of tests, in the directory that it builds in.
const SCRATCH: &str = env!("CARGO_TARGET_TMPDIR");
const FORMS: [Form; 2] = [Form::Archive, Form::Shared];

#[derive(Clone, Copy, Debug)]
enum Form {
    Archive,
    Shared,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Runs `command`; a failure shows what it said.
fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (said, complained) = (&output.stdout, &output.stderr);
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(said),
        String::from_utf8_lossy(complained),
    );
    output
}

/// What `build-aux/library.sh` knows of the library.
fn library(what: &str) -> String {
    let printed = run(Command::new(root().join("build-aux/library.sh")).arg(what)).stdout;
    String::from_utf8(printed).expect("a name").trim().to_owned()
}

/// Where cargo has built the library, in the profile that this program was built in. For tests it does
/// not build what they cannot link, so that is done here; it holds no lock while tests run.
static LIBRARY: LazyLock<PathBuf> = LazyLock::new(|| {
    let program = env::current_exe().expect("the path of this program");
    let built = program.ancestors().nth(2).and_then(Path::file_name).and_then(OsStr::to_str);
    let built = built.expect("the directory of a profile");
    let profile = if built == "debug" { "dev" } else { built };
    let target = Path::new(SCRATCH).parent().expect("the directory that cargo builds in");
    run(Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--package", "laio", "--profile", profile])
        .arg("--target-dir")
        .arg(target)
        .current_dir(root()));
    let directory = target.join(built);
    run(Command::new(root().join("build-aux/link-shared.sh"))
        .args([directory.join("liblaio.a"), directory.join("liblaio.so")]));
    // By this name the loader looks for it.
    let soname = Path::new(SCRATCH).join(library("soname"));
    let _ = fs::remove_file(&soname);
    symlink(directory.join("liblaio.so"), soname).expect("a link to the library");
    directory
});

/// The compiler of C or C++, which accepts no warning.
fn compiler(cpp: bool, standard: &str) -> cc::Tool {
    let libc = if cfg!(target_env = "musl") { "musl" } else { "gnu" };
    let target = format!("{}-unknown-linux-{libc}", env::consts::ARCH);
    cc::Build::new()
        .cpp(cpp)
        .std(standard)
        .target(&target)
        .host(&target)
        .opt_level(1)
        .warnings(true)
        .extra_warnings(true)
        .warnings_into_errors(true)
        .include(root().join("include"))
        .get_compiler()
}

/// A program of `source`, linked with the library in one of its forms.
fn build(source: &Path, form: Form) -> Command {
    let stem = source.file_stem().expect("a file's name").to_string_lossy();
    let program = Path::new(SCRATCH).join(format!("{stem}-{form:?}"));
    let mut command = compiler(false, "gnu11").to_command();
    command.arg(source).arg("-o").arg(&program);
    match form {
        Form::Archive => {
            command.arg(LIBRARY.join("liblaio.a"));
            command.args(library("static-libs").split_whitespace());
        }
        Form::Shared => {
            command.arg(LIBRARY.join("liblaio.so"));
            command.arg(format!("-Wl,-rpath,{SCRATCH}"));
        }
    }
    run(&mut command);
    Command::new(program)
}

#[test]
fn every_call() {
    for form in FORMS {
        run(&mut build(&root().join("tests/c/every-call.c"), form));
    }
}

#[test]
fn the_program_of_the_readme_does_what_the_readme_says() {
    let readme = root().join("README.md");
    let text = fs::read_to_string(&readme).expect("the README");
    let example = text.split_once("```c example.c\n").and_then(|(_, rest)| rest.split_once("```"));
    let source = Path::new(SCRATCH).join("readme.c");
    fs::write(&source, example.expect("a C program in it").0).expect("a file for it");
    for form in FORMS {
        let mut program = build(&source, form);
        let printed = run(program.arg(&readme)).stdout;
        assert_eq!(printed, text.as_bytes()[..4096], "{form:?}");
        // The kernel refuses the one within the submission, which calls the callback from there.
        for (file, complaint) in [("/", "cannot read: "), ("/nonexistent", "open: ")] {
            let failed = build(&source, form).arg(file).output().expect("it runs");
            assert_eq!(failed.status.code(), Some(1), "{form:?}, {file}");
            let said = String::from_utf8_lossy(&failed.stderr);
            assert!(said.starts_with(complaint), "{form:?}, {file}: {said}");
        }
    }
}

#[test]
fn the_header_is_c_and_c_plus_plus() {
    let check = |tool: &cc::Tool, language: &str, name: &str| {
        let file = root().join("c-tests/header").join(name);
        run(tool.to_command().args(["-fsyntax-only", "-x", language]).arg(file));
    };
    let c = compiler(false, "c11");
    let cpp = compiler(true, "c++17");
    let has_cpp = Command::new(cpp.path()).arg("--version").output().is_ok();
    if !has_cpp {
        eprintln!("no C++ compiler: left out");
    }
    // Alone, and after another tree's own types.
    for name in ["include.c", "after-qemu.c"] {
        check(&c, "c", name);
        if has_cpp {
            check(&cpp, "c++", name);
        }
    }
}
