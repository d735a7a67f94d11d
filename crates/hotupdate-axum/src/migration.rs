//! How a connection migrates to the version that serves now, and arrives there.

use bytes::{BufMut as _, Bytes};
use hotupdate::Connection;
use hotupdate::connections::{AtRest, Relay};
#[cfg(feature = "http2")]
use hotupdate_h2::State;

use crate::carrier::{self, Carrier, HttpCarrier, Kinds};
use crate::io::Io;

/// The first byte of the state. A version that does not know it leaves the connection where it is.
const STATE_VERSION: u8 = 1;

/// What the client of a connection speaks, and all that has to be known to go on with it.
#[derive(Debug, Default)]
pub(crate) enum Spoken {
    /// It has not said so yet: a first request looks like HTTP/2 or not, any other is HTTP/1.1.
    #[default]
    Unknown,
    /// It is between two messages.
    Http1,
    /// No stream is open.
    #[cfg(feature = "http2")]
    Http2(Box<State>),
    /// The version before serves the streams that are open, at the other end of the relay.
    #[cfg(feature = "http2")]
    Relayed(Box<State>, Relay),
}

impl Spoken {
    /// Where HTTP/2 stands, if it was spoken already.
    #[cfg(feature = "http2")]
    pub(crate) fn http2(&self) -> Option<&State> {
        match self {
            Self::Unknown | Self::Http1 => None,
            Self::Http2(state) | Self::Relayed(state, _) => Some(state),
        }
    }

    /// The kind of the connection.
    fn kind(&self, kinds: &Kinds) -> &'static str {
        match self {
            Self::Unknown | Self::Http1 => kinds.http1,
            #[cfg(feature = "http2")]
            Self::Http2(_) => kinds.http2,
            #[cfg(feature = "http2")]
            Self::Relayed(..) => kinds.http2_relayed,
        }
    }
}

/// Where a connection stands that came from another process.
#[derive(Debug, Default)]
pub(crate) struct HttpState {
    pub(crate) spoken: Spoken,
    /// Bytes that were read and not handled.
    pub(crate) unread: Bytes,
}

impl HttpState {
    /// Whether nothing is to be done before the client speaks, by a server that `pings` clients or does not.
    #[cfg_attr(not(feature = "http2"), expect(unused_variables, reason = "a client of HTTP/1 is not pinged"))]
    fn is_waiting(&self, pings: bool) -> bool {
        let waits = match &self.spoken {
            Spoken::Unknown | Spoken::Http1 => true,
            #[cfg(feature = "http2")]
            Spoken::Http2(state) => !pings && state.is_waiting(),
            #[cfg(feature = "http2")]
            Spoken::Relayed(..) => false,
        };
        waits && self.unread.is_empty()
    }

    /// The form; then, of [`Kinds::http1`], the protocol and the bytes.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let Self { spoken, unread } = self;
        let mut bytes = Vec::with_capacity(2 + unread.len());
        bytes.put_u8(STATE_VERSION);
        match spoken {
            Spoken::Unknown => bytes.put_u8(0),
            Spoken::Http1 => bytes.put_u8(1),
            #[cfg(feature = "http2")]
            Spoken::Http2(state) | Spoken::Relayed(state, _) => return http2_bytes(state, unread),
        }
        bytes.extend_from_slice(unread);
        bytes
    }

    /// Of a connection of the kind [`Kinds::http1`]. `None` for what another version means and this one does
    /// not understand.
    pub(crate) fn of_http1(bytes: Vec<u8>, relay: Option<Relay>) -> Option<Self> {
        let mut unread = Bytes::from(bytes);
        let spoken = match *unread.first_chunk()? {
            [STATE_VERSION, 0] => Spoken::Unknown,
            [STATE_VERSION, 1] => Spoken::Http1,
            _ => return None,
        };
        relay.is_none().then(|| Self { spoken, unread: unread.split_off(2) })
    }

    /// Of a connection of the kind [`Kinds::http2`] or [`Kinds::http2_relayed`], as
    /// [`of_http1`](Self::of_http1).
    #[cfg(feature = "http2")]
    pub(crate) fn of_http2(bytes: Vec<u8>, relay: Option<Relay>) -> Option<Self> {
        let mut bytes = Bytes::from(bytes);
        let [STATE_VERSION, length @ ..] = *bytes.first_chunk::<5>()? else { return None };
        let mut state = bytes.split_off(5);
        let length = u32::from_be_bytes(length) as usize;
        let unread = (length <= state.len()).then(|| state.split_off(length))?;
        let state = Box::new(State::from_bytes(&state).ok()?);
        let spoken = match (state.has_streams(), relay) {
            // Without a server for its streams it stays.
            (true, relay) => Spoken::Relayed(state, relay?),
            // The last one may have ended before it left.
            (false, _) => Spoken::Http2(state),
        };
        Some(Self { spoken, unread })
    }
}

/// The state of HTTP/2, and what was read and not given to it.
#[cfg(feature = "http2")]
pub(crate) fn http2_bytes(state: &State, unread: &[u8]) -> Vec<u8> {
    let state = state.to_bytes();
    let mut bytes = Vec::with_capacity(5 + state.len() + unread.len());
    bytes.put_u8(STATE_VERSION);
    bytes.put_u32(state.len() as u32);
    bytes.extend_from_slice(&state);
    bytes.extend_from_slice(unread);
    bytes
}

/// Migrates the connection, with the bytes that were given back to `io`. If it stays, `stays` goes on with
/// it.
///
/// Its task has nothing to wait for and ends: to be woken for that would cost as much as to begin another one
/// for the few that stay.
pub(crate) fn migrate<C: Carrier>(
    io: Io<C>,
    spoken: Spoken,
    stays: impl FnOnce(C, HttpState) + Send + 'static,
) {
    let (carrier, unread, _) = io.into_parts();
    let state = HttpState { spoken, unread };
    let kind = state.spoken.kind(carrier.layer().kinds());
    carrier::migrate(carrier, kind, state.to_bytes(), move |carrier, why| {
        tracing::debug!(why, kind, "a connection stays");
        stays(carrier, state);
    });
}

/// Lets the connection rest until its client says something. Then `go_on` goes on with it; at once if there
/// is something to do, such as to ping a client of HTTP/2.
pub(crate) fn rest<C: HttpCarrier>(
    carrier: C,
    state: HttpState,
    pings: bool,
    go_on: impl FnOnce(C, HttpState) + Send + 'static,
) {
    if !carrier.rests() || !state.is_waiting(pings) {
        return go_on(carrier, state);
    }
    let kinds = carrier.layer().kinds();
    match carrier.take_apart() {
        Ok((connection, around)) => rest_apart(connection, around, state, kinds, pings, go_on),
        Err((carrier, _)) => go_on(carrier, state),
    }
}

/// The same for a connection that comes in parts.
pub(crate) fn rest_apart<C: HttpCarrier>(
    connection: Connection,
    around: C::Around,
    state: HttpState,
    kinds: &Kinds,
    pings: bool,
    go_on: impl FnOnce(C, HttpState) + Send + 'static,
) {
    let kind = state.spoken.kind(kinds);
    let waiting = state.is_waiting(pings) && C::is_waiting(&around);
    let apart = Apart { around, state, go_on };
    if waiting { connection.rest(kind, apart) } else { Box::new(apart).go_on(connection) }
}

/// A connection that rests, but for the connection itself.
struct Apart<C: HttpCarrier, F: FnOnce(C, HttpState)> {
    around: C::Around,
    state: HttpState,
    go_on: F,
}

impl<C: HttpCarrier, F: FnOnce(C, HttpState) + Send + 'static> AtRest for Apart<C, F> {
    fn state(&self) -> Vec<u8> {
        C::state(&self.around, self.state.to_bytes())
    }

    fn go_on(self: Box<Self>, connection: Connection) {
        let Self { around, state, go_on } = *self;
        if let Some(carrier) = C::put_together(connection, around) {
            go_on(carrier, state);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_is_understood() {
        for spoken in [Spoken::Unknown, Spoken::Http1] {
            let http1 = matches!(spoken, Spoken::Http1);
            let mut state = HttpState { spoken, unread: Bytes::new() };
            for unread in ["", "GET / HT", "\0\u{1}"] {
                state.unread = unread.into();
                let read = HttpState::of_http1(state.to_bytes(), None).unwrap();
                assert_eq!((matches!(read.spoken, Spoken::Http1), read.unread), (http1, unread.into()));
            }
        }
    }

    #[test]
    fn what_another_version_means_is_left_to_it() {
        for bytes in [&b""[..], b"\x01", b"\x02\x01GET", b"\x01\x02PRI", b"\x01\x03"] {
            assert!(HttpState::of_http1(bytes.to_vec(), None).is_none());
        }
        #[cfg(feature = "http2")]
        for bytes in [&b""[..], b"\x01\0\0\0", b"\x01\0\0\0\x05abcd", b"\x02\0\0\0\0", b"\x01\0\0\0\0"] {
            assert!(HttpState::of_http2(bytes.to_vec(), None).is_none());
        }
    }
}
