// SPDX-License-Identifier: MIT OR Apache-2.0

//! When what is queued goes to the kernel: now, or together with what comes until the end of a plug
//! or section.

use super::State;
use crate::depth::Round;
use crate::host::Host;
use crate::kernel::Kernel;

/// Requests that are worth an io_submit(2) without waiting for more, unless the host knows better.
const DEFAULT_MAX_BATCH: u64 = 32;

impl<K: Kernel, H: Host> State<K, H> {
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

    /// Decides about a request that was just queued, of a device that wants batches of
    /// `dev_max_batch`. The state is attached.
    #[inline(always)] // Into the ways in; the other is cold.
    pub(super) fn offer(&self, dev_max_batch: u64) {
        debug_assert!(self.is_attached(), "a look-up hook has detached the state");
        if self.blocked.get() {
            return;
        }
        if self.is_full_batch(dev_max_batch) {
            self.ioq_submit();
        } else if self.plugs.get() > 0 {
            // The unplug submits it.
        } else if self.defers {
            self.defer();
        } else {
            self.flush();
        }
    }

    /// Has the host call when the section ends, unless it will. Never two calls at a time: the host may
    /// be at the end of an outer section and have the first one in its hands, and the second would
    /// then be made, and the state perhaps freed, before it.
    #[inline(always)] // Into its only caller.
    fn defer(&self) {
        if !self.deferred.replace(true) {
            let _active = self.activate();
            self.host.defer_call(Self::on_deferred_call, self.opaque());
        }
    }

    /// Whether to offer the kernel anything at all. The child of a fork never does. While detached only
    /// [`drain`](Self::drain) does: there is no context to ask for its limits, and a deferred call would
    /// come too late.
    fn may_submit(&self) -> bool {
        self.is_attached() && !self.blocked.get() && !self.kernel.is_inherited()
    }

    /// Submits what waited for the end of a plug or section, if that has come.
    pub(super) fn flush(&self) {
        let waiting = self.plugs.get() | self.sections.get() != 0;
        if !waiting && !self.queue.is_empty() && self.may_submit() {
            self.ioq_submit();
        }
    }

    /// Lets submissions gather until the matching [`end_section`](Self::end_section).
    #[inline]
    pub(super) fn begin_section(&self) {
        self.sections.set(self.sections.get() + 1);
    }

    /// Code of an owner is about to run, or a request has come back into the queue: in a section of the
    /// host, if that defers calls.
    #[inline(always)]
    pub(super) fn gather(&self, round: &Round) {
        if self.defers && !round.told_host.replace(true) {
            self.host.defer_begin();
        }
    }

    /// Submits what has gathered, in the outermost section.
    #[inline]
    pub(super) fn end_section(&self, round: &Round) {
        debug_assert!(self.sections.get() > 0, "a section ends that did not begin");
        self.sections.set(self.sections.get() - 1);
        if !self.defers {
            self.flush();
        } else if round.told_host.get() {
            // It may run owners of other states, who may wait for what is left here.
            if !self.bh_scheduled.get() && !self.queue.is_empty() && self.needs_bh() {
                self.schedule_bh();
            }
            self.host.defer_end();
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
        let free = self.free_slots() as u64;
        let queued = self.queue.len() as u64;
        // A limit of zero is none, and becomes the largest.
        let reaches = |limit: u64| limit.wrapping_sub(1) < queued;
        reaches(context_limit) || reaches(dev_max_batch) || reaches(free)
    }
}
