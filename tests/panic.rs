//! A panic inside the library ends the process with a message, and never unwinds into C.

use std::ffi::{CStr, c_int, c_void};
use std::os::fd::RawFd;
use std::process::Command;
use std::ptr;

use laio::engine::State;
use laio::engine::request::{Io, aio_type};
use laio::host::{AioContext, Coroutine, Error, Host, HostCallback, NotifierHandlers, QEMUBH};
use laio::kernel::{Errno, Kernel, io_event, iocb};

/// Takes a request and panics when its completion is looked for: a bug below the engine.
struct Buggy;

impl Kernel for Buggy {
    unsafe fn submit(&self, _: &[*mut iocb]) -> Result<usize, Errno> {
        Err(Errno(libc::EAGAIN))
    }

    fn reap(&self) -> Option<io_event> {
        panic!("a bug of the library")
    }

    fn has_completions(&self) -> bool {
        true
    }

    fn eventfd(&self) -> RawFd {
        3
    }

    fn clear_eventfd(&self) {}

    fn wait(&self) {}

    fn file_size(&self, _: RawFd) -> Option<u64> {
        None
    }
}

/// Remembers the bottom half, and calls it as a C event loop would.
#[derive(Clone, Copy)]
struct OneBottomHalf;

thread_local! {
    static BOTTOM_HALF: std::cell::Cell<Option<(HostCallback, *mut c_void)>> =
        const { std::cell::Cell::new(None) };
}

impl Host for OneBottomHalf {
    fn bh_new(
        self,
        _: *mut AioContext,
        callback: HostCallback,
        opaque: *mut c_void,
    ) -> *mut QEMUBH {
        BOTTOM_HALF.set(Some((callback, opaque)));
        ptr::dangling_mut()
    }

    fn bh_schedule(self, _: *mut QEMUBH) {}
    fn bh_cancel(self, _: *mut QEMUBH) {}
    fn bh_delete(self, _: *mut QEMUBH) {}

    fn set_event_notifier(
        self,
        _: *mut AioContext,
        _: RawFd,
        _: Option<NotifierHandlers>,
        _: *mut c_void,
    ) {
    }

    fn coroutine_self(self) -> Option<*mut Coroutine> {
        None
    }

    fn coroutine_yield(self, _: *mut AioContext) {}

    fn coroutine_entered(self, _: *mut Coroutine) -> bool {
        false
    }

    fn coroutine_wake(self, _: *mut Coroutine) {}

    fn has_deferred_calls(self) -> bool {
        false
    }

    fn defer_begin(self) {}
    fn defer_call(self, _: HostCallback, _: *mut c_void) {}
    fn defer_end(self) {}

    fn current_aio_context(self) -> *mut AioContext {
        ptr::dangling_mut()
    }

    fn linux_aio_state(self, _: *mut AioContext) -> *mut c_void {
        ptr::null_mut()
    }

    fn aio_max_batch(self, _: *mut AioContext) -> u64 {
        0
    }

    fn is_home(self, _: *mut AioContext) -> bool {
        true
    }

    fn context_acquire(self, _: *mut AioContext) {}
    fn context_release(self, _: *mut AioContext) {}
    fn error_set(self, _: *mut *mut Error, _: c_int, _: &CStr) {}
    fn log(self, _: &CStr) {}
}

unsafe extern "C" fn ignore(_: *mut c_void, _: c_int) {}

const CHILD: &str = "LAIO_TEST_PANIC_CHILD";

#[test]
fn a_panic_ends_the_process_and_does_not_unwind_into_the_host() {
    if std::env::var_os(CHILD).is_some() {
        let state = State::new(Buggy, OneBottomHalf);
        state.attach(ptr::dangling_mut()).unwrap();
        // SAFETY: a flush has no vector.
        let flush = unsafe { Io::new(aio_type::FLUSH, 0, 0, 0, (ptr::null(), 0)) }.unwrap();
        state.plug();
        state.submit(flush, 0, ignore, ptr::null_mut()).unwrap();
        let (bottom_half, opaque) = BOTTOM_HALF.get().unwrap();
        // SAFETY: as an event loop calls it. Should it unwind, this catches it and says so.
        let unwound = std::panic::catch_unwind(|| unsafe { bottom_half(opaque) });
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
