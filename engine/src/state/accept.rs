// SPDX-License-Identifier: MIT OR Apache-2.0

//! The ways in: a request with a callback, and a request of a coroutine.

use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::ptr;

use super::State;
use crate::errno::Errno;
use crate::host::{AioContext, Host};
use crate::kernel::Kernel;
use crate::request::{CompletionCallback, Io, Owner, Request};
use crate::trace;

impl<K: Kernel, H: Host> State<K, H> {
    /// Accepts what `io` makes; `function(opaque, result)` learns the result, from within this call at the
    /// earliest.
    pub fn submit(
        &self,
        io: impl FnOnce() -> Result<Io, Errno>,
        dev_max_batch: u64,
        function: CompletionCallback,
        opaque: *mut c_void,
    ) -> Result<(), Errno> {
        self.check_usable()?;
        // After the host was asked, or its parts would have to be kept across that.
        let owner = Owner::Callback { function, opaque };
        let mut request = Request::new(io()?, owner, dev_max_batch);
        request.prepare(|entry| self.kernel.prepare(entry));
        let place = self.pool.put(request)?;
        // SAFETY: the place is the request's until it completes.
        unsafe { self.accept(place, dev_max_batch) }.inspect_err(|_| {
            // SAFETY: not accepted, so the request is still ours, and in its place.
            drop(unsafe { self.pool.take(place) });
        })
    }

    /// Accepts a request for `io` and leaves the running coroutine until it is complete. `find` finds
    /// the state, which has to be [usable](Self::usable).
    ///
    /// # Safety
    ///
    /// What is found is valid. It may be gone when this returns: the coroutine may go on only
    /// after somebody cleaned up, and nothing here touches the state then.
    #[inline]
    pub unsafe fn co_submit(
        io: Result<Io, Errno>,
        dev_max_batch: u64,
        find: impl FnOnce() -> Result<*const Self, Errno>,
    ) -> Result<c_int, Errno> {
        // Before any hook is called, or the parts of it would have to be kept across that.
        let nobody = Owner::Coroutine(ptr::null_mut());
        let mut on_stack = MaybeUninit::new(Request::new(io?, nobody, dev_max_batch));
        // SAFETY: the caller's promise.
        let state = unsafe { &*find()? };
        let (host, context) = (state.host, state.context.get());
        let coroutine = host.coroutine_self().ok_or(Errno(libc::ENOTSUP))?;
        // From here on only this pointer is used: the kernel has the same one.
        let request = on_stack.as_mut_ptr();
        // SAFETY: the stack frame stays until the loop below has seen the result. A request that is
        // not accepted has nothing to drop.
        unsafe {
            (*request).set_owner(Owner::Coroutine(coroutine));
            (*request).prepare(|entry| state.kernel.prepare(entry));
            state.accept(request, dev_max_batch)?;
        }
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

    /// # Safety
    ///
    /// `request` is new and prepared, and stays where it is until it completes.
    #[inline(always)] // Into the two ways in.
    unsafe fn accept(&self, request: *mut Request, dev_max_batch: u64) -> Result<(), Errno> {
        // SAFETY: the caller's promise.
        unsafe { Request::pin(request) };
        // Room for those in flight as well: a short transfer comes back into the queue, and must
        // not fail there.
        self.queue.reserve(self.in_flight.get())?;
        // SAFETY: the caller's promise.
        let entry = unsafe { Request::entry(request) };
        self.queue.push(entry);
        trace::submit(self, entry);
        self.offer(dev_max_batch);
        // Whoever has emptied it has settled.
        if !self.queue.is_empty() {
            self.settle();
        }
        Ok(())
    }

    /// `this`, where the calling thread may submit to it now; null is no state.
    ///
    /// # Safety
    ///
    /// `this` is null or a valid state.
    #[inline]
    pub unsafe fn usable(this: *const Self) -> Result<*const Self, Errno> {
        // SAFETY: the caller's promise.
        let state = unsafe { this.as_ref() }.ok_or(Errno(libc::EINVAL))?;
        state.check_usable().map(|()| this)
    }

    /// The same for a caller who has just asked for the calling thread's event loop, `current`,
    /// which is not null: it is not asked for again.
    ///
    /// # Safety
    ///
    /// As `usable`.
    #[inline]
    pub unsafe fn usable_in(
        this: *const Self,
        current: *mut AioContext,
    ) -> Result<*const Self, Errno> {
        // SAFETY: the caller's promise.
        let state = unsafe { this.as_ref() }.ok_or(Errno(libc::EINVAL))?;
        if state.context.get() == current && !state.kernel.is_inherited() {
            return Ok(this);
        }
        state.check_usable().map(|()| this)
    }

    /// Whether the calling thread may submit now.
    fn check_usable(&self) -> Result<(), Errno> {
        if !self.is_attached() || self.kernel.is_inherited() {
            return Err(Errno(libc::ENOTCONN));
        }
        if !self.host.is_home(self.context.get()) {
            return Err(Errno(libc::EPERM));
        }
        Ok(())
    }
}
