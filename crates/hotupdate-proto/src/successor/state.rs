//! The states of the successor's machine, and what can be read off a state alone.

use std::time::Instant;

use crate::message::{Joined, Released};
use crate::timing::Deadline;

/// States are named for what they wait for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum State {
    Joining { until: Instant },
    Receiving { joined: Joined, next: u32, listeners: usize, until: Instant },
    Warming { joined: Joined, until: Instant },
    // The incumbent is dead. Without a deadline: like a first start it waits only for its own application,
    // unless a predecessor serves before that.
    Orphaned { joined: Joined },
    Waiting { joined: Joined, on_command: bool, until: Instant },
    // `alone`: the incumbent is dead. Without a deadline: the one that the incumbent has is the one that
    // counts.
    Opening { joined: Joined, released: Option<Released>, alone: bool },
    Done,
}

impl State {
    /// What this state waits for, and until when.
    pub(super) fn wait(&self) -> Option<(Deadline, Instant)> {
        match self {
            Self::Joining { until } => Some((Deadline::Reply, *until)),
            Self::Receiving { until, .. } => Some((Deadline::Batch, *until)),
            Self::Warming { until, .. } => Some((Deadline::Lease, *until)),
            Self::Waiting { until, on_command: true, .. } => Some((Deadline::Standby, *until)),
            Self::Waiting { until, on_command: false, .. } => Some((Deadline::Released, *until)),
            Self::Orphaned { .. } | Self::Opening { .. } | Self::Done => None,
        }
    }
}
