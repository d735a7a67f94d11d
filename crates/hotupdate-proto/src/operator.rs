//! What an operator may ask on the control socket, and what comes back: the Varlink interface `io.hotupdate`.
//!
//! Deliberately absent: the transport. Varlink is one JSON object and a NUL byte, see [`crate::frame`] and
//! <https://varlink.org>.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::identity::{Generation, Process};
use crate::inventory::{ConnectionRow, ListenerKind, Summary, Totals};

/// A Varlink call. Its members are the protocol's own, and stay.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// `interface.Method`.
    pub method: String,
    /// The parameters of the method.
    #[serde(default)]
    pub parameters: Map<String, Value>,
    /// The caller wants no reply.
    #[serde(default, skip_serializing_if = "is_false")]
    pub oneway: bool,
    /// The caller takes more than one reply.
    #[serde(default, skip_serializing_if = "is_false")]
    pub more: bool,
    /// The caller wants to speak another protocol after the reply.
    #[serde(default, skip_serializing_if = "is_false")]
    pub upgrade: bool,
}

/// A Varlink reply. Its members are the protocol's own, and stay.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// The parameters of the reply, or of the error.
    #[serde(default)]
    pub parameters: Map<String, Value>,
    /// More replies follow.
    #[serde(default, skip_serializing_if = "is_false")]
    pub continues: bool,
    /// The name of the error, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
fn is_false(value: &bool) -> bool {
    !*value
}

/// What a process is doing, as `hotctl status` prints it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ProcessState {
    /// Not ready yet.
    Starting,
    /// Ready, waits for an operator's command.
    Standby,
    /// Accepts connections.
    Serving,
    /// Finishes, moves or closes what is open.
    Draining,
    /// Has drained, and stays: it may take over again, or its supervisor takes it for the service.
    Drained,
    /// Not there any more.
    Gone,
    /// What a later version of the service calls it, and this one has no word for.
    #[serde(other)]
    Unknown,
}

impl std::fmt::Display for ProcessState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Starting => "starting",
            Self::Standby => "standby",
            Self::Serving => "serving",
            Self::Draining => "draining",
            Self::Drained => "drained",
            Self::Gone => "gone",
            Self::Unknown => "unknown",
        })
    }
}

/// One process of the service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ProcessStatus {
    /// Its generation.
    pub generation: Generation,
    /// The process itself.
    pub process: Process,
    /// What it does.
    pub state: ProcessState,
    /// For how long it has been known to this generation's serving process, in milliseconds.
    #[serde(default)]
    pub since_ms: u64,
    /// Its open connections.
    #[serde(default)]
    pub connections: Summary,
    /// What became of all its connections.
    #[serde(default)]
    pub totals: Totals,
    /// The names of tasks of its application that keep it alive after its connections.
    #[serde(default)]
    pub tasks: Vec<String>,
    /// It can take over again at once if the serving process dies, or on `Rollback`.
    #[serde(default)]
    pub probation: bool,
    /// What the starter of this process called the attempt, while it is a successor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<String>,
}

impl ProcessStatus {
    /// A process that has just become known: no connections, no tasks, not in probation.
    #[must_use]
    pub fn new(generation: Generation, process: Process, state: ProcessState) -> Self {
        Self {
            generation,
            process,
            state,
            since_ms: 0,
            connections: Summary::default(),
            totals: Totals::default(),
            tasks: Vec::new(),
            probation: false,
            attempt: None,
        }
    }
}

/// One listener of the serving process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ListenerStatus {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: ListenerKind,
    /// The address it is bound to.
    pub address: String,
    /// `inherited`, `systemd` or `bound`.
    pub origin: String,
}

impl ListenerStatus {
    /// A listener without an address, as [`ListenerKind::Other`] has none.
    #[must_use]
    pub fn new(name: String, kind: ListenerKind, origin: String) -> Self {
        Self { name, kind, address: String::new(), origin }
    }
}

/// How the last handoff to this process went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LastHandoff {
    /// Its name in the logs of both sides.
    pub handoff: String,
    /// The generation that served before.
    pub from: Generation,
    /// The time in which no process accepted, in nanoseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap_ns: Option<u64>,
    /// From `Join` to `serving`, in milliseconds.
    pub took_ms: u64,
    /// The same in nanoseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_ns: Option<u64>,
    /// How long ago it was, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ago_ms: Option<u64>,
}

impl LastHandoff {
    /// A handoff of this name from this generation, whose times are not known.
    #[must_use]
    pub fn new(handoff: String, from: Generation) -> Self {
        Self { handoff, from, gap_ns: None, took_ms: 0, took_ns: None, ago_ms: None }
    }
}

/// Why the last attempt to replace this process failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LastFailure {
    /// The process that tried.
    pub successor: Process,
    /// The number it had been given, 0 if it was turned away before.
    pub generation: Generation,
    /// What its starter called the attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<String>,
    /// How far it had come.
    pub stage: String,
    /// One line for a person.
    pub reason: String,
    /// How long ago it failed, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ago_ms: Option<u64>,
}

impl LastFailure {
    /// An attempt without a name, which failed before this process was given a generation.
    #[must_use]
    pub fn new(successor: Process, stage: String, reason: String) -> Self {
        Self { successor, generation: Generation(0), attempt: None, stage, reason, ago_ms: None }
    }
}

/// Something that happened to the service and that an operator may ask for afterwards. The process that
/// serves remembers it, and passes it on to the next one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PastEvent {
    /// A word for programs: `failed`, `rolled_back`, `took_over`, `lost` or `stepped_in`.
    pub kind: String,
    /// The generation that it happened to.
    pub generation: Generation,
    /// One line for a person.
    pub text: String,
    /// How long ago it was, in milliseconds.
    pub ago_ms: u64,
}

impl PastEvent {
    /// Something that happened so many milliseconds ago. A text that is too long to be kept is cut off.
    #[must_use]
    pub fn new(kind: &str, generation: Generation, text: &str, ago_ms: u64) -> Self {
        let text = text.chars().take(MAX_PAST_TEXT).collect();
        Self { kind: kind.to_owned(), generation, text, ago_ms }
    }
}

/// How many events are remembered.
pub const MAX_HISTORY: usize = 10;

/// The longest text of an event that is remembered, in characters.
const MAX_PAST_TEXT: usize = 400;

/// Something about the process that serves that an operator should know for as long as it serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Warning {
    /// A word for programs, such as `unclaimed_listener`.
    pub kind: String,
    /// One line for a person: what is the matter, and what to do about it.
    pub text: String,
}

impl Warning {
    /// A warning of this kind.
    #[must_use]
    pub fn new(kind: &str, text: String) -> Self {
        Self { kind: kind.to_owned(), text }
    }
}

/// How many warnings are told.
pub const MAX_WARNINGS: usize = 20;

/// The reply of `Status`, and each reply of `Monitor`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Status {
    /// The process that owns the control socket.
    pub serving: ProcessStatus,
    /// A successor that is on its way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub successor: Option<ProcessStatus>,
    /// Predecessors that are left, newest first.
    #[serde(default)]
    pub predecessors: Vec<ProcessStatus>,
    /// The listeners of the serving process.
    #[serde(default)]
    pub listeners: Vec<ListenerStatus>,
    /// How the serving process came to serve; absent after a first start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handoff: Option<LastHandoff>,
    /// Why the last attempt to replace it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<LastFailure>,
    /// What happened lately, newest first, at most [`MAX_HISTORY`].
    #[serde(default)]
    pub history: Vec<PastEvent>,
    /// What an operator should know of the serving process, at most [`MAX_WARNINGS`].
    #[serde(default)]
    pub warnings: Vec<Warning>,
}

impl Status {
    /// The service right after a first start: this process, without listeners.
    #[must_use]
    pub fn new(serving: ProcessStatus) -> Self {
        Self {
            serving,
            successor: None,
            predecessors: Vec::new(),
            listeners: Vec::new(),
            last_handoff: None,
            last_failure: None,
            history: Vec::new(),
            warnings: Vec::new(),
        }
    }
}

/// Something that happened; a reply of `Monitor` carries it next to the status after it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ServiceEvent {
    /// A word for programs: `joined`, `standby`, `failed`, `served`, `progress`, `drained`, `let_go`,
    /// `took_over`, `rolled_back`, `violation`, `rebound`, `stopping`.
    pub kind: String,
    /// The generation that it happened to.
    pub generation: Generation,
    /// One line for a person.
    pub text: String,
}

impl ServiceEvent {
    /// This happened to this generation.
    #[must_use]
    pub fn new(kind: String, generation: Generation, text: String) -> Self {
        Self { kind, generation, text }
    }
}

/// One reply of `Monitor`. The first has no event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Monitored {
    /// What happened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<ServiceEvent>,
    /// How things are after it.
    pub status: Status,
}

impl Monitored {
    /// This happened, and after it things are so.
    #[must_use]
    pub fn new(event: Option<ServiceEvent>, status: Status) -> Self {
        Self { event, status }
    }
}

/// One reply of `Connections`; the rows of one generation, several replies if there are many.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Connections {
    /// The generation that holds these connections.
    pub generation: Generation,
    /// The rows.
    pub rows: Vec<ConnectionRow>,
}

impl Connections {
    /// These are connections of this generation.
    #[must_use]
    pub fn new(generation: Generation, rows: Vec<ConnectionRow>) -> Self {
        Self { generation, rows }
    }
}

/// The reply of `Handoff` and `Rollback`: which process served before, and which serves now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct HandoffResult {
    /// The process that served before.
    pub from: Process,
    /// The process that serves now.
    pub to: Process,
    /// The generation that serves now.
    pub generation: Generation,
    /// The time in which no process accepted, in nanoseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap_ns: Option<u64>,
}

impl HandoffResult {
    /// Another process serves now; how long no process accepted is not known.
    #[must_use]
    pub fn new(from: Process, to: Process, generation: Generation) -> Self {
        Self { from, to, generation, gap_ns: None }
    }
}

/// The parameters of `Drain` and `Stop`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DeadlineParams {
    /// Be drained in this time, in milliseconds; the service's own deadline if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
}

impl DeadlineParams {
    /// With this deadline, in milliseconds.
    #[must_use]
    pub fn new(deadline_ms: Option<u64>) -> Self {
        Self { deadline_ms }
    }
}

/// The parameters of `Abort`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct AbortParams {
    /// Why, for people that read it in a log or a status afterwards, in words that follow "aborted: "; absent
    /// where an operator simply wants it. Of a long text the beginning is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

impl AbortParams {
    /// For this reason.
    #[must_use]
    pub fn new(why: Option<String>) -> Self {
        Self { why }
    }
}

/// The parameters of `Attempt`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptParams {
    /// What the caller calls it, and what the process that it starts joins with.
    pub attempt: String,
}

/// What an operator commands. Status, connections and monitoring need no machine and are not here.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// Release the successor that stands by.
    Handoff,
    /// End the handoff that is under way; refused once the successor is released, since it may serve already.
    Abort {
        /// Why, see [`AbortParams::why`].
        why: Option<String>,
    },
    /// The operator that began the attempt of this name is gone: as `Abort`, if it is the one that is under
    /// way and not released. Nothing else is undone by it, and a process that comes later for this attempt is
    /// turned away.
    Abandon {
        /// What the operator called it, see [`Join::attempt`](crate::Join::attempt).
        attempt: String,
    },
    /// Give the service back to the predecessor in probation.
    Rollback,
    /// Be quick with the drains that are under way.
    Drain {
        /// The new deadline, from now.
        within: std::time::Duration,
    },
    /// Stop the service.
    Stop {
        /// How long open connections may take, instead of the service's own deadline.
        within: Option<std::time::Duration>,
    },
    /// SIGTERM, or SIGINT: this process ends. A successor that is on its way takes over first, and a
    /// predecessor in probation serves again; else the service stops, and the drain takes its time. The
    /// second time it means nothing more than the first: a supervisor may say it twice.
    Terminate,
    /// SIGINT again: as `Terminate`, and what is still open is closed now.
    TerminateNow,
}

/// Why a command was turned down: the errors of the Varlink interface.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum OperatorError {
    /// There is no process to hand the service to.
    #[error("no successor is waiting; `hotctl handoff -- COMMAND` starts one")]
    NoSuccessor,
    /// The successor is there, but not ready.
    #[error("the successor is not ready yet ({doing})")]
    NotReady {
        /// What it is doing.
        doing: String,
    },
    /// There is no handoff to abort.
    #[error("no handoff is under way")]
    NoHandoff,
    /// No predecessor could take over again.
    #[error("no predecessor is in probation any more; hand off to the old version instead")]
    NoPredecessor,
    /// Another operation has to end first.
    #[error("busy: {doing}")]
    Busy {
        /// What is under way.
        doing: String,
    },
    /// The process that was asked does not serve.
    #[error("the process that was asked is not serving")]
    NotServing,
    /// The handoff or rollback began and failed.
    #[error("{reason}")]
    Failed {
        /// One line for a person.
        reason: String,
    },
}

impl OperatorError {
    /// The member name of the Varlink error, without the interface.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::NoSuccessor => "NoSuccessor",
            Self::NotReady { .. } => "NotReady",
            Self::NoHandoff => "NoHandoff",
            Self::NoPredecessor => "NoPredecessor",
            Self::Busy { .. } => "Busy",
            Self::NotServing => "NotServing",
            Self::Failed { .. } => "Failed",
        }
    }
}

/// The interface description that `org.varlink.service.GetInterfaceDescription` returns.
pub const DESCRIPTION: &str = include_str!("io.hotupdate.varlink");

/// The interface description of `org.varlink.service` itself (<https://varlink.org/Service>).
pub const SERVICE_DESCRIPTION: &str = include_str!("org.varlink.service.varlink");
