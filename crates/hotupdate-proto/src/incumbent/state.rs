//! The states of the incumbent's machine, and what can be read off a state alone.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::events::{Effect, Peer};
use crate::message::{Generation, Message};
use crate::operator::ProcessState;
use crate::timing::Deadline;

/// States are named for what they wait for and hold what they need for it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum State {
    /// No successor is on its way.
    Serving,
    /// The inventory goes out, batch by batch.
    Offering { peer: Peer, queue: VecDeque<Message>, awaiting: u32, until: Instant, lease: Instant },
    /// The successor warms up.
    Warming { peer: Peer, until: Instant },
    /// The successor is warm and waits for an operator.
    Standby { peer: Peer, until: Instant },
    /// The application ends what only one process may do. Nothing of ours has stopped.
    BeforeRelease { goal: Goal, until: Instant },
    /// Predecessors finish the migrations that are under way, before our accept loops stop.
    Quiescing { goal: Goal, until: Instant },
    /// Our accept loops are stopping.
    Releasing { peer: Peer, until: Instant },
    /// Our accept loops have stopped, the successor's have to start.
    Released { peer: Peer, until: Instant },
    /// The successor serves; our listeners are parked. `quiet`: it broke the protocol, only its end still
    /// counts.
    Probation { peer: Peer, until: Instant, drain: Drain, quiet: bool },
    /// Our listeners are let go. `quiet`: the other end of the link is closed, or broke the protocol.
    Retired { drain: Drain, quiet: bool },
    /// Rollback: our accept loops are stopping.
    RollingBack { to: Generation, until: Instant },
    /// Rollback: our accept loops have stopped, the predecessor's have to start.
    Resuming { to: Generation, until: Instant },
    /// The service stops: our accept loops are stopping, and then there is a drain of this length.
    Stopping { until: Instant, within: Duration, for_good: bool },
    /// Nothing is left to do.
    Gone,
}

/// Why the accept loops are going to stop.
#[expect(
    clippy::large_enum_variant,
    reason = "a process has one state, which is as large as its largest part"
)]
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Goal {
    /// The successor is released.
    Release(Peer),
    /// The predecessor of this generation serves again.
    RollBack(Generation),
    /// The service stops, and then there is a drain of this length. `for_good`: an operator wants it.
    Stop { within: Duration, for_good: bool },
}

/// How the drain of this process goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Drain {
    Running {
        until: Instant,
        /// Another process serves, to which clients can turn.
        is_succeeded: bool,
    },
    Forcing {
        until: Instant,
    },
    /// Only tasks of the application are left; no deadline ends them.
    Tasks,
    Done,
}

impl Drain {
    /// The process that serves stops the service: no client has to be spared for it any more.
    pub(super) fn is_left_alone(&mut self, out: &mut Vec<Effect>) {
        if let Self::Running { until, is_succeeded: is_succeeded @ true } = self {
            *is_succeeded = false;
            out.push(Effect::Drain { until: *until, is_succeeded: false });
        }
    }

    fn wait(self) -> Option<(Deadline, Instant)> {
        match self {
            Self::Running { until, .. } => Some((Deadline::Drain, until)),
            Self::Forcing { until } => Some((Deadline::Force, until)),
            Self::Tasks | Self::Done => None,
        }
    }
}

impl State {
    /// What this state waits for, and until when.
    pub(super) fn wait(&self) -> Option<(Deadline, Instant)> {
        match self {
            Self::Offering { until, lease, .. } if lease <= until => Some((Deadline::Lease, *lease)),
            Self::Offering { until, .. } => Some((Deadline::Batch, *until)),
            Self::Warming { until, .. } => Some((Deadline::Lease, *until)),
            Self::Standby { until, .. } => Some((Deadline::Standby, *until)),
            Self::BeforeRelease { until, .. } => Some((Deadline::BeforeRelease, *until)),
            Self::Quiescing { until, .. } => Some((Deadline::Quiesce, *until)),
            Self::Releasing { until, .. }
            | Self::RollingBack { until, .. }
            | Self::Stopping { until, .. } => Some((Deadline::Stop, *until)),
            Self::Released { until, .. } => Some((Deadline::Serving, *until)),
            Self::Probation { until, drain, .. } => match drain.wait() {
                Some((deadline, end)) if end < *until => Some((deadline, end)),
                _ => Some((Deadline::Probation, *until)),
            },
            Self::Retired { drain, .. } => drain.wait(),
            Self::Resuming { until, .. } => Some((Deadline::Resume, *until)),
            Self::Serving | Self::Gone => None,
        }
    }

    /// What is to come when the accept loops have stopped, as long as they have not begun to.
    pub(super) fn goal(&self) -> Option<&Goal> {
        match self {
            Self::BeforeRelease { goal, .. } | Self::Quiescing { goal, .. } => Some(goal),
            _ => None,
        }
    }

    /// The predecessor that a rollback is under way to.
    pub(super) fn rolls_back_to(&self) -> Option<Generation> {
        match (self, self.goal()) {
            (_, Some(Goal::RollBack(to))) => Some(*to),
            (Self::RollingBack { to, .. } | Self::Resuming { to, .. }, _) => Some(*to),
            _ => None,
        }
    }

    /// The service is stopping.
    pub(super) fn stops(&self) -> bool {
        matches!((self, self.goal()), (_, Some(Goal::Stop { .. })) | (Self::Stopping { .. }, _))
    }

    pub(super) fn successor(&self) -> Option<&Peer> {
        match self {
            Self::Offering { peer, .. }
            | Self::Warming { peer, .. }
            | Self::Standby { peer, .. }
            | Self::BeforeRelease { goal: Goal::Release(peer), .. }
            | Self::Quiescing { goal: Goal::Release(peer), .. }
            | Self::Releasing { peer, .. }
            | Self::Released { peer, .. }
            | Self::Probation { peer, .. } => Some(peer),
            _ => None,
        }
    }

    /// A handoff is under way and not committed.
    pub(super) fn is_attempt(&self) -> bool {
        self.successor().is_some() && !matches!(self, Self::Probation { .. })
    }

    /// The accept loops of the process in this state run, or will if the other side does not do its part.
    pub(super) fn owns(&self) -> bool {
        self.is_rollback() || self.is_attempt() || matches!(self, Self::Serving)
    }

    /// The service is on its way back to the predecessor.
    pub(super) fn is_rollback(&self) -> bool {
        self.rolls_back_to().is_some()
    }

    /// The application's hook has ended: the accept loops are about to stop, or have stopped.
    pub(super) fn loops_stop(&self) -> bool {
        let releases = matches!(self, Self::Releasing { .. } | Self::Released { .. });
        let rolls_back = matches!(self, Self::RollingBack { .. } | Self::Resuming { .. });
        matches!(self, Self::Quiescing { .. }) || releases || rolls_back
    }

    /// Something of ours has stopped, and has to go on if no other process serves.
    pub(super) fn has_stopped(&self) -> bool {
        matches!(self, Self::BeforeRelease { .. }) || self.loops_stop()
    }

    /// How far the successor has come, as it reads in "while it was …" and "it is …".
    pub(super) fn stage(&self) -> &'static str {
        match self {
            Self::Offering { .. } => "receiving the inventory",
            Self::Warming { .. } => "warming up",
            Self::Standby { .. } => "in standby",
            state if matches!(state.goal(), Some(Goal::Release(_))) => "about to be released",
            Self::Releasing { .. } | Self::Released { .. } => "released",
            Self::Probation { .. } => "serving",
            Self::Serving => "alone",
            state if state.is_rollback() => "rolling back",
            _ => "stopping",
        }
    }

    /// What comes before the process in this state ends, other than its drain.
    pub(super) fn ends_after(&self) -> Option<&'static str> {
        match self {
            state if state.is_attempt() => Some("its successor, which takes over"),
            state if state.is_rollback() => Some("its predecessor, which serves again"),
            Self::BeforeRelease { .. } => Some("the hooks of `before_release`"),
            state if state.stops() => {
                Some("its accept loops, and predecessors that migrate connections to it")
            }
            _ => None,
        }
    }

    /// What a status says about the successor in this state.
    pub(super) fn successor_state(&self) -> ProcessState {
        match self {
            Self::Offering { .. } | Self::Warming { .. } => ProcessState::Starting,
            Self::Standby { .. } | Self::BeforeRelease { .. } | Self::Quiescing { .. } => {
                ProcessState::Standby
            }
            Self::Releasing { .. } | Self::Released { .. } => ProcessState::Standby,
            _ => ProcessState::Serving,
        }
    }

    /// Brings the end of the drain forward; never back.
    pub(super) fn hurry(&mut self, deadline: Instant, out: &mut Vec<Effect>) {
        let (Self::Probation { drain, .. } | Self::Retired { drain, .. }) = self else { return };
        if let Drain::Running { until, is_succeeded } = drain {
            *until = deadline.min(*until);
            out.push(Effect::Drain { until: *until, is_succeeded: *is_succeeded });
        }
    }
}
