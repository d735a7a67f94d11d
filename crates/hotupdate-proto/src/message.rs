//! Everything either side can say on the link, and the call that opens it.
//!
//! Deliberately absent: descriptors. A message says how many it owns ([`Message::descriptors`]); the channel
//! that carries it attaches and checks them.
//!
//! ```text
//! successor                                    incumbent
//!    | Join ------------------------------------->|  a Varlink call with `upgrade`
//!    |<----------------------------------- Joined |  from here on the connection is the link
//!    |<---- listeners+fds · state+fds · links+fds |
//!    | received (one for each batch) ------------>|
//!    |<------------------- control+fds · complete |
//!    |   … warms up; the incumbent serves on …    |
//!    | ready ------------------------------------>|
//!    |<---------------------------- released+fds  |  the accept loops have stopped
//!    | serving ---------------------------------->|  parks its listeners, drains
//!    | takes ------------------------------------>|
//!    |<---- move+fds · yours or back · rest       |
//!    | held (one for each move) ----------------->|
//!    |<- connections · progress · drained · let_go|
//!    | hurry · issued · settle ------------------>|
//!    | resume · farewell ------------------------>|
//!    |<-- failed (either side, until `serving`) ->|
//! ```

use std::fmt;

use serde::{Deserialize, Serialize};

pub use crate::generation::Generation;
use crate::inventory::{ConnectionRow, LinkItem, LinkRest, ListenerItem, StateItem, Summary, Totals};
use crate::moving::{Kind, MovingItem};
use crate::text::OneLine;

/// The most descriptors that one message may own. The kernel takes 253 (`SCM_MAX_FD`, `include/net/scm.h`).
pub const MAX_DESCRIPTORS: usize = 250;

/// The most batches of an inventory, which bounds what a peer can make us hold: 256 × 250 descriptors.
pub const MAX_BATCHES: u32 = 256;

/// Who a process is, shown on one line whatever its version string holds. `instance` is the identity; the process id is for
/// people, since it means nothing across containers.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Process {
    /// 128 random bits in hexadecimal, new at every start.
    pub instance: String,
    /// The process id in the namespace of the process itself.
    pub pid: u32,
    /// The version string that the application gave, possibly empty.
    pub version: String,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.version.as_str() {
            "" => write!(f, "{}", self.pid),
            version => write!(f, "{} ({})", self.pid, OneLine(version)),
        }
    }
}

/// An inclusive range of protocol versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Versions {
    /// The oldest version spoken.
    pub min: u16,
    /// The newest version spoken.
    pub max: u16,
}

impl Versions {
    /// The newest version that both sides speak.
    #[must_use]
    pub fn overlap(self, other: Self) -> Option<u16> {
        let newest = self.max.min(other.max);
        (newest >= self.min.max(other.min)).then_some(newest)
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.min == self.max {
            write!(f, "{}", self.max)
        } else {
            write!(f, "{} to {}", self.min, self.max)
        }
    }
}

/// The parameters of the call `io.hotupdate.Join`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Join {
    /// The protocol versions that the successor speaks.
    pub versions: Versions,
    /// Optional abilities; those that both sides name are used.
    #[serde(default)]
    pub features: Vec<String>,
    /// Who joins.
    pub process: Process,
    /// What the starter of the successor calls this attempt, so that it recognises it in a status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<String>,
}

/// The reply to [`Join`]; after it the connection is the link.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Joined {
    /// The version that is spoken from here on.
    pub version: u16,
    /// The features that both sides have.
    pub features: Vec<String>,
    /// The successor's generation.
    pub generation: Generation,
    /// How long the successor may take to become ready, in milliseconds.
    pub lease_ms: u64,
    /// The name of this handoff in logs of both sides.
    pub handoff: String,
    /// Who serves.
    pub incumbent: Process,
    /// The incumbent's generation.
    pub incumbent_generation: Generation,
}

/// When a successor that is ready takes over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Release {
    /// As soon as it is ready.
    #[default]
    Now,
    /// When an operator says so; until then it stands by.
    OnCommand,
}

/// What became of the listeners that were offered, and when to release them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Ready {
    /// Names of listeners taken over.
    pub adopted: Vec<String>,
    /// Names of listeners bound afresh.
    pub bound: Vec<String>,
    /// Names of listeners that were offered and that nobody asked for.
    pub unclaimed: Vec<String>,
    /// When to take over.
    pub release: Release,
}

/// The accept loops of the incumbent have stopped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Released {
    /// The connections that are open in the incumbent.
    pub connections: Summary,
    /// When the last accept loop stopped, in nanoseconds of `CLOCK_MONOTONIC`.
    pub stopped_at_ns: u64,
    /// The incumbent serves again when it has not heard `serving` this long after it stopped, in milliseconds. A successor
    /// that was frozen meanwhile must not begin.
    #[serde(default = "forever")]
    pub within_ms: u64,
    /// The final word of the application's state; one descriptor each.
    pub state: Vec<StateItem>,
    /// The predecessors whose links were passed and still live, with the bytes already read from them.
    pub links: Vec<LinkRest>,
}

fn forever() -> u64 {
    u64::MAX
}

/// One message on the link. Unknown fields are ignored, an unknown type is an error.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Message {
    // ---- incumbent → successor: the inventory, in acknowledged batches -----------------------------------
    /// Listeners; one descriptor each.
    Listeners {
        /// The number of this batch, from 1.
        batch: u32,
        /// The listeners.
        items: Vec<ListenerItem>,
    },
    /// Application state as of now; one sealed memfd each.
    State {
        /// The number of this batch.
        batch: u32,
        /// The states.
        items: Vec<StateItem>,
    },
    /// Links to predecessors that still drain; one descriptor each.
    Links {
        /// The number of this batch.
        batch: u32,
        /// The links.
        items: Vec<LinkItem>,
    },
    /// The control socket's listener and the lock, in this order.
    Control {
        /// The number of this batch.
        batch: u32,
    },
    /// Nothing more is coming: the successor owns what it needs to serve on its own.
    Complete {
        /// How many batches there were.
        batches: u32,
    },
    // ---- successor → incumbent ------------------------------------------------------------------------------
    /// A batch arrived whole.
    Received {
        /// Its number.
        batch: u32,
    },
    /// The successor is warm.
    Ready(Ready),
    // ---- the commit -----------------------------------------------------------------------------------------
    /// Incumbent: nobody accepts now; go. One descriptor for each state.
    Released(Released),
    /// Successor (or a predecessor that resumed): this process accepts.
    Serving {
        /// The time in which nobody accepted, in nanoseconds; absent where the clocks do not compare.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        gap_ns: Option<u64>,
    },
    // ---- predecessor → serving process ----------------------------------------------------------------------
    /// Metadata of connections that are open in the predecessor.
    Connections {
        /// The rows.
        items: Vec<ConnectionRow>,
    },
    /// Live connections that move, see [`crate::moving`]; one descriptor each.
    Move {
        /// The number of this batch, from 1.
        batch: u32,
        /// The connections.
        items: Vec<MovingItem>,
    },
    /// The sender has let go of a batch that is held.
    Yours {
        /// Its number.
        batch: u32,
    },
    /// The sender has taken a batch back, because `held` did not come in time.
    Back {
        /// Its number.
        batch: u32,
    },
    /// No batch is on its way, and none comes until the next `takes`.
    Rest,
    /// The drain as it goes.
    Progress {
        /// What is left.
        connections: Summary,
        /// Ids of connections that ended since the last message.
        #[serde(default)]
        closed: Vec<u64>,
        /// What became of all of them. It is said once more before `drained`.
        #[serde(default)]
        totals: Totals,
        /// The names of tasks that keep the sender alive, at most [`MAX_TASKS`](crate::inventory::MAX_TASKS) of them.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        tasks: Vec<String>,
    },
    /// Nothing is left.
    Drained {
        /// Connections closed at the deadline.
        forced: u64,
    },
    /// The predecessor's probation is over: it cannot take over again.
    LetGo,
    // ---- serving process → predecessor ----------------------------------------------------------------------
    /// The kinds of connections that the sender picks up.
    Takes {
        /// All of them; replaces what was said before. With none of them the predecessor says `rest`.
        kinds: Vec<Kind>,
    },
    /// A batch of connections arrived and is held, untouched.
    Held {
        /// Its number.
        batch: u32,
        /// Ids of connections that are not taken.
        refused: Vec<u64>,
    },
    /// Be drained within this time.
    Hurry {
        /// In milliseconds from now.
        deadline_ms: u64,
    },
    /// This generation number was given to a successor; never give it again.
    Issued {
        /// The number.
        generation: Generation,
    },
    /// A later version serves well: end your probation.
    Settle,
    /// Rollback: serve again. Sent when the sender's accept loops have stopped.
    Resume {
        /// When they stopped, in nanoseconds of `CLOCK_MONOTONIC`.
        stopped_at_ns: u64,
        /// The links to older generations that the receiver reads from now on, with the bytes already read from them.
        #[serde(default)]
        links: Vec<LinkRest>,
    },
    /// The serving process stops on purpose: let the listeners go.
    Farewell,
    // ---- either ---------------------------------------------------------------------------------------------
    /// This attempt is over, and why. The sender closes the link after it.
    Failed {
        /// One line for a person.
        reason: String,
    },
}

impl Message {
    /// How many descriptors ride on this message.
    #[must_use]
    pub fn descriptors(&self) -> usize {
        match self {
            Self::Listeners { items, .. } => items.len(),
            Self::State { items, .. } => items.len(),
            Self::Links { items, .. } => items.len(),
            Self::Control { .. } => 2,
            Self::Move { items, .. } => items.len(),
            Self::Released(released) => released.state.len(),
            _ => 0,
        }
    }

    /// The number of the inventory batch that this message is, if it is one.
    #[must_use]
    pub fn batch(&self) -> Option<u32> {
        match self {
            Self::Listeners { batch, .. }
            | Self::State { batch, .. }
            | Self::Links { batch, .. }
            | Self::Control { batch } => Some(*batch),
            _ => None,
        }
    }

    /// The word on the wire, for logs and errors.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Listeners { .. } => "listeners",
            Self::State { .. } => "state",
            Self::Links { .. } => "links",
            Self::Control { .. } => "control",
            Self::Complete { .. } => "complete",
            Self::Received { .. } => "received",
            Self::Ready(_) => "ready",
            Self::Released(_) => "released",
            Self::Serving { .. } => "serving",
            Self::Connections { .. } => "connections",
            Self::Move { .. } => "move",
            Self::Yours { .. } => "yours",
            Self::Back { .. } => "back",
            Self::Rest => "rest",
            Self::Takes { .. } => "takes",
            Self::Held { .. } => "held",
            Self::Progress { .. } => "progress",
            Self::Drained { .. } => "drained",
            Self::LetGo => "let_go",
            Self::Hurry { .. } => "hurry",
            Self::Issued { .. } => "issued",
            Self::Settle => "settle",
            Self::Resume { .. } => "resume",
            Self::Farewell => "farewell",
            Self::Failed { .. } => "failed",
        }
    }
}
