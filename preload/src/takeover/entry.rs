// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the executable's `laio_*` and `luring_*` jump to. QEMU's prototypes, and no arguments but
//! QEMU's.

use std::ffi::{c_int, c_void};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use laio_engine::State;
use laio_engine::c_entry::{self, CRequest};
use laio_engine::host::{AioContext, Error};
use laio_engine::kernel::{Chosen, LaioKernel};
use laio_engine::qiov::{BdrvRequestFlags, QEMUIOVector};

use super::qemu::{Functions, Generation, Qemu};
use crate::summary::Total;

type QemuState = State<Chosen, Qemu>;

static FUNCTIONS: OnceLock<Functions> = OnceLock::new();
static IO_URING_FUNCTIONS: OnceLock<Functions> = OnceLock::new();

/// The executable's functions are called only by code that it enters after this.
pub fn start(functions: Functions, for_io_uring: Option<Functions>) {
    let _ = FUNCTIONS.set(functions);
    if let Some(functions) = for_io_uring {
        let _ = IO_URING_FUNCTIONS.set(functions);
    }
}

fn host() -> Qemu {
    host_of(&FUNCTIONS)
}

fn host_of(functions: &'static OnceLock<Functions>) -> Qemu {
    match functions.get() {
        Some(functions) => Qemu(functions),
        None => unreachable!("laio_preload: entered before the start"),
    }
}

/// What stands in for what, in the executable's generation.
pub fn replacements(generation: Generation) -> Vec<(&'static str, usize)> {
    let mut replacements = vec![
        ("laio_init", init as *const () as usize),
        ("laio_cleanup", cleanup as *const () as usize),
        ("laio_attach_aio_context", attach as *const () as usize),
        ("laio_detach_aio_context", detach as *const () as usize),
        ("laio_has_fdsync", has_fdsync as *const () as usize),
    ];
    match generation {
        Generation::V9 => {
            replacements.push(("laio_co_submit", co_submit_9 as *const () as usize));
        }
        Generation::V10 => {
            replacements.push(("laio_co_submit", co_submit as *const () as usize));
            replacements.push(("laio_has_fua", has_fua as *const () as usize));
        }
    }
    replacements
}

/// The same of its io_uring. Not luring_has_fua, which may be too short for a jump, and whose answer
/// is right as it is: the flag is honoured where QEMU gives it, and where it does not, it flushes.
pub fn io_uring_replacements(generation: Generation) -> Vec<(&'static str, usize)> {
    let co_submit = match generation {
        Generation::V9 => luring_co_submit_9 as *const () as usize,
        Generation::V10 => luring_co_submit as *const () as usize,
    };
    vec![
        ("luring_init", luring_init as *const () as usize),
        ("luring_cleanup", cleanup as *const () as usize),
        ("luring_attach_aio_context", attach as *const () as usize),
        ("luring_detach_aio_context", detach as *const () as usize),
        ("luring_co_submit", co_submit),
    ]
}

unsafe extern "C" fn init(errp: *mut *mut Error) -> *mut QemuState {
    new_state(host(), LaioKernel::Auto, errp)
}

/// io_uring was asked for by name: whatever LAIO_KERNEL says, and QEMU takes its threads without.
unsafe extern "C" fn luring_init(errp: *mut *mut Error) -> *mut QemuState {
    new_state(host_of(&IO_URING_FUNCTIONS), LaioKernel::IoUring, errp)
}

fn new_state(host: Qemu, kernel: LaioKernel, errp: *mut *mut Error) -> *mut QemuState {
    let state = c_entry::init(host, kernel as u32, errp);
    if !state.is_null() {
        states().live.push(Live(state));
    }
    state
}

unsafe extern "C" fn cleanup(s: *mut QemuState) {
    // SAFETY: QEMU's state is what `init` gave, and QEMU does not use it again.
    unsafe { c_entry::cleanup(host(), s, |state| states().retire(state)) };
}

unsafe extern "C" fn attach(s: *mut QemuState, context: *mut AioContext) {
    // SAFETY: as in `cleanup`.
    unsafe { c_entry::attach(host(), s, context) };
}

unsafe extern "C" fn detach(s: *mut QemuState, context: *mut AioContext) {
    // SAFETY: as in `cleanup`.
    unsafe { c_entry::detach(host(), s, context) };
}

unsafe extern "C" fn co_submit(
    fd: c_int,
    offset: u64,
    qiov: *mut QEMUIOVector,
    kind: c_int,
    flags: BdrvRequestFlags,
    dev_max_batch: u64,
) -> c_int {
    let request = CRequest { fd, offset, qiov, kind, flags, dev_max_batch };
    // SAFETY: the state that QEMU has for this thread came from `init`; the vector is QEMU's, which
    // stays until the request is complete.
    unsafe { c_entry::co_submit::<Chosen, _>(host(), request) }
}

unsafe extern "C" fn co_submit_9(
    fd: c_int,
    offset: u64,
    qiov: *mut QEMUIOVector,
    kind: c_int,
    dev_max_batch: u64,
) -> c_int {
    // SAFETY: as QEMU called this.
    unsafe { co_submit(fd, offset, qiov, kind, 0, dev_max_batch) }
}

unsafe extern "C" fn luring_co_submit(
    _bs: *mut c_void,
    fd: c_int,
    offset: u64,
    qiov: *mut QEMUIOVector,
    kind: c_int,
    flags: BdrvRequestFlags,
) -> c_int {
    let request = CRequest { fd, offset, qiov, kind, flags, dev_max_batch: 0 };
    // SAFETY: the state that QEMU has for this thread came from `luring_init`; the vector is QEMU's,
    // which stays until the request is complete.
    unsafe { c_entry::co_submit::<Chosen, _>(host_of(&IO_URING_FUNCTIONS), request) }
}

unsafe extern "C" fn luring_co_submit_9(
    bs: *mut c_void,
    fd: c_int,
    offset: u64,
    qiov: *mut QEMUIOVector,
    kind: c_int,
) -> c_int {
    // SAFETY: as QEMU called this.
    unsafe { luring_co_submit(bs, fd, offset, qiov, kind, 0) }
}

extern "C" fn has_fdsync(fd: c_int) -> bool {
    c_entry::has_fdsync(host(), fd)
}

extern "C" fn has_fua() -> bool {
    c_entry::has_fua(host())
}

struct Live(*const QemuState);

// SAFETY: only its counters are read through it, at exit.
unsafe impl Send for Live {}

/// The states of this process, for the statistics at exit.
struct States {
    live: Vec<Live>,
    /// `None` until one is gone.
    gone: Option<Total>,
}

static STATES: Mutex<States> = Mutex::new(States { live: Vec::new(), gone: None });

fn states() -> MutexGuard<'static, States> {
    STATES.lock().unwrap_or_else(PoisonError::into_inner)
}

impl States {
    /// One that the parent of a fork has made is not in the list.
    fn retire(&mut self, state: *const QemuState) {
        if let Some(index) = self.live.iter().position(|live| live.0 == state) {
            self.live.swap_remove(index);
            // SAFETY: about to be freed by the caller.
            add(self.gone.get_or_insert_default(), unsafe { &*state });
        }
    }
}

/// What the states of this process have counted.
pub fn total() -> Total {
    let states = states();
    let mut total = states.gone.clone().unwrap_or_default();
    for live in &states.live {
        // SAFETY: not freed. Its thread may still count; a count that is a little old will do.
        add(&mut total, unsafe { &*live.0 });
    }
    total
}

fn add(total: &mut Total, state: &QemuState) {
    total.add(state.kernel().which() == LaioKernel::IoUring, &state.stats());
}

/// In the child of a fork: what happened so far happened in the parent, and with the parent's states
/// nothing more happens here.
pub fn forget_statistics() {
    // Another thread of the parent may have held the lock, and does not exist here.
    if let Ok(mut states) = STATES.try_lock() {
        *states = States { live: Vec::new(), gone: None };
    }
}
