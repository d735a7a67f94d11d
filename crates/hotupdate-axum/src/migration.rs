//! How an HTTP/1.1 connection migrates to the version that serves now, and arrives there.
//!
//! Deliberately absent: HTTP/2, whose state cannot be taken out of hyper, and which has GOAWAY.

use bytes::{BufMut as _, Bytes};

use crate::carrier::{self, Carrier};
use crate::detect::Protocol;
use crate::io::Io;

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
            // Its client has chosen it in the handshake of TLS, and has not said all of its first words.
            #[cfg(feature = "http2")]
            [STATE_VERSION, 2] => Some(Protocol::Http2),
            _ => return None,
        };
        Some(Self { protocol, unread: unread.split_off(2) })
    }
}

/// Migrates the connection, with the bytes that were given back to `io`. If it stays, `stays` goes on with
/// it.
///
/// Its task has nothing to wait for and ends: to be woken for that would cost as much as to begin another one
/// for the few that stay.
pub(crate) fn migrate<C: Carrier>(
    io: Io<C>,
    protocol: Option<Protocol>,
    stays: impl FnOnce(C, Http1State) + Send + 'static,
) {
    let (carrier, unread, _) = io.into_parts();
    let (kind, state) = (carrier.layer().http1_kind(), Http1State { protocol, unread });
    carrier::migrate(carrier, kind, state.to_bytes(), move |carrier, why| {
        tracing::debug!(why, "an HTTP/1 connection stays");
        stays(carrier, state);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_is_understood() {
        for protocol in [None, Some(Protocol::Http1), Some(Protocol::Http2)] {
            for unread in ["", "GET / HT", "\0\u{1}"] {
                let begun = Http1State { protocol, unread: unread.into() };
                assert_eq!(Http1State::from_bytes(begun.to_bytes()), Some(begun));
            }
        }
    }

    #[test]
    fn what_another_version_means_is_left_to_it() {
        for bytes in [&b""[..], b"\x01", b"\x02\x01GET", b"\x01\x03PRI", b"\x01\x04"] {
            assert_eq!(Http1State::from_bytes(bytes.to_vec()), None);
        }
    }
}
