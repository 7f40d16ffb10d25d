// SPDX-License-Identifier: MIT OR Apache-2.0

//! The library's own host: the built-in event loop, in a table like any program's.

use std::ffi::{c_int, c_void};
use std::ptr;

use laio_engine::host::{AioContext, Coroutine, HostCallback, HostPoll};

use super::table::{HostTable, LaioHostOps, Native};
use crate::event_loop;

/// It has no deferred calls: the engine gathers submissions itself.
pub static BUILT_IN: HostTable = HostTable::native(OPS, &NATIVE);

static NATIVE: Native =
    Native { watch: event_loop::watch, wait: event_loop::wait, is_home: event_loop::is_home };

const OPS: LaioHostOps = LaioHostOps {
    size: size_of::<LaioHostOps>(),
    bh_new: Some(event_loop::bh_new),
    bh_schedule: Some(event_loop::bh_schedule),
    bh_cancel: Some(event_loop::bh_cancel),
    bh_delete: Some(event_loop::bh_delete),
    set_event_notifier: Some(native_instead),
    coroutine_self: Some(the_thread),
    coroutine_yield: None,
    coroutine_entered: Some(drives_the_loop),
    coroutine_wake: Some(needs_no_wake),
    defer_begin: None,
    defer_call: None,
    defer_end: None,
    current_aio_context: Some(current_aio_context),
    linux_aio_state: Some(event_loop::first_state),
    aio_max_batch: None,
    context_acquire: None,
    context_release: None,
    error_set: None,
    log: None,
};

/// Never called: [`Native::watch`] is.
unsafe extern "C" fn native_instead(
    _: *mut AioContext,
    _: c_int,
    _: Option<HostCallback>,
    _: Option<HostPoll>,
    _: Option<HostCallback>,
    _: *mut c_void,
) {
}

/// The thread itself waits: there is nothing to name, but it is there.
unsafe extern "C" fn the_thread() -> *mut Coroutine {
    ptr::dangling_mut()
}

/// The thread drives the loop itself, and looks for its result after each turn.
unsafe extern "C" fn drives_the_loop(_: *mut Coroutine) -> bool {
    true
}

unsafe extern "C" fn needs_no_wake(_: *mut Coroutine) {}

unsafe extern "C" fn current_aio_context() -> *mut AioContext {
    event_loop::current()
}
