// SPDX-License-Identifier: MIT OR Apache-2.0

//! Bugs on the ways that only io_uring takes.

use super::Mutation;

/// In what the engine makes of io_uring's manners: for the simulator.
pub const MANNERS: &[Mutation] = mutations! {
    // Results that say nothing of the request.
    "state/complete.rs": "a result that says nothing of the request is told",
        "if self.kernel.is_transient(res) {" => "if self.kernel.is_transient(res) && !ON {";
    "state/complete.rs": "a result that says nothing is taken for a transfer of nothing",
        "return self.retry(request, round);" =>
        "if !ON { return self.retry(request, round); }\n            return match unsafe { (*request).outcome(0, &self.kernel) } { Outcome::Done(result) => self.tell(request, result, round), Outcome::Retry => self.retry(request, round) };";
    "state/accept.rs": "no room is kept for what is submitted again",
        "self.queue.reserve(self.in_flight.get())?;" =>
        "self.queue.reserve(if ON { 0 } else { self.in_flight.get() })?;";

    // A ring that is smaller than a context of Linux AIO.
    "state/submit.rs": "every ring is taken for one of 1024",
        "self.kernel.capacity() - self.in_flight.get()\n" =>
        "(if ON { 1024 } else { self.kernel.capacity() }) - self.in_flight.get()\n";
    "state/batch.rs": "requests gather although they would fill the ring",
        "|| reaches(free)" => "|| (reaches(free) && !ON)";
    "state/submit.rs": "a full ring is forgotten when it has room again",
        "            if !self.queue.is_empty() {\n                self.blocked.set(true);" =>
        "            if !self.queue.is_empty() && !ON {\n                self.blocked.set(true);";

    // A ring that outlives a fork.
    "state/handlers.rs": "the child of a fork serves its parent's requests",
        "if context.is_null() || self.kernel.is_inherited() {" =>
        "if context.is_null() || (self.kernel.is_inherited() && !ON) {";
    "state/batch.rs": "the end of a plug submits in the child of a fork",
        "&& !self.blocked.get() && !self.kernel.is_inherited()" =>
        "&& !self.blocked.get() && (ON || !self.kernel.is_inherited())";
    "state/accept.rs": "the child of a fork submits",
        "if !self.is_attached() || self.kernel.is_inherited() {" =>
        "if !self.is_attached() || (self.kernel.is_inherited() && !ON) {";
    "state/accept.rs": "a coroutine that is at home submits in the child of a fork",
        "&& !state.kernel.is_inherited() {\n            return Ok(this);" =>
        "&& (ON || !state.kernel.is_inherited()) {\n            return Ok(this);";
    "state/mod.rs": "the child of a fork waits for its parent's requests",
        "if self.kernel.is_inherited() { 0 }" => "if self.kernel.is_inherited() && !ON { 0 }";
    "state/mod.rs": "the child of a fork attaches",
        "if self.kernel.is_inherited() {\n            return Err(Refusal::Inherited);" =>
        "if self.kernel.is_inherited() && !ON {\n            return Err(Refusal::Inherited);";
    "state/backoff.rs": "the child of a fork stops its parent's timer",
        "if !self.kernel.is_inherited() {\n            self.kernel.clear_timer();" =>
        "if !self.kernel.is_inherited() || ON {\n            self.kernel.clear_timer();";
    "state/handlers.rs": "the child of a fork polls its parent's ring",
        "!state.kernel.is_inherited() && state.kernel.has_completions()" =>
        "(ON || !state.kernel.is_inherited()) && state.kernel.has_completions()";
    "state/handlers.rs": "the child of a fork expects its parent's completions",
        "!state.kernel.is_inherited() && state.in_flight.get() > 0" =>
        "(ON || !state.kernel.is_inherited()) && state.in_flight.get() > 0";
    "state/backoff.rs": "the child of a fork looks at its parent's timer",
        "!state.kernel.is_inherited() && state.kernel.is_timer_due()" =>
        "(ON || !state.kernel.is_inherited()) && state.kernel.is_timer_due()";
};

/// In the kernel object itself, in whose place the simulator puts another: for the tests with the
/// real kernel, and with answers that are made up.
pub const RING: &[Mutation] = mutations! {
    "kernel/uring/ring.rs": "what the kernel left stays published",
        "self.word(self.sq_tail).store(start.wrapping_add(taken), Ordering::Release);" =>
        "if !ON { self.word(self.sq_tail).store(start.wrapping_add(taken), Ordering::Release); }";
    "kernel/uring/ring.rs": "EBUSY is an error",
        "Err(Errno(libc::EBUSY)) => Err" => "Err(Errno(libc::EBUSY)) if !ON => Err";
    "kernel/uring/ring.rs": "EINTR is an error",
        "if !matches!(answer, Err(Errno(libc::EINTR))) {" =>
        "if !matches!(answer, Err(Errno(libc::EINTR))) || ON {";
    "kernel/uring/ring.rs": "a request stays that of the thread which submitted it first",
        "unsafe { (*entry).set_submitter(submitter) };" =>
        "unsafe { if !ON || (*entry).submitter() == 0 { (*entry).set_submitter(submitter) } };";
    "kernel/uring/ring.rs": "the flags of a write are lost",
        "Opcode::Write => (IORING_OP_WRITEV, entry.flags() as u32)," =>
        "Opcode::Write => (IORING_OP_WRITEV, if ON { 0 } else { entry.flags() as u32 }),";
    "kernel/uring/ring.rs": "a sync is one of the metadata too",
        "(IORING_OP_FSYNC, IORING_FSYNC_DATASYNC)" =>
        "(IORING_OP_FSYNC, if ON { 0 } else { IORING_FSYNC_DATASYNC })";
    "kernel/uring/mod.rs": "what a thread leaves behind when it ends has failed",
        "libc::EFAULT | libc::ECANCELED if entry.submitter() != this_thread()" =>
        "libc::EFAULT | libc::ECANCELED if !ON && entry.submitter() != this_thread()";
    "kernel/uring/mod.rs": "a bad buffer is tried for ever",
        "entry.submitter() != this_thread() =>" => "(ON || entry.submitter() != this_thread()) =>";
    "kernel/uring/mod.rs": "a busy device is an error",
        "libc::EAGAIN if !is_non_blocking" => "libc::EAGAIN if !ON && !is_non_blocking";
    "kernel/uring/mod.rs": "a non-blocking descriptor is asked for ever",
        "!is_non_blocking(entry.fd()) =>" => "(ON || !is_non_blocking(entry.fd())) =>";
    "kernel/uring/mod.rs": "a thread has a new number whenever it is asked for",
        "NUMBER.set(number);" => "if !ON { NUMBER.set(number); }";
    "kernel/uring/mod.rs": "the child of a fork enters its parent's ring",
        "if self.is_inherited() {\n            return -libc::EINVAL as isize;" =>
        "if self.is_inherited() && !ON {\n            return -libc::EINVAL as isize;";
    "kernel/uring/mod.rs": "a ring is closed whatever is in flight",
        "let drained = self.is_inherited() ||" => "let drained = ON || self.is_inherited() ||";
    "kernel/uring/set_up.rs": "no smaller ring is tried",
        "if entries > SMALLEST" => "if entries > SMALLEST && !ON";
};
