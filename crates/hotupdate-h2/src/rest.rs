//! Why a connection cannot move.

use crate::settings::Setting;

/// Why a connection cannot move: now, or ever. What stays at the deadline of a drain gets GOAWAY.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Stays {
    /// The server has not answered yet what it was told at the start.
    #[error("its server is just starting")]
    Starting,
    /// Streams are open.
    #[error("{0} streams are open")]
    Streams(usize),
    /// Streams are open that the server before still serves: a connection has two servers at most.
    #[error("{0} streams are still served by the version before")]
    Relayed(usize),
    /// A frame or a header block has begun and does not end.
    #[error("a frame is incomplete")]
    Incomplete,
    /// The server has not yet answered a PING or SETTINGS, or has not written or read all it could.
    #[error("its server is busy")]
    Busy,
    /// The client has not acknowledged SETTINGS that lower a limit.
    #[error("its client has not acknowledged a lower limit")]
    Unacknowledged,
    /// One of both sides has said GOAWAY.
    #[error("it is closing")]
    GoAway,
    /// The client has closed its side.
    #[error("its client has closed it")]
    Closed,
    /// The client has sent what is not HTTP/2, or more than is followed.
    #[error("its client has sent what is not understood")]
    NotUnderstood,
    /// More was held than [`Limits`](crate::Limits) allow. The server that was to be left has got it;
    /// [`hold`](crate::Handle::hold) tries it once more.
    #[error("too much was held")]
    Held,
    /// The server has reset so many streams that its limits, which begin anew with each move, would have
    /// ended the connection.
    #[error("too many of its streams were reset")]
    Resets,
    /// The server to which it has moved announces less than the one before, so that the client may exceed it.
    #[error("its server allows less than the one before: {0:?}")]
    Settings(Setting),
}

impl Stays {
    /// Whether it will not move, however long it is waited for.
    pub fn is_final(self) -> bool {
        match self {
            Self::Starting
            | Self::Streams(_)
            | Self::Relayed(_)
            | Self::Incomplete
            | Self::Busy
            | Self::Unacknowledged => false,
            Self::GoAway
            | Self::Closed
            | Self::NotUnderstood
            | Self::Held
            | Self::Resets
            | Self::Settings(_) => true,
        }
    }
}
