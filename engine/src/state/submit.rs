// SPDX-License-Identifier: MIT OR Apache-2.0

//! From acceptance to the kernel.

use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;

use super::State;
use crate::depth::Frame;
use crate::errno::Errno;
use crate::host::{AioContext, Host};
use crate::kernel::{Kernel, MAX_EVENTS, iocb};
use crate::request::{CompletionCallback, Io, Owner, Request};

/// Requests that are worth an io_submit(2) without waiting for more, unless the host knows better.
const DEFAULT_MAX_BATCH: u64 = 32;

impl<K: Kernel, H: Host> State<K, H> {
    /// Accepts `io`; `callback` learns the result, from within this call at the earliest.
    pub fn submit(
        &self,
        io: Io,
        dev_max_batch: u64,
        function: CompletionCallback,
        opaque: *mut c_void,
    ) -> Result<(), Errno> {
        self.check_usable()?;
        let owner = Owner::Callback { function, opaque };
        let eventfd = self.kernel.eventfd();
        let place = self.pool.put(Request::new(io, owner, dev_max_batch, eventfd))?;
        // SAFETY: the place is the request's until it completes.
        unsafe { self.accept(place, dev_max_batch) }.inspect_err(|_| {
            // SAFETY: not accepted, so the request is still ours, and in its place.
            drop(unsafe { self.pool.take(place) });
        })
    }

    /// Accepts what `io` makes, and leaves the running coroutine until it is complete.
    ///
    /// # Safety
    ///
    /// `this` is a valid state. It may be gone when this returns: the coroutine may go on only
    /// after somebody cleaned up, and nothing here touches the state then.
    #[inline]
    pub unsafe fn co_submit(
        this: *const Self,
        io: impl FnOnce() -> Result<Io, Errno>,
        dev_max_batch: u64,
    ) -> Result<c_int, Errno> {
        // SAFETY: the caller's promise.
        unsafe { &*this }.check_usable()?;
        // SAFETY: the caller's promise.
        unsafe { Self::co_submit_at_home(this, io, dev_max_batch) }
    }

    /// The same for a caller who has just asked for the calling thread's event loop, `current`,
    /// which is not null: it is not asked for again.
    ///
    /// # Safety
    ///
    /// As `co_submit`.
    #[inline]
    pub unsafe fn co_submit_in(
        this: *const Self,
        current: *mut AioContext,
        io: impl FnOnce() -> Result<Io, Errno>,
        dev_max_batch: u64,
    ) -> Result<c_int, Errno> {
        // SAFETY: the caller's promise.
        let state = unsafe { &*this };
        if state.context.get() != current {
            state.check_usable()?;
        }
        // SAFETY: the caller's promise.
        unsafe { Self::co_submit_at_home(this, io, dev_max_batch) }
    }

    /// The same on a thread that is known to be the state's, for a state that is attached.
    ///
    /// # Safety
    ///
    /// As `co_submit`.
    #[inline(always)] // Into the two above.
    unsafe fn co_submit_at_home(
        this: *const Self,
        io: impl FnOnce() -> Result<Io, Errno>,
        dev_max_batch: u64,
    ) -> Result<c_int, Errno> {
        // SAFETY: the caller's promise.
        let state = unsafe { &*this };
        let (host, context) = (state.host, state.context.get());
        let coroutine = host.coroutine_self().ok_or(Errno(libc::ENOTSUP))?;
        // After that call, or the parts of the request would have to be kept across it.
        let io = io()?;
        let (owner, eventfd) = (Owner::Coroutine(coroutine), state.kernel.eventfd());
        let mut on_stack = MaybeUninit::new(Request::new(io, owner, dev_max_batch, eventfd));
        // From here on only this pointer is used: the kernel has the same one.
        let request = on_stack.as_mut_ptr();
        // SAFETY: the stack frame stays until the loop below has seen the result. A request that is
        // not accepted has nothing to drop.
        unsafe { state.accept(request, dev_max_batch)? };
        loop {
            // SAFETY: as above.
            if let Some(result) = unsafe { (*request).result() } {
                // SAFETY: as above; with a result it is nobody else's any more.
                unsafe { request.drop_in_place() };
                return Ok(result);
            }
            // Again if somebody else wakes the coroutine: its stack holds what the kernel writes to.
            host.coroutine_yield(context);
        }
    }

    /// Lets requests gather until the matching [`unplug`](Self::unplug).
    pub fn plug(&self) {
        self.plugs.set(self.plugs.get() + 1);
    }

    /// Ends a plug and submits what gathered, unless another plug is there and the batch is not
    /// full. False without a plug.
    pub fn unplug(&self, dev_max_batch: u64) -> bool {
        let Some(left) = self.plugs.get().checked_sub(1) else {
            return false;
        };
        self.plugs.set(left);
        if !self.queue.is_empty() && self.may_submit() {
            let wanted = left == 0 || self.is_full_batch(dev_max_batch);
            if wanted {
                self.ioq_submit();
            }
        }
        true
    }

    /// # Safety
    ///
    /// `request` is new, and stays where it is until it completes.
    #[inline(always)] // Into the two ways in.
    unsafe fn accept(&self, request: *mut Request, dev_max_batch: u64) -> Result<(), Errno> {
        // SAFETY: the caller's promise.
        unsafe { Request::prepare(request) };
        // Room for those in flight as well: a short transfer comes back into the queue, and must
        // not fail there.
        self.queue.reserve(1 + self.in_flight.get())?;
        self.counters.submitted.increment();
        // SAFETY: the caller's promise.
        self.queue.push(unsafe { (*request).iocb() });
        self.offer(dev_max_batch);
        self.settle();
        Ok(())
    }

    /// Queues a request again that is not over, and for which there is room.
    ///
    /// # Safety
    ///
    /// `request` stays where it is until it completes; that may be before this returns.
    pub(super) unsafe fn resubmit(&self, request: *mut Request) {
        // SAFETY: the caller's promise.
        self.queue.push(unsafe { (*request).iocb() });
        // While detached only `drain` submits.
        if self.is_attached() {
            // SAFETY: the caller's promise.
            self.offer(unsafe { (*request).dev_max_batch() });
        }
        self.settle();
    }

    /// Decides when what was just queued goes to the kernel: now, or together with what comes until
    /// the end of a plug or section. The state is attached.
    #[inline(always)] // Into the two ways in; the third is cold.
    fn offer(&self, dev_max_batch: u64) {
        debug_assert!(self.is_attached(), "a look-up hook has detached the state");
        if self.blocked.get() {
            return;
        }
        if self.is_full_batch(dev_max_batch) {
            self.ioq_submit();
        } else if self.plugs.get() > 0 {
            // The unplug submits it.
        } else if self.host.has_deferred_calls() {
            self.deferred.set(true);
            self.host.defer_call(Self::on_deferred_call, self.opaque());
        } else {
            self.flush();
        }
    }

    /// Whether to offer the kernel anything at all. While detached only [`drain`](Self::drain)
    /// does: there is no context to ask for its limits, and a deferred call would come too late.
    fn may_submit(&self) -> bool {
        self.is_attached() && !self.blocked.get()
    }

    /// Submits what waited for the end of a plug or section, if that has come.
    pub(super) fn flush(&self) {
        let waiting = self.plugs.get() > 0 || self.sections.get() > 0;
        if !waiting && !self.queue.is_empty() && self.may_submit() {
            self.ioq_submit();
        }
    }

    /// Lets submissions gather until the matching [`end_section`](Self::end_section).
    #[inline]
    pub(super) fn begin_section(&self) {
        self.sections.set(self.sections.get() + 1);
        if self.host.has_deferred_calls() {
            self.host.defer_begin();
        }
    }

    /// Submits what has gathered in the outermost section.
    #[inline]
    pub(super) fn end_section(&self) {
        self.sections.set(self.sections.get() - 1);
        if self.host.has_deferred_calls() {
            self.host.defer_end();
        } else {
            self.flush();
        }
    }

    /// Whether as many requests are queued as are worth an io_submit(2) at once: the smallest of the
    /// limits that there are.
    #[inline(always)] // Asked for each request.
    fn is_full_batch(&self, dev_max_batch: u64) -> bool {
        let context_limit = match self.host.aio_max_batch(self.context.get()) {
            0 => DEFAULT_MAX_BATCH,
            limit => limit,
        };
        let free = (MAX_EVENTS - self.in_flight.get()) as u64;
        let queued = self.queue.len() as u64;
        // A limit of zero is none, and becomes the largest.
        let reaches = |limit: u64| limit.wrapping_sub(1) < queued;
        reaches(context_limit) || reaches(dev_max_batch) || reaches(free)
    }

    /// Gives the queue to the kernel, reaps what is complete already, and tells the owners.
    ///
    /// The owners' next requests gather in a section; its end comes here again, one frame deeper.
    /// At the depth bound the queue stays as it is, and the rule of [`super`] resumes it.
    pub(super) fn ioq_submit(&self) {
        let Some(frame) = Frame::enter() else {
            self.counters.at_bound.increment();
            return self.settle();
        };
        self.counters.deepest_nesting.maximum(frame.depth.into());
        let _active = self.activate();
        self.begin_section();
        self.submit_queue();
        self.reap();
        self.end_section();
        self.settle();
    }

    /// Submits what is queued now; what owners of failed requests add waits for the section's end,
    /// so that a host that answers each failure with a new request gets its event loop back.
    #[inline(always)] // Into its only caller.
    fn submit_queue(&self) {
        let mut budget = self.queue.len();
        loop {
            let gone = self.io_submit(budget);
            budget -= gone;
            if gone == 0 || budget == 0 {
                return;
            }
        }
    }

    /// One io_submit(2) of up to `limit` requests. How many are not queued any more: those that the
    /// kernel took, or the one that it refused. Zero when there is nothing to submit for now.
    ///
    /// `blocked` is set at once: the owner of a request that failed may submit more, or wait for
    /// what is queued.
    #[inline(always)] // Into its only caller.
    fn io_submit(&self, limit: usize) -> usize {
        let free = MAX_EVENTS - self.in_flight.get();
        let submit = |iocbs: &[*mut iocb]| {
            self.counters.io_submit_calls.increment();
            // SAFETY: requests stay where they are until they complete.
            unsafe { self.kernel.submit(iocbs) }
        };
        let Some(answer) = self.queue.submit(limit.min(free), submit) else {
            // No room; or none left, because the owner of one that failed has submitted the rest.
            if !self.queue.is_empty() {
                self.blocked.set(true);
            }
            return 0;
        };
        match answer {
            // None taken and no error says the same as EAGAIN, and must not be asked again at once.
            Ok(0) | Err(Errno(libc::EAGAIN)) => {
                self.blocked.set(true);
                self.counters.eagain.increment();
                0
            }
            Ok(taken) => {
                self.blocked.set(false);
                self.in_flight.set(self.in_flight.get() + taken);
                self.counters.largest_batch.maximum(taken as u64);
                taken
            }
            Err(errno) => {
                self.blocked.set(false);
                self.fail_first(errno);
                1
            }
        }
    }

    /// The kernel's error speaks of the first request; the others may be fine.
    #[cold]
    fn fail_first(&self, errno: Errno) {
        if let Some(iocb) = self.queue.pop() {
            self.complete(Request::of_iocb(iocb), errno.negative().into());
        }
    }
}
