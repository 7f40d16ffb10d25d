// SPDX-License-Identifier: MIT OR Apache-2.0

//! The built-in host: a small event loop, so that a plain C program does asynchronous I/O with
//! nothing else.
//!
//! A loop is used by one thread, its home: the one that made it, or the one that uses it first.
//! While a loop has something to do it makes no system call of its own: bottom halves are flags,
//! and completions are seen in the mapped ring. It sleeps in epoll_wait(2), on edges, so that the
//! eventfd need not be read.

use std::cell::{Cell, RefCell};
use std::ffi::{c_int, c_void};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use laio_engine::depth::thread_token;
use laio_engine::errno::Errno;
use laio_engine::host::{AioContext, Coroutine, HostCallback, HostPoll, NotifierHandlers, QEMUBH};

use crate::LinuxAioState;
use crate::host::{LaioHostOps, no_max_batch, report};

/// A bottom half: a call that the loop makes once when it is scheduled.
struct BottomHalf {
    owner: *const Loop,
    callback: HostCallback,
    opaque: *mut c_void,
    scheduled: Cell<bool>,
}

/// An eventfd that is watched for the state at `opaque`.
#[derive(Clone, Copy)]
struct Notifier {
    fd: RawFd,
    handlers: NotifierHandlers,
    opaque: *mut c_void,
}

impl Notifier {
    fn state(&self) -> &LinuxAioState {
        // SAFETY: with the built-in host only `State::attach` watches anything, for its own
        // address, and its detach ends that.
        unsafe { &*self.opaque.cast() }
    }
}

/// An event loop. C sees it as `AioContext`.
pub struct Loop {
    /// The token of the home thread; `FREED` once it is freed.
    home: AtomicUsize,
    /// The home has used it, and keeps it.
    used: AtomicBool,
    /// The process that made it. The child of a fork has the same epoll set as its parent, and must
    /// not take the parent's eventfd out of it.
    process: u32,
    epoll: OwnedFd,
    bottom_halves: RefCell<Vec<Rc<BottomHalf>>>,
    notifiers: RefCell<Vec<Notifier>>,
    /// Turns of this loop on the stack.
    polling: Cell<u32>,
}

const FREED: usize = 0;

thread_local! {
    /// The loops that this thread made or took over, the newest last.
    static LOOPS: RefCell<Vec<Arc<Loop>>> = const { RefCell::new(Vec::new()) };
    /// The loop whose turn runs now.
    static POLLED: Cell<*mut AioContext> = const { Cell::new(ptr::null_mut()) };
}

impl Loop {
    fn new() -> Result<Arc<Self>, Errno> {
        // SAFETY: epoll_create1(2) takes no pointer.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(Errno::last());
        }
        // Shared by the threads' lists of loops, and used by its home alone.
        #[allow(clippy::arc_with_non_send_sync)]
        Ok(Arc::new(Self {
            home: AtomicUsize::new(thread_token()),
            used: AtomicBool::new(false),
            process: std::process::id(),
            // SAFETY: the descriptor is new and nobody else's.
            epoll: unsafe { OwnedFd::from_raw_fd(fd) },
            bottom_halves: RefCell::default(),
            notifiers: RefCell::default(),
            polling: Cell::new(0),
        }))
    }

    /// # Safety
    ///
    /// `context` is null or came from [`laio_loop_new`](crate::ffi) and is not freed.
    unsafe fn from_context<'a>(context: *mut AioContext) -> Option<&'a Self> {
        // SAFETY: the caller's promise; an `Arc` of the home's list keeps it.
        unsafe { context.cast::<Self>().as_ref() }
    }

    fn as_context(&self) -> *mut AioContext {
        ptr::from_ref(self).cast_mut().cast()
    }

    /// Whether the calling thread may use the loop. The first to use it may, and keeps it.
    fn is_home(&self) -> bool {
        let me = thread_token();
        if self.home.load(Ordering::Relaxed) == me {
            self.use_at_home();
            return true;
        }
        self.take_over(me)
    }

    /// Keeps the loop for its home, which uses it.
    fn use_at_home(&self) {
        // Written once: a loop that is in use stays a shared cache line.
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
    }

    /// Makes the calling thread the home of a loop that its maker has not used.
    fn take_over(&self, me: usize) -> bool {
        if self.used.swap(true, Ordering::AcqRel) {
            return false;
        }
        self.home.store(me, Ordering::Release);
        // SAFETY: the address is an `Arc`'s, and its maker's list or the free function holds one.
        let shared = unsafe {
            Arc::increment_strong_count(self);
            Arc::from_raw(self)
        };
        LOOPS.with_borrow_mut(|loops| loops.push(shared));
        true
    }

    /// Calls the bottom halves that are scheduled. Whether there were any.
    fn run_bottom_halves(&self) -> bool {
        let mut ran = false;
        let mut index = 0;
        // The list may change under each call; who is passed over stays scheduled.
        while let Some(bh) = self.bottom_half(index) {
            if bh.scheduled.replace(false) {
                // SAFETY: given together by the engine; the list holds it, so it is not deleted.
                unsafe { (bh.callback)(bh.opaque) };
                ran = true;
            }
            index += 1;
        }
        ran
    }

    fn bottom_half(&self, index: usize) -> Option<Rc<BottomHalf>> {
        self.bottom_halves.borrow().get(index).cloned()
    }

    /// Calls the handlers of the states that have completions. Whether there were any.
    fn run_notifiers(&self) -> bool {
        let mut ran = false;
        let mut index = 0;
        // As above: without a borrow across the call.
        while let Some(notifier) = self.notifier(index) {
            // SAFETY: given together by the engine, and still watched.
            if unsafe { (notifier.handlers.poll)(notifier.opaque) } {
                // SAFETY: as above.
                unsafe { (notifier.handlers.poll_ready)(notifier.opaque) };
                ran = true;
            }
            index += 1;
        }
        ran
    }

    fn notifier(&self, index: usize) -> Option<Notifier> {
        self.notifiers.borrow().get(index).copied()
    }

    /// Sleeps until an eventfd is signalled; false when none ever will be.
    fn sleep(&self) -> bool {
        let in_flight = |notifier: &Notifier| notifier.state().in_flight() > 0;
        if !self.notifiers.borrow().iter().any(in_flight) {
            return false;
        }
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        // SAFETY: writes at most one event. A signal only makes the caller look again.
        unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), &mut event, 1, -1) };
        true
    }

    /// One turn, or as many as it takes to make progress.
    fn poll(&self, blocking: bool) -> bool {
        let _turn = Turn::enter(self);
        loop {
            let progress = self.run_bottom_halves() | self.run_notifiers();
            let scheduled = || self.bottom_halves.borrow().iter().any(|bh| bh.scheduled.get());
            if progress || !blocking {
                return progress;
            }
            if !scheduled() && !self.sleep() {
                return false;
            }
        }
    }

    fn watch(&self, operation: c_int, fd: RawFd) {
        if std::process::id() != self.process {
            return;
        }
        let events = (libc::EPOLLIN | libc::EPOLLET) as u32;
        let mut event = libc::epoll_event { events, u64: 0 };
        // SAFETY: reads one event.
        if unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), operation, fd, &mut event) } != 0 {
            report("laio_attach_aio_context", format_args!("epoll_ctl(2): {:?}", Errno::last()));
        }
    }
}

/// A turn of a loop on the stack.
struct Turn<'a> {
    of: &'a Loop,
    outer: *mut AioContext,
}

impl<'a> Turn<'a> {
    fn enter(of: &'a Loop) -> Self {
        of.polling.set(of.polling.get() + 1);
        Self { of, outer: POLLED.replace(of.as_context()) }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.of.polling.set(self.of.polling.get() - 1);
        POLLED.set(self.outer);
    }
}

/// A new loop, at home in the calling thread.
pub fn new() -> Result<*mut AioContext, Errno> {
    let created = Loop::new()?;
    let context = created.as_context();
    LOOPS.with_borrow_mut(|loops| {
        loops.retain(|known| known.home.load(Ordering::Relaxed) != FREED);
        loops.push(Arc::clone(&created));
    });
    // The reference that `free` gives back.
    std::mem::forget(created);
    Ok(context)
}

/// Frees a loop that serves no state and is not running; otherwise says why not.
///
/// # Safety
///
/// `context` came from [`new`] and is not freed; no other thread uses it.
pub unsafe fn free(context: *mut AioContext) -> Result<(), &'static str> {
    // SAFETY: the caller's promise.
    let Some(freed) = (unsafe { Loop::from_context(context) }) else {
        return Err("the event loop is NULL");
    };
    if freed.polling.get() > 0 {
        return Err("called from within laio_loop_poll() of the same event loop");
    }
    if !freed.notifiers.borrow().is_empty() {
        return Err("a state is still attached to the event loop; detach it first");
    }
    freed.home.store(FREED, Ordering::Release);
    // SAFETY: the reference that `new` left.
    let last = unsafe { Arc::from_raw(ptr::from_ref(freed)) };
    // Not on a thread that is ending, whose list is gone and took its references along.
    let _ = LOOPS.try_with(|loops| loops.borrow_mut().retain(|known| !Arc::ptr_eq(known, &last)));
    Ok(())
}

/// One turn of the loop; whether it made progress.
pub fn poll(context: *mut AioContext, blocking: bool) -> bool {
    // SAFETY: from `new`, by the contract of the C functions.
    match unsafe { Loop::from_context(context) } {
        Some(polled) if polled.is_home() => polled.poll(blocking),
        Some(_) => {
            report("laio_loop_poll", "the event loop belongs to another thread");
            false
        }
        None => {
            report("laio_loop_poll", "the event loop is NULL");
            false
        }
    }
}

/// Whether the calling thread may use what is attached to `context`.
pub fn is_home(context: *mut AioContext) -> bool {
    // SAFETY: the engine asks for a context that it is attached to.
    unsafe { Loop::from_context(context) }.is_some_and(Loop::is_home)
}

/// The hooks of this host. It has no deferred calls: the engine gathers submissions itself.
pub const OPS: LaioHostOps = LaioHostOps {
    size: size_of::<LaioHostOps>(),
    bh_new: Some(bh_new),
    bh_schedule: Some(bh_schedule),
    bh_cancel: Some(bh_cancel),
    bh_delete: Some(bh_delete),
    set_event_notifier: Some(set_event_notifier),
    coroutine_self: Some(coroutine_self),
    coroutine_yield: Some(coroutine_yield),
    coroutine_entered: Some(coroutine_entered),
    coroutine_wake: Some(coroutine_wake),
    defer_begin: None,
    defer_call: None,
    defer_end: None,
    current_aio_context: Some(current),
    linux_aio_state: Some(linux_aio_state),
    aio_max_batch: Some(no_max_batch),
    context_acquire: None,
    context_release: None,
    error_set: None,
    log: None,
};

/// The thread itself waits: there is nothing to name, but it is there.
unsafe extern "C" fn coroutine_self() -> *mut Coroutine {
    ptr::dangling_mut()
}

/// The engine calls [`poll`] itself, with the loop of the request.
unsafe extern "C" fn coroutine_yield() {
    // SAFETY: takes nothing.
    poll(unsafe { current() }, true);
}

/// The thread drives the loop itself, and looks for its result after each turn.
unsafe extern "C" fn coroutine_entered(_: *mut Coroutine) -> bool {
    true
}

unsafe extern "C" fn coroutine_wake(_: *mut Coroutine) {}

/// The calling thread's loop: the one whose turn runs, or else the newest. Null if it has none.
unsafe extern "C" fn current() -> *mut AioContext {
    let polled = POLLED.get();
    if !polled.is_null() {
        return polled;
    }
    let me = thread_token();
    LOOPS.with_borrow(|loops| {
        let newest = loops.iter().rev().find(|known| known.home.load(Ordering::Relaxed) == me);
        newest.map_or(ptr::null_mut(), |known| {
            // Whoever asks submits to it, and may not need a turn of it for that.
            known.use_at_home();
            known.as_context()
        })
    })
}

/// The state that was attached to `context` first.
unsafe extern "C" fn linux_aio_state(context: *mut AioContext) -> *mut LinuxAioState {
    // SAFETY: from `current`.
    let Some(served) = (unsafe { Loop::from_context(context) }) else {
        return ptr::null_mut();
    };
    served.notifier(0).map_or(ptr::null_mut(), |notifier| notifier.opaque.cast())
}

unsafe extern "C" fn bh_new(
    context: *mut AioContext,
    callback: HostCallback,
    opaque: *mut c_void,
) -> *mut QEMUBH {
    // SAFETY: from `new`, by the contract of laio_attach_aio_context().
    let Some(owner) = (unsafe { Loop::from_context(context) }) else {
        return ptr::null_mut();
    };
    let bh = Rc::new(BottomHalf { owner, callback, opaque, scheduled: Cell::new(false) });
    let address = Rc::as_ptr(&bh).cast_mut().cast();
    owner.bottom_halves.borrow_mut().push(bh);
    address
}

unsafe extern "C" fn bh_schedule(bh: *mut QEMUBH) {
    // SAFETY: from `bh_new` and not deleted; its loop's list holds it.
    unsafe { &*bh.cast::<BottomHalf>() }.scheduled.set(true);
}

unsafe extern "C" fn bh_cancel(bh: *mut QEMUBH) {
    // SAFETY: as in `bh_schedule`.
    unsafe { &*bh.cast::<BottomHalf>() }.scheduled.set(false);
}

unsafe extern "C" fn bh_delete(bh: *mut QEMUBH) {
    // SAFETY: as in `bh_schedule`. A turn that has it in its hands must not call it any more.
    unsafe { bh_cancel(bh) };
    let deleted = bh.cast::<BottomHalf>().cast_const();
    // SAFETY: as above; a loop is not freed while it serves a state, whose bottom half this is.
    let owner = unsafe { &*(*deleted).owner };
    owner.bottom_halves.borrow_mut().retain(|bh| Rc::as_ptr(bh) != deleted);
}

unsafe extern "C" fn set_event_notifier(
    context: *mut AioContext,
    fd: c_int,
    read: Option<HostCallback>,
    poll: Option<HostPoll>,
    poll_ready: Option<HostCallback>,
    opaque: *mut c_void,
) {
    // SAFETY: as in `bh_new`.
    let Some(watching) = (unsafe { Loop::from_context(context) }) else {
        return;
    };
    let mut notifiers = watching.notifiers.borrow_mut();
    match (read, poll, poll_ready) {
        (Some(read), Some(poll), Some(poll_ready)) => {
            let handlers = NotifierHandlers { read, poll, poll_ready };
            notifiers.push(Notifier { fd, handlers, opaque });
            watching.watch(libc::EPOLL_CTL_ADD, fd);
        }
        _ => {
            notifiers.retain(|notifier| notifier.fd != fd);
            watching.watch(libc::EPOLL_CTL_DEL, fd);
        }
    }
}
