//! How an HTTP/1.1 connection migrates to the version that serves now, and arrives there.
//!
//! Deliberately absent: HTTP/2, whose state cannot be taken out of hyper, and which has GOAWAY.

use bytes::{BufMut as _, Bytes};
use hotupdate::Connection;
use hotupdate::connections::NotMigrated;

use crate::detect::Protocol;
use crate::io::Io;

/// The kind of connections of this crate, also of those whose clients have not said yet what they speak.
pub(crate) const KIND: &str = "http/1.1";

/// The first byte of the state. A version that does not know it leaves the connection where it is.
const STATE_VERSION: u8 = 1;

/// Where a connection stands that came from another process: between two messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Http1State {
    /// What the client speaks, if that is known: a first request looks like HTTP/2 or not, any other is
    /// HTTP/1.1.
    pub(crate) protocol: Option<Protocol>,
    /// Bytes that were read and belong to the next request.
    pub(crate) unread: Bytes,
}

impl Http1State {
    /// The form, the protocol, the bytes.
    fn to_bytes(&self) -> Vec<u8> {
        let protocol = match self.protocol {
            None => 0,
            Some(Protocol::Http1) => 1,
            Some(Protocol::Http2) => 2,
        };
        let mut bytes = Vec::with_capacity(2 + self.unread.len());
        bytes.put_u8(STATE_VERSION);
        bytes.put_u8(protocol);
        bytes.extend_from_slice(&self.unread);
        bytes
    }

    /// `None` for what another version means and this one does not understand.
    pub(crate) fn from_bytes(bytes: Vec<u8>) -> Option<Self> {
        let mut unread = Bytes::from(bytes);
        let protocol = match *unread.first_chunk()? {
            [STATE_VERSION, 0] => None,
            [STATE_VERSION, 1] => Some(Protocol::Http1),
            _ => return None,
        };
        Some(Self { protocol, unread: unread.split_off(2) })
    }

    /// As [`rest`], with a connection that has come to here. With bytes that were read there is more to do.
    pub(crate) fn rest(self, connection: Connection, go_on: impl FnOnce(Connection, Self) + Send + 'static) {
        match self.unread.is_empty() {
            true => connection.rest(KIND, self.to_bytes(), move |connection| go_on(connection, self)),
            false => go_on(connection, self),
        }
    }
}

/// Migrates the connection, with the bytes that were given back to `io`. If it stays, `stays` goes on with
/// it.
///
/// Its task has nothing to wait for and ends: to be woken for that would cost as much as to begin another one
/// for the few that stay.
pub(crate) fn migrate(
    io: Io<Connection>,
    protocol: Option<Protocol>,
    stays: impl FnOnce(Connection, Http1State) + Send + 'static,
) {
    let (connection, unread, _) = io.into_parts();
    let state = Http1State { protocol, unread };
    connection.migrate_bytes_or(KIND, state.to_bytes(), move |NotMigrated { connection, why, .. }| {
        tracing::debug!(why, "an HTTP/1 connection stays");
        stays(connection, state);
    });
}

/// Lets the connection rest until its client says something. Then `go_on` is called with it.
pub(crate) fn rest(
    io: Io<Connection>,
    protocol: Option<Protocol>,
    go_on: impl FnOnce(Connection, Http1State) + Send + 'static,
) {
    let (connection, unread, _) = io.into_parts();
    Http1State { protocol, unread }.rest(connection, go_on);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_is_understood() {
        for protocol in [None, Some(Protocol::Http1)] {
            for unread in ["", "GET / HT", "\0\u{1}"] {
                let begun = Http1State { protocol, unread: unread.into() };
                assert_eq!(Http1State::from_bytes(begun.to_bytes()), Some(begun));
            }
        }
    }

    #[test]
    fn what_another_version_means_is_left_to_it() {
        for bytes in [&b""[..], b"\x01", b"\x02\x01GET", b"\x01\x02PRI", b"\x01\x03"] {
            assert_eq!(Http1State::from_bytes(bytes.to_vec()), None);
        }
    }
}
