// SPDX-License-Identifier: MIT OR Apache-2.0

//! Completing everything without an event loop, before a state goes.

use std::time::Duration;

use super::State;
use crate::depth::Base;
use crate::host::Host;
use crate::kernel::Kernel;

impl<K: Kernel, H: Host> State<K, H> {
    /// Completes everything that is outstanding, without an event loop.
    pub(super) fn drain(&self) {
        debug_assert!(!self.is_attached(), "a state drains while an event loop serves it");
        let _active = self.activate();
        let _base = Base::enter();
        while self.outstanding() > 0 {
            self.ioq_submit();
            if self.in_flight.get() > 0 {
                self.kernel.wait();
            } else if !self.queue.is_empty() {
                // The kernel has no room although nothing of ours is there: others must finish.
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}
