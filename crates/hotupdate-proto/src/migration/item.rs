//! What is said of a connection that migrates.

use std::convert::Infallible;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::SocketAddr;
use std::ops::Deref;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::RELAY;
use crate::inventory::ConnectionRow;
use crate::text::ShortText;

/// A connection that migrates. In JSON it is written as a row, its kind, the cookie, and the state with one
/// character for each byte; [`bulk`](super::bulk) is the compact form.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "Written", try_from = "Written")]
pub struct MigrationItem {
    /// Its number in the process that lets it go.
    pub id: u64,
    /// `SO_COOKIE` (socket(7)): the kernel's number of the socket.
    pub cookie: u64,
    /// What it carries, which says how the other process goes on with it. Empty if it was said in a form that
    /// is not known here; no process accepts that.
    pub kind: ShortText,
    /// The name of the listener that accepted it.
    pub listener: ShortText,
    /// As [`ConnectionRow::protocol`].
    pub protocol: ShortText,
    /// The client's address.
    pub peer: Endpoint,
    /// The address that the client connected to.
    pub local: Endpoint,
    /// How long ago it was accepted, in milliseconds.
    pub age_ms: u64,
    /// Requests served so far.
    pub requests: u64,
    /// What the next owner has to know.
    pub state: StateBytes,
}

impl MigrationItem {
    /// Whether this is the relay of the connection in the item before it.
    ///
    /// ```
    /// use hotupdate_proto::MigrationItem;
    /// use hotupdate_proto::migration::RELAY;
    ///
    /// let item = |id, kind: &str| MigrationItem { id, kind: kind.into(), ..MigrationItem::default() };
    /// assert!(item(7, RELAY).is_relay_of(&item(7, "h2/relayed")));
    /// assert!(!item(8, RELAY).is_relay_of(&item(7, "h2/relayed")));
    /// ```
    #[must_use]
    pub fn is_relay_of(&self, connection: &Self) -> bool {
        self.id == connection.id && self.kind == RELAY
    }
}

/// What the next owner of a connection has to know, in the form of its kind. It may hold keys: it is wiped
/// when it is dropped, and no `Debug` shows it.
///
/// ```
/// use hotupdate_proto::migration::StateBytes;
///
/// let state = StateBytes::from(b"secret".to_vec());
/// assert_eq!((&*state, format!("{state:?}").as_str()), (&b"secret"[..], "StateBytes(6)"));
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct StateBytes(Zeroizing<Vec<u8>>);

impl StateBytes {
    /// The bytes, which are the caller's to wipe.
    #[must_use]
    pub fn into_vec(mut self) -> Vec<u8> {
        std::mem::take(&mut self.0)
    }
}

impl From<Vec<u8>> for StateBytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }
}

impl Deref for StateBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl Hash for StateBytes {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        (**self).hash(hasher);
    }
}

impl fmt::Debug for StateBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StateBytes").field(&self.len()).finish()
    }
}

/// One end of a connection.
///
/// ```
/// use hotupdate_proto::migration::Endpoint;
///
/// let client: Endpoint = "[::1]:80".parse()?;
/// assert!(matches!(client, Endpoint::Ip(_)) && client.to_string() == "[::1]:80");
/// assert_eq!("/run/a.sock".parse(), Ok(Endpoint::Unix("/run/a.sock".into())));
/// # Ok::<(), std::convert::Infallible>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// TCP.
    Ip(SocketAddr),
    /// The path of a Unix socket; empty if it has none.
    Unix(ShortText),
}

impl Default for Endpoint {
    fn default() -> Self {
        Self::Unix(ShortText::default())
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix(path) => path.fmt(f),
        }
    }
}

impl FromStr for Endpoint {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(text.parse().map_or_else(|_| Self::Unix(text.into()), Self::Ip))
    }
}

/// An item in JSON.
#[derive(Clone, Serialize, Deserialize)]
struct Written {
    row: ConnectionRow,
    kind: ShortText,
    cookie: u64,
    state: String,
}

impl From<MigrationItem> for Written {
    fn from(item: MigrationItem) -> Self {
        let MigrationItem { id, cookie, kind, listener, protocol, peer, local, age_ms, requests, state } =
            item;
        let (peer, local) = (ShortText::from_display(&peer), ShortText::from_display(&local));
        let row = ConnectionRow {
            id,
            listener,
            peer,
            local,
            protocol,
            age_ms,
            requests,
            ..ConnectionRow::default()
        };
        Self { row, kind, cookie, state: state.iter().copied().map(char::from).collect() }
    }
}

impl TryFrom<Written> for MigrationItem {
    type Error = &'static str;

    fn try_from(written: Written) -> Result<Self, Self::Error> {
        let Written { row, kind, cookie, state } = written;
        let ConnectionRow { id, listener, peer, local, protocol, age_ms, requests, state: _ } = row;
        let Ok(peer) = peer.parse();
        let Ok(local) = local.parse();
        let bytes: Result<Vec<_>, _> = state.chars().map(|byte| u8::try_from(u32::from(byte))).collect();
        let state = bytes.map_err(|_| "a state has one character for each byte, up to U+00FF")?.into();
        Ok(Self { id, cookie, kind, listener, protocol, peer, local, age_ms, requests, state })
    }
}
