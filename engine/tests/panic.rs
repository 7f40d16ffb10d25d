// SPDX-License-Identifier: MIT OR Apache-2.0

//! A panic inside the library ends the process with a message, and never unwinds into C.

mod support;

use std::os::fd::RawFd;
use std::process::Command;
use std::time::Duration;

use laio_engine::State;
use laio_engine::errno::Errno;
use laio_engine::kernel::{Completion, Entry, Files, Kernel};
use support::{Loop, Options, Request};

/// Takes a request and panics when its completion is looked for: a bug below the engine.
struct Buggy;

impl Kernel for Buggy {
    fn capacity(&self) -> usize {
        1024
    }

    fn prepare(&self, _: &mut Entry) {}

    fn is_transient(&self, _: i64) -> bool {
        false
    }

    unsafe fn submit(&self, entries: &[*mut Entry]) -> Result<usize, Errno> {
        Ok(entries.len())
    }

    fn reap(&self) -> Option<Completion> {
        panic!("a bug of the library")
    }

    fn has_completions(&self) -> bool {
        false
    }

    fn eventfd(&self) -> RawFd {
        3
    }

    fn clear_eventfd(&self) {}

    fn wait(&self) {}

    fn is_inherited(&self) -> bool {
        false
    }

    fn arm_timer(&self, _: Duration) -> Result<RawFd, Errno> {
        Err(Errno(libc::EMFILE))
    }

    fn is_timer_due(&self) -> bool {
        false
    }

    fn clear_timer(&self) {}
}

impl Files for Buggy {}

const CHILD: &str = "LAIO_TEST_PANIC_CHILD";

#[test]
fn a_panic_ends_the_process_and_does_not_unwind_into_the_host() {
    if std::env::var_os(CHILD).is_some() {
        let host = Loop::new(Options::default());
        let state = State::new(Buggy, host);
        state.attach(host.context()).unwrap();
        state.plug();
        Request::new(|_| ()).submit(&state, 0);
        // Should it unwind into the host, this catches it and says so.
        let run = std::panic::AssertUnwindSafe(|| host.run_bottom_halves());
        let unwound = std::panic::catch_unwind(run);
        eprintln!("still alive: {}", unwound.is_err());
        std::process::exit(0);
    }
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stderr);
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(child.status.signal(), Some(libc::SIGABRT), "{said}");
    assert!(said.contains("a bug of the library"), "{said}");
    assert!(!said.contains("still alive"), "{said}");
}
