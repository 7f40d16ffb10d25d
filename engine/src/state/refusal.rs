// SPDX-License-Identifier: MIT OR Apache-2.0

//! Why not, in words.

use std::fmt;

use crate::errno::Errno;

/// Why a state was not attached, detached or freed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// It is attached already.
    Attached,
    /// It is not attached to that event loop.
    NotAttached,
    /// A hook called in an attach or detach wants to attach it.
    Changing,
    /// It is being freed.
    Closing,
    /// It is the parent's.
    Inherited,
    /// The host gave no bottom half.
    NoBottomHalf,
    /// The host cannot watch the eventfd.
    NotWatched(Errno),
    /// It is being used further up on the stack.
    Active,
    /// The host still has a deferred call to it.
    DeferredCall,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Attached => "the state is attached to an event loop already",
            Self::NotAttached => "the state is not attached to this event loop",
            Self::Changing => "called from within a hook that attaches or detaches the same state",
            Self::Closing => "the state is being freed",
            Self::Inherited => "the state is the parent process's",
            Self::NoBottomHalf => "the host gave no bottom half",
            Self::NotWatched(errno) => {
                return write!(f, "the eventfd cannot be watched: {errno:?}");
            }
            Self::Active => "called from within a completion of the same state",
            Self::DeferredCall => "a deferred call to the state is pending; end its section first",
        })
    }
}
