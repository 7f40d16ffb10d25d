// SPDX-License-Identifier: MIT OR Apache-2.0

//! Completing everything without an event loop, before a state goes.

use super::State;
use crate::depth::Base;
use crate::host::Host;
use crate::kernel::Kernel;

impl<K: Kernel, H: Host> State<K, H> {
    /// Completes everything that is outstanding, without an event loop.
    pub(super) fn drain(&self) {
        debug_assert!(!self.is_attached(), "a state drains while an event loop serves it");
        let _active = self.activate();
        while self.outstanding() > 0 {
            // A base of its own for each round: a state may be freed at the bound of others, and with
            // more outstanding than one entry may tell.
            let base = Base::enter();
            self.unreaped.set(false);
            self.ioq_submit();
            drop(base);
            if self.unreaped.get() {
                continue;
            }
            if self.in_flight.get() > 0 {
                self.kernel.wait();
            } else if !self.queue.is_empty() {
                // The kernel has no room although nothing of ours is there: others must finish.
                self.kernel.nap();
            }
        }
    }
}
