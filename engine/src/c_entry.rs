// SPDX-License-Identifier: MIT OR Apache-2.0

//! What every C front does alike: init, attach, detach, cleanup, co_submit, plugs.
//!
//! A front is a set of functions with QEMU's prototypes: the exported ones of `laio`, and those that
//! the preload library puts in the place of an executable's own. Here stands what they decide and
//! what they report; a front adds types and names.
//!
//! The environment's LAIO_KERNEL is read once, when it is first needed, and LAIO_LOG_BOUND with the first state.
//!
//! A pointer to a state is null, or came from [`init`] with the same kernel and host and was not
//! freed: "a state of this front" below. Null is reported, or answered by -EINVAL.

#![allow(clippy::missing_safety_doc)] // The paragraph above is the contract of all of them.

use std::ffi::{c_int, c_uint, c_void};
use std::ptr;
use std::sync::{Once, OnceLock};

use crate::errno::Errno;
use crate::first_bound;
use crate::host::{AioContext, Error, Host, report};
use crate::kernel::{Chosen, Kernel, LaioKernel, SetupError, probe};
use crate::qiov::{BdrvRequestFlags, QEMUIOVector, io_of_qiov};
use crate::request::{CompletionCallback, Io};
use crate::wait::Uncancelled;
use crate::{LaioStats, State};

const EINVAL: c_int = -libc::EINVAL;
const NULL_STATE: &str = "the state is NULL";
const NO_STATE: &str = "no state serves the calling thread's event loop";

/// What the environment wants where a program does not say. A value that makes no sense is reported
/// and ignored.
fn wanted<H: Host>(host: H) -> LaioKernel {
    static WANTED: OnceLock<LaioKernel> = OnceLock::new();
    *WANTED.get_or_init(|| {
        LaioKernel::of_environment().unwrap_or_else(|value| {
            let instead = "is not auto, linux-aio or io_uring; using auto";
            report(host, "LAIO_KERNEL", format_args!("{value:?} {instead}"));
            LaioKernel::Auto
        })
    })
}

/// Whether a line is wanted at the bound is asked once, when no coroutine's stack is in use for it.
fn ask_for_line<H: Host>(host: H) {
    static ASKED: Once = Once::new();
    ASKED.call_once(|| {
        if let Err(value) = first_bound::ask_environment() {
            report(host, first_bound::VARIABLE, format_args!("{value:?} is not 0 or 1; using 0"));
        }
    });
}

/// A state over the kernel interface of this number; null, and the host's error object filled, if
/// it cannot be had.
pub fn init<H: Host>(host: H, number: c_uint, errp: *mut *mut Error) -> *mut State<Chosen, H> {
    ask_for_line(host);
    let kernel = match LaioKernel::of_number(number) {
        Some(LaioKernel::Auto) => Chosen::new(wanted(host)),
        Some(asked) => Chosen::new(asked),
        None => Err(SetupError::new(Errno(libc::EINVAL), c"no kernel interface has this number")),
    };
    match kernel {
        Ok(kernel) => Box::into_raw(Box::new(State::new(kernel, host))),
        Err(SetupError { errno, what }) => {
            host.error_set(errp, errno.0, &what);
            ptr::null_mut()
        }
    }
}

/// Whether `fd` can be flushed asynchronously.
pub fn has_fdsync<H: Host>(host: H, fd: c_int) -> bool {
    if fd < 0 {
        report(host, "laio_has_fdsync", format_args!("the descriptor {fd} is negative"));
        return false;
    }
    probe::has_fdsync(wanted(host), fd)
}

/// Whether writes can be on stable storage when they complete.
pub fn has_fua<H: Host>(host: H) -> bool {
    probe::has_fua(wanted(host))
}

/// The state at `s`, or a report in the name of `function` that it is `missing`.
unsafe fn state_or_report<'a, K: Kernel, H: Host>(
    host: H,
    s: *const State<K, H>,
    function: &str,
    missing: &str,
) -> Option<&'a State<K, H>> {
    // SAFETY: null or a state of this front.
    let state = unsafe { s.as_ref() };
    if state.is_none() {
        report(host, function, missing);
    }
    state
}

/// Frees a state, after completing what is outstanding, or reports why not. `before` sees it when it
/// is sure to go.
pub unsafe fn cleanup<K: Kernel, H: Host>(
    host: H,
    s: *mut State<K, H>,
    before: impl FnOnce(&State<K, H>),
) {
    const NAME: &str = "laio_cleanup";
    let _uncancelled = Uncancelled::enter();
    // SAFETY: null or a state of this front.
    let Some(state) = (unsafe { state_or_report(host, s, NAME, NULL_STATE) }) else {
        return;
    };
    if let Err(refusal) = state.check_cleanup() {
        return report(host, NAME, refusal);
    }
    let outstanding = state.outstanding();
    if outstanding > 0 {
        let waiting = format_args!("waiting for {outstanding} requests that are outstanding");
        report(host, NAME, waiting);
    }
    before(state);
    // SAFETY: a state of this front came from a box; checked above, and not used again.
    unsafe { State::cleanup(s) };
}

/// Lets `context` serve the state, or reports why not.
pub unsafe fn attach<K: Kernel, H: Host>(host: H, s: *mut State<K, H>, context: *mut AioContext) {
    const NAME: &str = "laio_attach_aio_context";
    let _uncancelled = Uncancelled::enter();
    // SAFETY: null or a state of this front.
    let Some(state) = (unsafe { state_or_report(host, s, NAME, NULL_STATE) }) else {
        return;
    };
    if context.is_null() {
        return report(host, NAME, "the event loop is NULL");
    }
    if let Err(refusal) = state.attach(context) {
        report(host, NAME, refusal);
    }
}

/// Ends the service of `context`, or reports why not; and what is outstanding.
pub unsafe fn detach<K: Kernel, H: Host>(host: H, s: *mut State<K, H>, context: *mut AioContext) {
    const NAME: &str = "laio_detach_aio_context";
    let _uncancelled = Uncancelled::enter();
    // SAFETY: null or a state of this front.
    let Some(state) = (unsafe { state_or_report(host, s, NAME, NULL_STATE) }) else {
        return;
    };
    if let Err(refusal) = state.detach(context) {
        return report(host, NAME, refusal);
    }
    let outstanding = state.outstanding();
    if outstanding > 0 {
        let left = format_args!("{outstanding} requests are outstanding until the next attach");
        report(host, NAME, left);
    }
}

/// The calling thread's event loop, and the state that serves it; null where there is none.
#[inline]
fn current<K: Kernel, H: Host>(host: H) -> (*mut AioContext, *mut State<K, H>) {
    let context = host.current_aio_context();
    if context.is_null() {
        return (context, ptr::null_mut());
    }
    (context, host.linux_aio_state(context).cast())
}

/// What a request asks for, in C's words. The vector is the caller's to keep.
#[derive(Clone, Copy)]
pub struct CRequest {
    /// The file's descriptor.
    pub fd: c_int,
    /// In bytes.
    pub offset: u64,
    /// Null, or a vector.
    pub qiov: *mut QEMUIOVector,
    /// One of QEMU_AIO_*.
    pub kind: c_int,
    /// BDRV_REQ_*.
    pub flags: BdrvRequestFlags,
    /// How many queued requests its device wants submitted at once; 0 for the default.
    pub dev_max_batch: u64,
}

impl CRequest {
    #[inline]
    unsafe fn io(self) -> Result<Io, Errno> {
        // SAFETY: null or a vector, by the contract of this front's functions.
        unsafe { io_of_qiov(self.fd, self.offset, self.qiov, self.kind, self.flags) }
    }
}

/// Submits to the state of the calling thread's event loop and returns when it is complete.
#[inline]
pub unsafe fn co_submit<K: Kernel, H: Host>(host: H, request: CRequest) -> c_int {
    let find = || {
        let (context, s) = current::<K, H>(host);
        // SAFETY: the host's answer is null or a state of this front.
        unsafe { State::usable_in(s, context) }
    };
    // SAFETY: the vector is as its functions ask; the state was found.
    let result = unsafe { State::co_submit(request.io(), request.dev_max_batch, find) };
    result.unwrap_or_else(Errno::negative)
}

/// The same for the state `s`.
#[inline]
pub unsafe fn state_co_submit<K: Kernel, H: Host>(s: *mut State<K, H>, request: CRequest) -> c_int {
    // SAFETY: null or a state of this front.
    let find = || unsafe { State::usable(s) };
    // SAFETY: the vector is as its functions ask; the state was found.
    let result = unsafe { State::co_submit(request.io(), request.dev_max_batch, find) };
    result.unwrap_or_else(Errno::negative)
}

/// Submits a request whose result `cb(opaque, ret)` learns.
#[inline]
pub unsafe fn state_submit<K: Kernel, H: Host>(
    s: *mut State<K, H>,
    io: impl FnOnce() -> Result<Io, Errno>,
    dev_max_batch: u64,
    (cb, opaque): (Option<CompletionCallback>, *mut c_void),
) -> c_int {
    // SAFETY: null or a state of this front.
    let (Some(state), Some(cb)) = (unsafe { s.as_ref() }, cb) else {
        return EINVAL;
    };
    state.submit(io, dev_max_batch, cb, opaque).map_or_else(Errno::negative, |()| 0)
}

/// Plugs the state `s`.
pub unsafe fn state_plug<K: Kernel, H: Host>(host: H, s: *mut State<K, H>) {
    // SAFETY: null or a state of this front.
    plug(unsafe { state_or_report(host, s, "laio_state_io_plug", NULL_STATE) });
}

/// Plugs the state of the calling thread's event loop.
pub unsafe fn current_plug<K: Kernel, H: Host>(host: H) {
    let (_, s) = current::<K, H>(host);
    // SAFETY: the host's answer is null or a state of this front.
    plug(unsafe { state_or_report(host, s, "laio_io_plug", NO_STATE) });
}

fn plug<K: Kernel, H: Host>(state: Option<&State<K, H>>) {
    if let Some(state) = state {
        state.plug();
    }
}

/// Ends a plug of the state `s`.
pub unsafe fn state_unplug<K: Kernel, H: Host>(host: H, s: *mut State<K, H>, max_batch: u64) {
    const NAME: &str = "laio_state_io_unplug";
    // SAFETY: null or a state of this front.
    unplug(host, NAME, unsafe { state_or_report(host, s, NAME, NULL_STATE) }, max_batch);
}

/// Ends a plug of the state of the calling thread's event loop.
pub unsafe fn current_unplug<K: Kernel, H: Host>(host: H, max_batch: u64) {
    const NAME: &str = "laio_io_unplug";
    let (_, s) = current::<K, H>(host);
    // SAFETY: the host's answer is null or a state of this front.
    unplug(host, NAME, unsafe { state_or_report(host, s, NAME, NO_STATE) }, max_batch);
}

fn unplug<K: Kernel, H: Host>(
    host: H,
    function: &str,
    state: Option<&State<K, H>>,
    max_batch: u64,
) {
    if state.is_some_and(|state| !state.unplug(max_batch)) {
        report(host, function, "there is no plug to end");
    }
}

/// The statistics of `s`, or a report in the name of `function`.
pub unsafe fn stats<H: Host>(
    host: H,
    s: *const State<Chosen, H>,
    function: &str,
) -> Option<LaioStats> {
    // SAFETY: null or a state of this front.
    let state = unsafe { state_or_report(host, s, function, NULL_STATE) }?;
    Some(LaioStats { kernel: state.kernel().which() as u64, ..state.stats() })
}

/// Which interface of the kernel `s` has; [`LaioKernel::Auto`], and a report, for none.
pub unsafe fn state_kernel<H: Host>(host: H, s: *const State<Chosen, H>) -> LaioKernel {
    // SAFETY: null or a state of this front.
    let state = unsafe { state_or_report(host, s, "laio_state_kernel", NULL_STATE) };
    state.map_or(LaioKernel::Auto, |state| state.kernel().which())
}
