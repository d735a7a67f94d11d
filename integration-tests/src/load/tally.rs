//! What one kind of client counted.
//!
//! Deliberately absent: sharing. Each client has a tally of its own; they are added up at the end.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::time::{Duration, Instant};

/// Different failure texts that one tally keeps; the counts by class go on.
const MAX_TEXTS: usize = 10;

/// Samples that one tally keeps: 32 bytes each, so 32 MiB at the most for each client.
const MAX_SAMPLES: usize = 1 << 20;

/// A kind of client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// One connection, many requests.
    KeepAlive,
    /// One connection for each request.
    PerRequest,
    /// `POST /echo`, compared byte by byte.
    Post,
    /// A slow request.
    Slow,
    /// An event stream.
    Sse,
    /// Numbered messages.
    WebSocket,
    /// HTTP/2 with prior knowledge.
    Http2,
}

impl Kind {
    /// All kinds, in the order of the tables.
    pub const ALL: [Self; 7] =
        [Self::KeepAlive, Self::PerRequest, Self::Post, Self::Slow, Self::Sse, Self::WebSocket, Self::Http2];

    /// The kinds whose latency is a request's and nothing else's.
    pub const TIMED: [Self; 5] =
        [Self::KeepAlive, Self::PerRequest, Self::Post, Self::WebSocket, Self::Http2];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::KeepAlive => "keep-alive",
            Self::PerRequest => "one per request",
            Self::Post => "post and compare",
            Self::Slow => "slow request",
            Self::Sse => "event stream",
            Self::WebSocket => "websocket",
            Self::Http2 => "http/2",
        })
    }
}

/// In which way a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FailureClass {
    /// The connection was refused.
    Refused,
    /// The connection was reset.
    Reset,
    /// The connection ended before the first byte of the answer.
    Unanswered,
    /// The answer has another status than 200, or is no HTTP at all.
    BadStatus,
    /// The body is cut or wrong.
    BadBody,
    /// No answer in time.
    Timeout,
    /// Something else.
    Other,
}

impl fmt::Display for FailureClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Refused => "refused",
            Self::Reset => "reset",
            Self::Unanswered => "unanswered",
            Self::BadStatus => "bad status",
            Self::BadBody => "bad body",
            Self::Timeout => "timeout",
            Self::Other => "other",
        })
    }
}

/// A request that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// In which way.
    pub class: FailureClass,
    /// One line for people.
    pub text: String,
}

impl Failure {
    pub(super) fn new(class: FailureClass, text: impl Into<String>) -> Self {
        Self { class, text: text.into() }
    }

    pub(super) fn io(doing: &str, error: &io::Error) -> Self {
        let class = match error.kind() {
            io::ErrorKind::ConnectionRefused => FailureClass::Refused,
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => FailureClass::Reset,
            io::ErrorKind::UnexpectedEof => FailureClass::Unanswered,
            io::ErrorKind::TimedOut => FailureClass::Timeout,
            _ => FailureClass::Other,
        };
        Self::new(class, format!("{doing}: {error}"))
    }
}

/// When a request ran.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// When it began.
    pub begun: Instant,
    /// How long it took, without what it asked the server to wait.
    pub took: Duration,
}

/// The counts. Always `sent = answered + failed + unechoed + retried`: a failure that belongs to no request,
/// such as a stream that is cut, counts as one that was sent.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Requests, event streams, messages.
    pub sent: u64,
    /// Those that got what they asked for.
    pub answered: u64,
    /// Those that did not, by class.
    pub failures: BTreeMap<FailureClass, u64>,
    /// What the first of them said, and how often.
    pub texts: BTreeMap<String, u64>,
    /// WebSocket messages that crossed with a polite close frame, so that they were not echoed.
    pub unechoed: u64,
    /// HTTP/2 streams that the server refused unprocessed, which the protocol lets a client repeat.
    pub retried: u64,
    /// Connections opened.
    pub connections: u64,
    /// Times that the server asked to come again: `Connection: close`, GOAWAY, a close frame, a clean end of
    /// events.
    pub asked: u64,
    /// Times that a connection was found closed while idle, without a word.
    pub closed_idle: u64,
    /// Events of event streams.
    pub events: u64,
    /// Answers by the process that gave them, where the answer says so.
    pub pids: BTreeMap<u32, u64>,
    /// Answers by the version that gave them, where the answer says so.
    pub versions: BTreeMap<String, u64>,
    /// When the requests ran.
    pub samples: Vec<Sample>,
}

impl Tally {
    /// All failures.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    pub(super) fn add_failure(&mut self, failure: Failure) {
        *self.failures.entry(failure.class).or_default() += 1;
        add_texts(&mut self.texts, [(format!("{}: {}", failure.class, failure.text), 1)]);
    }

    pub(super) fn add_sample(&mut self, begun: Instant, took: Duration) {
        if self.samples.len() < MAX_SAMPLES {
            self.samples.push(Sample { begun, took });
        }
    }

    /// Adds up. Every field is named here, so that a new one cannot be forgotten.
    pub(super) fn merge(&mut self, other: Self) {
        let Self {
            sent,
            answered,
            failures,
            texts,
            unechoed,
            retried,
            connections,
            asked,
            closed_idle,
            events,
            pids,
            versions,
            samples,
        } = other;
        self.sent += sent;
        self.answered += answered;
        self.unechoed += unechoed;
        self.retried += retried;
        self.connections += connections;
        self.asked += asked;
        self.closed_idle += closed_idle;
        self.events += events;
        self.samples.extend(samples);
        add_texts(&mut self.texts, texts);
        add_counts(&mut self.failures, failures);
        add_counts(&mut self.pids, pids);
        add_counts(&mut self.versions, versions);
    }
}

fn add_texts(into: &mut BTreeMap<String, u64>, from: impl IntoIterator<Item = (String, u64)>) {
    for (text, count) in from {
        if into.len() < MAX_TEXTS || into.contains_key(&text) {
            *into.entry(text).or_default() += count;
        }
    }
}

fn add_counts<K: Ord>(into: &mut BTreeMap<K, u64>, from: BTreeMap<K, u64>) {
    for (key, count) in from {
        *into.entry(key).or_default() += count;
    }
}
