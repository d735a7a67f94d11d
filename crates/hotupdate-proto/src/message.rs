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
//!    |<------------------------------ control+fds |  the last of it
//!    |   … warms up; the incumbent serves on …    |
//!    | trouble (what failed, if something did) -->|
//!    | ready ------------------------------------>|
//!    |<---------------------------- released+fds  |  the accept loops have stopped
//!    | serving ---------------------------------->|  parks its listeners, drains
//!    | accepts · quiesce ----------------------->|
//!    |<- prepare+fds · commit or abort · quiesced |
//!    | prepared (one for each prepare) ---------->|
//!    |<- connections · progress · drained · let_go|
//!    |<------------------------------------- main |
//!    | hurry · issued · end_probation · serves -->|
//!    | counted --------------------------------->|
//!    | resume · farewell · rebound+fds ---------->|
//!    |<----------- rebound+fds (until `released`) |
//!    |<-- failed (either side, until `serving`) ->|
//! ```

use serde::{Deserialize, Serialize};

use crate::counts::Counts;
pub use crate::identity::{Generation, Place, Process, Versions};
use crate::inventory::{
    ConnectionRow, LinkItem, ListenerItem, Occupancy, SocketFile, StateItem, Summary, Totals, UnreadLink,
};
use crate::migration::{ConnectionKind, MigrationItem};
use crate::operator::PastEvent;
use crate::text::ShortText;

/// The most descriptors that one message may own. The kernel takes 253 (`SCM_MAX_FD`, `include/net/scm.h`).
pub const MAX_DESCRIPTORS: usize = 250;

/// The most batches of an inventory, which bounds what a peer can make us hold: 256 × 250 descriptors.
pub const MAX_BATCHES: u32 = 256;

/// The parameters of the call `io.hotupdate.Join`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Join {
    /// The protocol versions that the successor speaks.
    pub versions: Versions,
    /// Optional abilities; those that both sides name are used.
    #[serde(default)]
    pub features: Vec<String>,
    /// The process that joins.
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
    #[serde(default)]
    pub features: Vec<String>,
    /// The successor's generation.
    pub generation: Generation,
    /// How long the successor may take to become ready, in milliseconds.
    pub lease_ms: u64,
    /// The name of this handoff in logs of both sides.
    #[serde(default)]
    pub handoff: String,
    /// The process that serves.
    pub incumbent: Process,
    /// The incumbent's generation.
    pub incumbent_generation: Generation,
    /// What the incumbent has open, unless it is too old to say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub occupancy: Option<Occupancy>,
    /// The incumbent's service manager.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manager: Option<ServiceManager>,
}

/// What systemd tells only the processes that it starts, or only the main one (`NotifyAccess=main`), and what
/// the next main process has to know, too.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ServiceManager {
    /// As [`Place::unit`]: to a process of another unit the rest means nothing.
    pub unit: ShortText,
    /// Where the manager listens (`NOTIFY_SOCKET`).
    pub notify_socket: String,
    /// It keeps descriptors (`FDSTORE`).
    #[serde(default, skip_serializing_if = "is_false")]
    pub has_store: bool,
    /// How often it wants to hear that the service is well (`WATCHDOG_USEC`), in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watchdog_us: Option<u64>,
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
#[serde(default)]
pub struct Ready {
    /// Names of listeners taken over.
    pub adopted: Vec<String>,
    /// Names of listeners bound afresh.
    pub bound: Vec<String>,
    /// Names of listeners that were offered and that the application did not ask for.
    pub unclaimed: Vec<String>,
    /// The kinds of live connections that it accepts from the process that served before.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub accepts: Vec<ConnectionKind>,
    /// When to take over.
    pub release: Release,
}

/// The accept loops of the incumbent have stopped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Released {
    /// The connections that are open in the incumbent.
    #[serde(default)]
    pub connections: Summary,
    /// When the last accept loop stopped, in nanoseconds of `CLOCK_MONOTONIC`.
    pub stopped_at_ns: u64,
    /// The incumbent serves again when it has not heard `serving` this long after it stopped, in
    /// milliseconds. A successor that was frozen meanwhile must not begin.
    #[serde(default = "forever")]
    pub within_ms: u64,
    /// The final word of the application's state; one descriptor each.
    #[serde(default)]
    pub state: Vec<StateItem>,
    /// The predecessors whose links were passed and still live, with the bytes already read from them.
    #[serde(default)]
    pub links: Vec<UnreadLink>,
    /// What the incumbent remembers of the service, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<PastEvent>,
    /// What the incumbent has counted of the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counts: Option<Box<Counts>>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
fn is_false(value: &bool) -> bool {
    !*value
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
    /// The control socket's listener and the lock, in this order. Nothing more is coming: the successor owns
    /// what it needs to serve on its own.
    Control {
        /// The number of this batch.
        batch: u32,
    },
    // ---- successor → incumbent ------------------------------------------------------------------------
    /// A batch arrived whole.
    Received {
        /// Its number.
        batch: u32,
    },
    /// Something went wrong in the successor before it was ready. It may go on; if it ends, this is why.
    /// Said to a process with the feature [`FEATURE_TROUBLE`](crate::FEATURE_TROUBLE).
    Trouble {
        /// One line for a person.
        what: String,
    },
    /// The successor is warm.
    Ready(Ready),
    // ---- the commit -----------------------------------------------------------------------------------
    /// Incumbent: no process accepts now, so begin. One descriptor for each state.
    Released(Released),
    /// Successor (or a predecessor that resumed): this process accepts.
    Serving {
        /// The time in which no process accepted, in nanoseconds; absent where the clocks do not compare.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        gap_ns: Option<u64>,
        /// The kinds of live connections that a predecessor that resumed accepts. A successor has said it
        /// with `ready`.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        accepts: Vec<ConnectionKind>,
    },
    // ---- predecessor → serving process ----------------------------------------------------------------
    /// The service manager has confirmed that the process with this id, in its namespace, is the main one of
    /// the service. Only to a process with [`FEATURE_SUPERVISION`](crate::FEATURE_SUPERVISION).
    Main {
        /// The process that said [`Self::Serves`].
        pid: u32,
    },
    /// Metadata of connections that are open in the predecessor.
    Connections {
        /// The rows.
        items: Vec<ConnectionRow>,
    },
    /// Live connections that migrate, see [`crate::migration`]; one descriptor each. To a process that
    /// understands it this is said in [`crate::migration::bulk`].
    Prepare {
        /// The number of this batch, from 1.
        batch: u32,
        /// The connections.
        items: Vec<MigrationItem>,
    },
    /// The sender has let go of a batch that is prepared: the receiver serves it from here on.
    Commit {
        /// Its number.
        batch: u32,
    },
    /// The sender serves a batch again, because `prepared` did not come in time.
    Abort {
        /// Its number.
        batch: u32,
    },
    /// The answer to `quiesce`: no batch is on its way, and none comes until the next `accepts`.
    Quiesced,
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
        /// The names of tasks that keep the sender alive, at most [`MAX_TASKS`](crate::inventory::MAX_TASKS)
        /// of them.
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
    // ---- serving process → predecessor ----------------------------------------------------------------
    /// The kinds of connections that the sender accepts.
    Accepts {
        /// All of them; replaces what was said before.
        kinds: Vec<ConnectionKind>,
    },
    /// The sender's accept loops are about to stop: finish the migrations that are under way, and say
    /// `quiesced`.
    Quiesce,
    /// A batch of connections arrived and is held, untouched.
    Prepared {
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
    EndProbation,
    /// Which process serves, for one whose supervisor takes it for the service. Only to a process with
    /// [`FEATURE_SUPERVISION`](crate::FEATURE_SUPERVISION).
    Serves {
        /// The process id of the sender, in its own namespace.
        pid: u32,
        /// Where it runs.
        place: Place,
        /// No process can take its place back, and it can become the main process of a service manager.
        is_established: bool,
    },
    /// What the sender has counted of the service so far, for one that would serve after its death. Only to a
    /// predecessor in probation with [`FEATURE_COUNTS`](crate::FEATURE_COUNTS).
    Counted {
        /// Nothing greater is shown before it is said.
        counts: Counts,
    },
    /// Serve again. Sent when the sender's accept loops have stopped, or by a successor whose incumbent died.
    Resume {
        /// When they stopped, in nanoseconds of `CLOCK_MONOTONIC`.
        stopped_at_ns: u64,
        /// The links to older generations that the receiver reads from now on, with the bytes already read
        /// from them.
        #[serde(default)]
        links: Vec<UnreadLink>,
        /// What the sender remembers of the service, newest first.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        history: Vec<PastEvent>,
        /// What the sender has counted of the service.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        counts: Option<Box<Counts>>,
        /// Why, in one line for a person.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        reason: String,
    },
    /// The serving process stops the service on purpose: let the listeners go, and no client has to be
    /// spared.
    Farewell,
    // ---- serving process → every other that may serve after it ----------------------------------------
    /// The control socket was made again, because its file or its lock was gone: its new listener and lock,
    /// in this order, in place of those that the receiver has. Said to processes with
    /// [`FEATURE_REBIND`](crate::FEATURE_REBIND): to a successor that has its whole inventory, and to
    /// predecessors in probation.
    Rebound {
        /// The file that the listener is bound to.
        file: SocketFile,
    },
    // ---- either ---------------------------------------------------------------------------------------
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
            Self::Control { .. } | Self::Rebound { .. } => 2,
            Self::Prepare { items, .. } => items.len(),
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
            Self::Received { .. } => "received",
            Self::Trouble { .. } => "trouble",
            Self::Ready(_) => "ready",
            Self::Released(_) => "released",
            Self::Serving { .. } => "serving",
            Self::Main { .. } => "main",
            Self::Connections { .. } => "connections",
            Self::Prepare { .. } => "prepare",
            Self::Commit { .. } => "commit",
            Self::Abort { .. } => "abort",
            Self::Quiesce => "quiesce",
            Self::Quiesced => "quiesced",
            Self::Accepts { .. } => "accepts",
            Self::Prepared { .. } => "prepared",
            Self::Progress { .. } => "progress",
            Self::Drained { .. } => "drained",
            Self::LetGo => "let_go",
            Self::Hurry { .. } => "hurry",
            Self::Issued { .. } => "issued",
            Self::EndProbation => "end_probation",
            Self::Serves { .. } => "serves",
            Self::Counted { .. } => "counted",
            Self::Resume { .. } => "resume",
            Self::Farewell => "farewell",
            Self::Rebound { .. } => "rebound",
            Self::Failed { .. } => "failed",
        }
    }
}
