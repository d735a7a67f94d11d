//! Why an attempt ended, and why a call was refused: always whose fault it was.
//!
//! Each shows as one line, whatever the other side put into it.
//!
//! Deliberately absent: I/O errors. The crate that does I/O puts them into [`Fault::Local`] as a line of
//! text.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::identity::{Process, Versions};
use crate::text::OneLine;
use crate::timing::Deadline;

/// Why a handoff did not happen, or why a link is no longer used.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The other process said something that makes no sense where it was said.
    #[error("the other side misbehaved: {}", OneLine(.0))]
    PeerMisbehaved(String),
    /// The other process speaks another protocol.
    #[error("the other side is incompatible: {}", OneLine(.0))]
    PeerIncompatible(String),
    /// The other process is dead: its end of the link is closed.
    #[error("the other side is gone (its end of the link was closed)")]
    PeerGone,
    /// The other process gave up, in its own words.
    #[error("the other side gave up: {}", OneLine(.0))]
    PeerFailed(String),
    /// The other process did not do in time what it had to.
    #[error("{0}")]
    TimedOut(Deadline),
    /// An operator ended the attempt, or what an operator had started did, and why if that was said.
    #[error("{}", Aborted(why.as_deref()))]
    Aborted {
        /// In words that follow "aborted: ".
        why: Option<String>,
    },
    /// The operator that had begun the attempt has gone before it was released.
    #[error("aborted: the operator that began the attempt has gone")]
    Abandoned,
    /// Something failed on this side.
    #[error("{}", OneLine(.0))]
    Local(String),
    /// The process is stopping.
    #[error("this process is stopping")]
    Stopping,
}

impl Fault {
    /// Whether the other process gave up because it is stopping, so that it does not serve on. Its words are
    /// all that travels.
    #[must_use]
    pub fn peer_is_stopping(&self) -> bool {
        matches!(self, Self::PeerFailed(why) if *why == Self::Stopping.to_string())
    }
}

/// How the end of an attempt reads.
struct Aborted<'a>(Option<&'a str>);

impl fmt::Display for Aborted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(why) => write!(f, "aborted: {}", OneLine(why)),
            None => f.write_str("aborted by an operator"),
        }
    }
}

/// Why a `Join` was turned down. Nothing has changed by asking.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The process has not begun to serve; ask again.
    #[error("the incumbent is still starting; ask again in a moment")]
    Starting,
    /// One handoff at a time.
    #[error("busy: successor {successor} is already there ({})", OneLine(doing))]
    Busy {
        /// The process that came first.
        successor: Process,
        /// What it is doing.
        doing: String,
    },
    /// The protocol versions do not overlap.
    #[error("incompatible: the incumbent speaks protocol version {ours}, the successor {theirs}")]
    Incompatible {
        /// What the incumbent speaks.
        ours: Versions,
        /// What the successor speaks.
        theirs: Versions,
    },
    /// The operator that began this attempt has ended it, or is gone.
    #[error("the attempt is over: the operator that began it has gone")]
    Abandoned,
    /// The process does not serve any more.
    #[error("the process that was asked is stopping or has handed over already")]
    NotServing,
    /// Successors died soon after they took over, again and again: none is taken for a while. An operator's
    /// own handoff is.
    #[error(
        "backing off: {successor} was the last of {times} successors that took over and died within moments; \
         the next one is taken in {:.1} s, or at once by `hotctl handoff -- COMMAND`",
        *wait_ms as f64 / 1000.0
    )]
    BackingOff {
        /// The process that died last.
        successor: Process,
        /// How many have died, one after the other.
        times: u32,
        /// When the next one is taken, in milliseconds from now.
        wait_ms: u64,
    },
    /// The caller may not.
    #[error("not allowed: uid {uid} is neither the owner of the service, nor root, nor in its `allow_uid`")]
    NotAllowed {
        /// The caller's user id.
        uid: u32,
    },
    /// The caller may operate the service, and not take it over.
    #[error("not allowed: uid {uid} may operate the service, and not take it over (`allow_successor_uid`)")]
    MayNotSucceed {
        /// The caller's user id.
        uid: u32,
    },
}
