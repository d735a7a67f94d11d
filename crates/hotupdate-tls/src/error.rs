//! What ends a connection.

use std::io;

use rustls::AlertDescription;

/// Why the record layer stops. Each says whose fault it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// What the client sent is no TLS, or was changed on its way. It is told so by the fatal alert.
    #[error("the client broke TLS ({alert:?}): {why}")]
    PeerMisbehaved {
        /// What the client is told.
        alert: AlertDescription,
        /// What it did.
        why: &'static str,
    },
    /// The client gave up, and said why.
    #[error("the client sent the fatal alert {0:?}")]
    AlertReceived(AlertDescription),
    /// The transport ended before the client's close_notify: what it was about to say may be cut off.
    #[error("the client closed the connection without close_notify")]
    Truncated,
    /// The keys of a TLS 1.2 connection have protected as many records as they may. The client got a
    /// close_notify.
    #[error("the keys of the connection are used up")]
    KeysExhausted,
    /// Our side was closed before.
    #[error("the connection is closed for writing")]
    Closed,
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match error {
            Error::PeerMisbehaved { .. } | Error::AlertReceived(_) => io::ErrorKind::InvalidData,
            Error::Truncated => io::ErrorKind::UnexpectedEof,
            Error::KeysExhausted | Error::Closed => io::ErrorKind::BrokenPipe,
        };
        Self::new(kind, error)
    }
}

/// What the client did wrong, and the alert for it.
pub(crate) type Misbehaved = (AlertDescription, &'static str);
