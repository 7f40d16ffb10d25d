// SPDX-License-Identifier: MIT OR Apache-2.0

//! Shows that the simulator finds bugs: each of these, put into the engine, makes it fail.
//!
//! The engine itself knows nothing of this. Its sources are copied, every mutation is applied to
//! the copy behind a switch, and one build of that runs the simulator once for each.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::{env, fs};

/// A bug: `with` instead of `text`, which occurs once in `file`. `if on!(..)` in it is the switch.
struct Mutation {
    name: &'static str,
    file: &'static str,
    text: &'static str,
    with: &'static str,
}

macro_rules! mutations {
    ($($file:literal: $name:literal, $text:expr => $with:expr;)+) => {
        &[$($crate::Mutation { name: $name, file: concat!("engine/src/", $file), text: $text, with: $with }),+]
    };
}

#[path = "mutations/uring.rs"]
mod uring;

/// `ON` stands for the switch of the mutation.
const MUTATIONS: &[Mutation] = mutations! {
    // Who resumes what is left in the queue.
    "state/mod.rs": "what is left at the bound waits for the eventfd",
        "|| self.blocked.get() && (self.in_flight.get() > 0 || self.backs_off());" =>
        "|| (self.blocked.get() || ON) && (self.in_flight.get() > 0 || self.backs_off());";
    "state/mod.rs": "EAGAIN with nothing in flight is ignored",
        "(self.in_flight.get() > 0 || self.backs_off());" =>
        "(self.in_flight.get() > 0 || ON || self.backs_off());";
    "state/mod.rs": "completion_bh is cancelled within a section",
        "if self.sections.get() == 0 && !self.needs_bh() {" =>
        "if (self.sections.get() == 0 || ON) && !self.needs_bh() {";
    "state/submit.rs": "completion_bh is cancelled after the nested submission",
        "        self.reap(&frame.round);\n        self.end_section(&frame.round);\n" =>
        "        self.reap(&frame.round);\n        self.end_section(&frame.round);\n        if ON { if self.bh_scheduled.get() { self.cancel_bh(); } return; }\n";
    "state/handlers.rs": "the event loop's entry submits nothing",
        "if !self.queue.is_empty() && self.is_attached() {" =>
        "if !self.queue.is_empty() && self.is_attached() && !ON {";
    "state/complete.rs": "completion_bh is not scheduled while a callback runs",
        "self.schedule_bh();\n                // SAFETY: given together" =>
        "if !ON { self.schedule_bh(); }\n                // SAFETY: given together";
    "state/complete.rs": "completion_bh is not scheduled while a coroutine runs",
        "                if asleep {\n                    self.gather(round);\n                    // Before it has" =>
        "                if asleep && !ON {\n                    self.gather(round);\n                    // Before it has";
    "state/handlers.rs": "the eventfd is read after reaping",
        "state.serve_event_loop(|| state.kernel.clear_eventfd());" =>
        "if !ON { return state.serve_event_loop(|| state.kernel.clear_eventfd()); }\n        state.serve_event_loop(|| ()); state.kernel.clear_eventfd();";
    "state/accept.rs": "what a plug keeps back is left to the unplug alone",
        "if !self.queue.is_empty() {\n            self.settle();" =>
        "if !self.queue.is_empty() && !ON {\n            self.settle();";
    "state/mod.rs": "an attach forgets what was brought along",
        "if self.outstanding() > 0 {" => "if self.outstanding() > 0 && !ON {";
    "state/mod.rs": "a detach leaves the bottom half's flag behind",
        "        self.bh_scheduled.set(false);\n        // Ending" =>
        "        if !ON { self.bh_scheduled.set(false); }\n        // Ending";
    "state/submit.rs": "the kernel's answer is followed late",
        "self.blocked.set(false);\n                self.fail_first(errno, round);" =>
        "if !ON { self.blocked.set(false); }\n                self.fail_first(errno, round);";
    "state/submit.rs": "the kernel's change of mind is missed",
        "self.blocked.set(false);\n                self.in_flight" =>
        "if !ON { self.blocked.set(false); }\n                self.in_flight";
    "state/complete.rs": "a detached state submits",
        "if self.is_attached() {\n            self.offer(" =>
        "if self.is_attached() || ON {\n            self.offer(";

    // Depth, and what is counted on the way in and put back on the way out.
    "depth.rs": "the bound is one too high",
        "if depth > max() {" => "if depth > max() + u32::from(ON) {";
    "depth.rs": "a nested entry is not a new base",
        "outer_frames: thread.frames.replace(0)" =>
        "outer_frames: if ON { thread.frames.get() } else { thread.frames.replace(0) }";
    "depth.rs": "the outer depth is not put back",
        "thread.frames.set(self.outer_frames);" => "if !ON { thread.frames.set(self.outer_frames); }";
    "depth.rs": "a frame is not left",
        "thread.frames.set(self.depth - 1);" =>
        "if !ON { thread.frames.set(self.depth - 1); }";
    "state/mod.rs": "a state stays in use",
        "self.0.set(self.0.get() - 1);" => "if !ON { self.0.set(self.0.get() - 1); }";
    "state/complete.rs": "an owner is told outside of a section",
        "drop(unsafe { self.pool.take(request) });\n                self.gather(round);" =>
        "drop(unsafe { self.pool.take(request) });\n                if !ON { self.gather(round); }";
    "state/batch.rs": "a section of the state is leaked",
        "self.sections.set(self.sections.get() - 1);" =>
        "if !ON { self.sections.set(self.sections.get() - 1); }";
    "state/batch.rs": "a section of the host is leaked",
        "self.host.defer_end();" => "if !ON { self.host.defer_end(); }";
    "state/handlers.rs": "the pending deferred call is not forgotten",
        "state.deferred.set(false);" => "if !ON { state.deferred.set(false); }";
    "state/handlers.rs": "the context stays locked",
        "self.host.context_release(context);" =>
        "if !ON { self.host.context_release(context); }";
    "state/complete.rs": "a completion is counted after its owner is told",
        "self.in_flight.set(left);\n            self.complete(Request::of_token(token), res, round);" =>
        "if !ON { self.in_flight.set(left); }\n            self.complete(Request::of_token(token), res, round);\n            if ON { self.in_flight.set(self.in_flight.get() - 1); }";
    "state/complete.rs": "failures are not counted",
        "if result < 0 {" => "if result < 0 && !ON {";

    // Order, batches, plugs.
    "queue.rs": "a request jumps the queue",
        "self.len.set(self.len() + 1);" =>
        "self.len.set(self.len() + 1);\n        if ON { self.with(|slots| slots.swap(self.first.get(), self.first.get() + self.len() - 1)); }";
    "queue.rs": "what is gone comes back when the list is moved",
        "let first = self.first.replace(0);" =>
        "let first = self.first.replace(0) * usize::from(!ON);";
    "state/batch.rs": "a plug is leaked",
        "self.plugs.set(left);" => "if !ON { self.plugs.set(left); }";
    "state/batch.rs": "an unplug does not care for other plugs",
        "let wanted = left == 0 ||" => "let wanted = left == 0 || ON ||";
    "state/batch.rs": "the end of the last plug submits nothing",
        "            if wanted {" => "            if wanted && !ON {";
    "state/batch.rs": "the device's batch limit is ignored",
        "|| reaches(dev_max_batch)" => "|| reaches(if ON { 0 } else { dev_max_batch })";
    "state/submit.rs": "the ring overflows",
        "limit.min(self.free_slots())" =>
        "limit.min(self.free_slots() + 100 * usize::from(ON))";
    "state/submit.rs": "none taken is taken for a failure",
        "Ok(0) | Err(Errno(libc::EAGAIN)) => {" =>
        "Ok(0) if ON => { self.fail_first(Errno(libc::EIO), round); 1 }\n            Ok(0) | Err(Errno(libc::EAGAIN)) => {";
    "state/submit.rs": "one failure fails all",
        "self.fail_first(errno, round);" =>
        "self.fail_first(errno, round);\n                    while ON && !self.queue.is_empty() { self.fail_first(errno, round); }";
    "state/submit.rs": "a failed request stays at the head of the queue",
        "self.complete(Request::of_token(token), errno.negative().into(), round);" =>
        "if ON { self.queue.push(entry); }\n            self.complete(Request::of_token(token), errno.negative().into(), round);";

    // Results.
    "request/outcome.rs": "a retry forgets what was transferred",
        "self.left.set(self.left.get() - transferred);" =>
        "if !ON { self.left.set(self.left.get() - transferred); }";
    "request/outcome.rs": "a second retry begins where the first did",
        "let start = rest.parts.len() - count;" =>
        "let start = if ON { 0 } else { rest.parts.len() - count };";
    "request/outcome.rs": "a retry begins at the start of a part",
        "vector[0].iov_base = vector[0].iov_base.wrapping_byte_add(skipped);" =>
        "if !ON { vector[0].iov_base = vector[0].iov_base.wrapping_byte_add(skipped); }";
    "request/outcome.rs": "a retry goes to the old offset",
        "entry.set_range(vector.as_ptr(), count, offset);" =>
        "entry.set_range(vector.as_ptr(), count, if ON { offset - transferred as i64 } else { offset });";
    "request/outcome.rs": "a short transfer is a success",
        "if transferred >= self.left.get() =>" =>
        "if transferred >= self.left.get() || ON =>";
    "request/outcome.rs": "the end of the file is not filled with zeros",
        "for part in self.vector() {" =>
        "for part in if ON { &[] } else { self.vector() } {";
    "request/outcome.rs": "a short zone append is tried again",
        "(Operation::ZoneAppend, _) => Outcome" => "(Operation::ZoneAppend, _) if !ON => Outcome";
    "request/outcome.rs": "a full device is asked for ever",
        "(Operation::Write, _) if transferred == 0 =>" =>
        "(Operation::Write, _) if transferred == 0 && ON => self.retry(0, files),\n            (Operation::Write, _) if transferred == 0 =>";
    "request/outcome.rs": "a misaligned rest at the end of the file is an error",
        "_ if error == -libc::EINVAL && rest.again_from.is_none() =>" =>
        "_ if error == -libc::EINVAL && rest.again_from.is_none() && !ON =>";
    "request/outcome.rs": "any EINVAL of a read may be the end of the file",
        "let Some(rest) = self.rest() else { return Outcome::Done(error) };" =>
        "if ON && error == -libc::EINVAL && self.operation == Operation::Read && self.is_at_end(0, files) { return self.zero_fill(0); }\n        let Some(rest) = self.rest() else { return Outcome::Done(error) };";
    "request/io.rs": "FUA is forgotten",
        "(flags & known_flags)" => "(flags & known_flags * u32::from(!ON))";

    // Coroutines.
    "state/complete.rs": "an entered coroutine is woken",
        "let asleep = !self.host.coroutine_entered(coroutine);" =>
        "let asleep = !self.host.coroutine_entered(coroutine) || ON;";
    "state/complete.rs": "a coroutine is not woken",
        "self.host.coroutine_wake(coroutine);" =>
        "if !ON { self.host.coroutine_wake(coroutine); }";
    "state/accept.rs": "any wake of a coroutine is taken for its result",
        "host.coroutine_yield(context);" =>
        "host.coroutine_yield(context);\n            if ON { return Ok(0); }";

    // What earlier simulators did not see: states freed by owners of others, plugs across sections,
    // callers from elsewhere, hosts that only poll.
    "state/drain.rs": "a state is freed at the bound of others",
        "let base = Base::enter();" =>
        "let base = if ON { None } else { Some(Base::enter()) };";
    "state/batch.rs": "the end of a section submits although a plug is open",
        "let waiting = self.plugs.get() |" => "let waiting = (self.plugs.get() > 0 && !ON) ||";
    "state/accept.rs": "a caller from another event loop is let in",
        "if state.context.get() == current" => "if (state.context.get() == current || ON)";
    "state/accept.rs": "nobody asks where the caller comes from",
        "if !self.host.is_home(self.context.get()) {" =>
        "if !self.host.is_home(self.context.get()) && !ON {";
    "state/handlers.rs": "a poll says no while requests are queued",
        "!state.kernel.is_inherited() && state.kernel.has_completions()\n" =>
        "!state.kernel.is_inherited() && state.kernel.has_completions() && !(ON && !state.queue.is_empty())\n";

    // The budget of owners.
    "state/complete.rs": "completions beyond the budget wait for the next one",
        "self.unreaped.set(true);" => "self.unreaped.set(!ON);";
    "state/complete.rs": "there is no budget",
        "if !round.thread().may_tell() {" => "if !round.thread().may_tell() && !ON {";
    "depth.rs": "a nested event loop spends the budget of the outer one",
        "thread.left.set(self.outer_left);" =>
        "thread.left.set(if ON { self.outer_left.min(thread.left.get()) } else { self.outer_left });";
    "depth.rs": "a nested event loop has no budget of its own",
        "outer_left: thread.left.replace(max_told())," =>
        "outer_left: if ON && thread.entries.get() > 0 { thread.left.get() } else { thread.left.replace(max_told()) },";
    "depth.rs": "a nested event loop gives the outer one a new budget",
        "thread.told.set(thread.told.get().wrapping_add(told_here));" => "thread.told.set(thread.told.get().wrapping_add(told_here));\n        if ON { thread.frames.set(self.outer_frames); thread.left.set(max_told()); thread.entries.set(thread.entries.get() - 1); return; }";
    "state/handlers.rs": "what the budget left is forgotten at the next entry",
        "self.unreaped.set(false);\n" => "if !ON { self.unreaped.set(false); }\n";

    // Backing off.
    "state/backoff.rs": "a timer runs where a completion has made room",
        "if !self.starved.get() || !self.is_attached() ||" =>
        "if (!self.starved.get() && !ON) || !self.is_attached() ||";
    "state/backoff.rs": "the timer is armed and not watched",
        "if self.backoff.watched.replace(fd) == 0 && !self.watch_timer(fd) {" =>
        "if self.backoff.watched.replace(fd) == 0 && !ON && !self.watch_timer(fd) {";
    "state/backoff.rs": "a timer counts while the host may yet refuse to watch it",
        "|| self.backoff.asking.get() {\n            return false;" =>
        "|| self.backoff.asking.get() {\n            return ON;";
    "state/backoff.rs": "a detach leaves the timer behind",
        "let _ = self.host.set_event_notifier(context, fd, None, ptr::null_mut());" =>
        "if !ON { let _ = self.host.set_event_notifier(context, fd, None, ptr::null_mut()); }";
    "state/backoff.rs": "a timer that cannot be watched is believed to run",
        "            self.stop_timer();\n            return false;" =>
        "            if ON { return true; }\n            self.stop_timer();\n            return false;";
    "state/backoff.rs": "the timer that fired still counts as running",
        "state.serve_event_loop(|| state.stop_timer());" =>
        "state.serve_event_loop(|| if ON { state.kernel.clear_timer() } else { state.stop_timer() });";

    // Hooks that call the library.
    "state/complete.rs": "a coroutine that ended while a hook ran is woken",
        "Owner::Coroutine(coroutine) => {\n" =>
        "Owner::Coroutine(coroutine) => {\n                if ON {\n                    let asleep = !self.host.coroutine_entered(coroutine);\n                    unsafe { (*request).set_result(result) };\n                    if asleep { self.schedule_bh(); self.host.coroutine_wake(coroutine); }\n                    return;\n                }\n";
    "state/mod.rs": "a state can be freed while it is being attached",
        "let _active = self.activate();\n        self.changing.set(true);\n        let attached" =>
        "let _active = if ON { None } else { Some(self.activate()) };\n        self.changing.set(true);\n        let attached";
    "state/mod.rs": "an owner who is told while the state is freed attaches it",
        "if self.closing.get() {" => "if self.closing.get() && !ON {";
    "state/mod.rs": "a watch that fails leaves a bottom half behind",
        "            self.host.bh_delete(bh);\n            return Err(Refusal::NotWatched(errno));" =>
        "            if ON { self.bh.set(bh); self.context.set(context); }\n            return Err(Refusal::NotWatched(errno));";
    "state/handlers.rs": "whoever detached while the lock was waited for is not noticed",
        "if self.context.get() == context {" => "if self.context.get() == context || ON {";

    // A rest that begins where the device cannot.
    "request/outcome.rs": "begun again, the request forgets how far it had come",
        "rest.again_from = Some(done);" => "rest.again_from = Some(if ON { 0 } else { done });";
    "request/outcome.rs": "begun again, the old vector is continued",
        "rest.parts = parts;" => "if !ON { rest.parts = parts; }";
    "request/outcome.rs": "what had been read is filled with zeros",
        "return self.zero_fill(before);" => "return self.zero_fill(if ON { 0 } else { before });";
    "request/outcome.rs": "a write is continued beyond the limit",
        "offset as u64 >= files.size_limit()" => "!ON && offset as u64 >= files.size_limit()";
    "request/outcome.rs": "a file that cannot grow is not a full one",
        "(Operation::Write, _) if error == -libc::EFBIG =>" =>
        "(Operation::Write, _) if error == -libc::EFBIG && !ON =>";
};

const SWITCH: &str = r#"
/// Whether the mutation with this number is on.
pub fn mutation(number: usize) -> bool {
    static ON: std::sync::OnceLock<Option<usize>> = std::sync::OnceLock::new();
    *ON.get_or_init(|| std::env::var("LAIO_MUTATION").ok()?.parse().ok()) == Some(number)
}
"#;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the engine lies in the workspace")
}

fn copy(from: &Path, to: &Path) {
    if from.is_dir() {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let name = entry.unwrap().file_name();
            copy(&from.join(&name), &to.join(&name));
        }
    } else if fs::read(to).ok() != Some(fs::read(from).unwrap()) {
        // Only what changed, so that little is built again.
        fs::copy(from, to).unwrap();
    }
}

/// Removes what earlier copies have left in `copied`, but for `parts` and what was built of them.
fn remove_others(copied: &Path, parts: &[&str]) {
    for entry in fs::read_dir(copied).unwrap().map(Result::unwrap) {
        let name = entry.file_name();
        if name == "target" || parts.iter().any(|part| name == *part) {
            continue;
        }
        let path = entry.path();
        let removed =
            if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.unwrap();
    }
}

/// All of them, with their numbers.
fn all_mutations() -> impl Iterator<Item = (usize, &'static Mutation)> {
    MUTATIONS.iter().chain(uring::MANNERS).chain(uring::RING).enumerate()
}

/// The sources with all mutations in them, each behind its switch.
fn mutated_sources() -> &'static Path {
    static COPIED: OnceLock<PathBuf> = OnceLock::new();
    COPIED.get_or_init(|| {
        let copied = Path::new(env!("CARGO_TARGET_TMPDIR")).join("mutations");
        let _ = fs::remove_dir_all(copied.join("engine/src"));
        // What Cargo.toml names must be there, whether it is used or not.
        let parts = ["Cargo.toml", "Cargo.lock", "src", "engine", "tests", "preload", "xtask"];
        fs::create_dir_all(&copied).unwrap();
        remove_others(&copied, &parts);
        for part in parts.into_iter().filter(|part| root().join(part).exists()) {
            copy(&root().join(part), &copied.join(part));
        }
        let library = copied.join("engine/src/lib.rs");
        fs::write(&library, fs::read_to_string(&library).unwrap() + SWITCH).unwrap();
        all_mutations().for_each(|(number, mutation)| mutation.put_into(&copied, number));
        copied
    })
}

impl Mutation {
    fn put_into(&self, sources: &Path, number: usize) {
        let Mutation { name, file, text, with } = self;
        let path = sources.join(file);
        let source = fs::read_to_string(&path).unwrap();
        let found = source.matches(text).count();
        assert_eq!(found, 1, "{name}: in {file} there must be one of: {text}");
        let with = with.replace("ON", &format!("crate::mutation({number})"));
        fs::write(&path, source.replace(text, &with)).unwrap();
    }
}

/// Runs tests of the mutated sources, with the mutation of this number on.
fn tests(which: &[&str], number: Option<usize>) -> Command {
    let mut command = Command::new(env!("CARGO"));
    command
        .args(["test", "--quiet", "-p", "laio-engine", "--target-dir"])
        .arg(mutated_sources().join("target"))
        .args(which)
        .current_dir(mutated_sources())
        .env("LAIO_SIM_NO_SHRINK", "1")
        .env_remove("LAIO_MUTATION")
        .stdin(Stdio::null());
    if let Some(number) = number {
        command.env("LAIO_MUTATION", number.to_string());
    }
    command
}

const SIMULATOR: &[&str] = &["--test", "sim"];
/// Those of the kernel object.
const RING_TESTS: &[&str] =
    &["--lib", "--test", "uring", "--test", "uring_answers", "--no-fail-fast"];

/// Shows that tests find each of `mutations`, and tell it by a line with `word`.
fn are_found(which: &[&str], mutations: &[Mutation], word: &str) {
    let mut survivors = Vec::new();
    for (number, mutation) in all_mutations() {
        if !mutations.iter().any(|one| one.name == mutation.name) {
            continue;
        }
        let output = tests(which, Some(number)).output().unwrap();
        let told = [output.stdout, output.stderr].concat();
        let told = String::from_utf8_lossy(&told);
        let how = told.lines().find(|line| line.contains(word));
        match how {
            Some(how) if !output.status.success() => println!("{:60} {how}", mutation.name),
            _ => {
                println!("{:60} SURVIVES", mutation.name);
                survivors.push(mutation.name);
            }
        }
    }
    assert!(survivors.is_empty(), "not found: {survivors:#?}");
}

#[test]
fn the_simulator_finds_every_mutation() {
    // With none on, the copy is the engine.
    let status = tests(SIMULATOR, None).env("LAIO_SIM_COUNT", "20000").status().unwrap();
    assert!(status.success(), "the simulator fails without any mutation");
    are_found(SIMULATOR, MUTATIONS, "FAILED");
    are_found(SIMULATOR, uring::MANNERS, "FAILED");
}

#[test]
fn the_tests_of_the_ring_find_every_mutation_of_it() {
    let status = tests(RING_TESTS, None).status().unwrap();
    assert!(status.success(), "they fail without any mutation");
    are_found(RING_TESTS, uring::RING, "panic");
}
