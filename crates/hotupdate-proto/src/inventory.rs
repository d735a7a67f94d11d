//! What travels: listeners, application state, links to older generations, and what is known of connections.
//!
//! Deliberately absent: the descriptors themselves. Items stand in the order of the descriptors of their
//! message.

use std::fmt;

use crate::text::ShortText;
use serde::{Deserialize, Serialize};

use crate::identity::{Generation, Process};

/// The most listeners that one process may own.
pub const MAX_LISTENERS: usize = 16_384;

/// The longest name of a listener or state, in bytes. systemd's `FileDescriptorName=` has the same limit.
pub const MAX_NAME: usize = 255;

/// What kind of descriptor stands behind a listener's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ListenerKind {
    /// A TCP socket that listens.
    Tcp,
    /// A Unix stream socket that listens.
    Unix,
    /// A bound UDP socket.
    Udp,
    /// A bound Unix datagram socket.
    UnixDatagram,
    /// Any other descriptor; nothing about it is checked.
    Other,
}

impl fmt::Display for ListenerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Unix => "unix",
            Self::Udp => "udp",
            Self::UnixDatagram => "unix datagram",
            Self::Other => "descriptor",
        })
    }
}

/// A listener that is offered. The receiver checks all of it against the descriptor.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ListenerItem {
    /// The key. Two processes agree on names, never on addresses.
    pub name: String,
    /// What kind of descriptor it is.
    pub kind: ListenerKind,
    /// The address it is bound to, as `getsockname(2)` has it; empty for [`ListenerKind::Other`].
    pub address: String,
    /// `SO_COOKIE` (socket(7)): the kernel's number of the socket; 0 for [`ListenerKind::Other`], and where a
    /// peer does not say it.
    #[serde(default)]
    pub cookie: u64,
}

/// Application state that travels in a sealed memfd (memfd_create(2)).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StateItem {
    /// The key.
    pub name: String,
    /// What the bytes are, in the application's own words.
    pub schema: String,
    /// How many bytes.
    pub length: u64,
}

/// A link to a predecessor that still drains.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LinkItem {
    /// The predecessor's generation.
    pub generation: Generation,
    /// The process itself.
    pub process: Process,
    /// The features that it has in common with the sender.
    #[serde(default)]
    pub features: Vec<String>,
    /// What was left in it when this was sent.
    pub connections: Summary,
    /// Whether it can still take over again.
    pub probation: bool,
    /// Whether it said that it is drained.
    #[serde(default)]
    pub drained: bool,
    /// What became of its connections, as it said last.
    #[serde(default)]
    pub totals: Totals,
    /// The names of tasks that keep it alive, as it said last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tasks: Vec<String>,
    /// The name of the handoff that made a predecessor of it.
    #[serde(default)]
    pub handoff: String,
    /// For how long it had been a predecessor when this was sent, in milliseconds.
    #[serde(default)]
    pub since_ms: u64,
}

/// What the incumbent has open when a successor joins, which has to have room for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Occupancy {
    /// Open connections: so many may come to the successor.
    pub connections: u64,
    /// Open descriptors of every kind, connections among them.
    pub descriptors: u64,
}

/// The file that a Unix socket was bound to, as stat(2) knows it. Its number is not given to another file as
/// long as any process has the socket open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SocketFile {
    /// `st_dev`
    pub device: u64,
    /// `st_ino`
    pub inode: u64,
}

/// What the incumbent had already read from a predecessor's link when it stopped reading it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct UnreadLink {
    /// The predecessor's generation.
    pub generation: Generation,
    /// The beginning of a message whose rest is still to come.
    pub unread: String,
}

/// The most tasks of one process that are told by name.
pub const MAX_TASKS: usize = 100;

/// Connections by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Summary {
    /// Between requests, or with nothing read yet.
    pub idle: u64,
    /// With a request in flight.
    pub active: u64,
    /// Upgraded, such as WebSockets.
    pub upgraded: u64,
}

impl Summary {
    /// So many connections in each state.
    ///
    /// ```
    /// use hotupdate_proto::Summary;
    /// assert_eq!(Summary::new(2, 1, 0).open(), 3);
    /// ```
    #[must_use]
    pub fn new(idle: u64, active: u64, upgraded: u64) -> Self {
        Self { idle, active, upgraded }
    }

    /// All open connections.
    #[must_use]
    pub fn open(&self) -> u64 {
        self.idle.saturating_add(self.active).saturating_add(self.upgraded)
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { idle, active, upgraded } = self;
        match self.open() {
            0 => write!(f, "no connections"),
            1 => write!(f, "1 connection ({active} active, {idle} idle, {upgraded} upgraded)"),
            open => write!(f, "{open} connections ({active} active, {idle} idle, {upgraded} upgraded)"),
        }
    }
}

/// What became of all connections of a process since its start. What came in is either still open or has
/// ended in one of four ways: `accepted + adopted = open + migrated + finished + closed + forced`, at every
/// moment.
///
/// All zero where it is not known: a successor that does not serve yet, or a peer that is too old to say it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Totals {
    /// Accepted here.
    pub accepted: u64,
    /// Came from another process.
    pub adopted: u64,
    /// Moved to another process; their clients saw nothing.
    pub migrated: u64,
    /// Ended by themselves: the client left, or its conversation was over.
    pub finished: u64,
    /// Ended politely by this process because it drains: `Connection: close`, GOAWAY, a close frame, or the
    /// end of the grace of an idle connection.
    pub closed: u64,
    /// Closed at the deadline of a drain.
    pub forced: u64,
    /// Requests served.
    pub requests: u64,
    /// Connections of HTTP/2 that moved to another process while streams were open, which are served here to
    /// their end: until then they are open here, and the other process has adopted them.
    pub relayed: u64,
    /// Connections of HTTP/2 that were told to leave. They are among the `closed` when they have ended.
    pub goaways: GoAways,
}

/// How many connections of HTTP/2 were told to leave with GOAWAY because their process drains and they cannot
/// migrate, by the reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct GoAways {
    /// No other process accepts the connection: there is none, or it does not serve this listener with a
    /// server whose connections migrate.
    pub not_accepted: u64,
    /// A stream was open for longer than the grace of the drain.
    pub streams: u64,
    /// What its client has done does not fit into another server: it has said GOAWAY itself, has sent what is
    /// no HTTP/2, half a frame, or has had too many streams reset.
    pub client: u64,
    /// The server to which it had moved allows less than the one before.
    pub settings: u64,
}

impl GoAways {
    /// Each reason as a word, and how often it was one.
    #[must_use]
    pub fn reasons(&self) -> [(&'static str, u64); 4] {
        let Self { not_accepted, streams, client, settings } = *self;
        [("not_accepted", not_accepted), ("streams", streams), ("client", client), ("settings", settings)]
    }

    pub(crate) fn each(self, other: Self, with: impl Fn(u64, u64) -> u64) -> Self {
        let Self { not_accepted, streams, client, settings } = self;
        Self {
            not_accepted: with(not_accepted, other.not_accepted),
            streams: with(streams, other.streams),
            client: with(client, other.client),
            settings: with(settings, other.settings),
        }
    }

    /// All of them.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.reasons().iter().fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }
}

impl Totals {
    /// Everything that came in.
    #[must_use]
    pub fn entered(&self) -> u64 {
        self.accepted.saturating_add(self.adopted)
    }

    /// Everything that has ended here, in whatever way.
    #[must_use]
    pub fn ended(&self) -> u64 {
        let Self { accepted: _, adopted: _, migrated, finished, closed, forced, .. } = self;
        [migrated, finished, closed, forced].into_iter().fold(0, |sum, n| sum.saturating_add(*n))
    }

    /// What is open.
    #[must_use]
    pub fn open(&self) -> u64 {
        self.entered().saturating_sub(self.ended())
    }
}

/// What a connection does at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ConnectionState {
    /// Between requests, or with nothing read yet.
    #[default]
    Idle,
    /// With a request in flight.
    Active,
    /// Upgraded: the HTTP conversation is over, or goes on beside a tunnel in one of its streams (RFC 8441).
    Upgraded,
}

/// What is known of one live connection. Its words are short, and there are many connections, so they are
/// kept without allocating; a [`ShortText`] is a `&str` to its reader.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ConnectionRow {
    /// A number that is unique in the process that accepted the connection.
    pub id: u64,
    /// The name of the listener that accepted it.
    pub listener: ShortText,
    /// The client's address; empty for an unnamed Unix socket.
    pub peer: ShortText,
    /// The address that the client connected to.
    pub local: ShortText,
    /// `http/1.1`, `h2`, `websocket`, `raw`, or what the application calls it.
    pub protocol: ShortText,
    /// How long ago it was accepted, in milliseconds: an age does not change with a clock that is set.
    pub age_ms: u64,
    /// Requests served so far.
    pub requests: u64,
    /// What it does at the moment.
    pub state: ConnectionState,
}
