//! What travels beside the socket, as bytes.

use bytes::{Buf, BufMut as _, BytesMut};

use crate::connection::Connection;
use crate::settings::{Setting, Settings};
use crate::streams::Streams;
use crate::table::Table;

/// The first byte of a state without open streams.
const VERSION: u8 = 1;

/// The first byte of a state with open streams, which come last.
const WITH_STREAMS: u8 = 2;

/// The most bytes of one list of bytes in a state.
const MAX_BYTES: usize = 4 << 20;

/// Where a connection stands between two servers.
#[derive(Debug)]
pub struct State {
    pub(crate) connection: Connection,
    /// From the client, for the next server.
    pub(crate) waiting: BytesMut,
    /// For the client.
    pub(crate) unsent: BytesMut,
}

/// Bytes that are no state, or that of another version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is not the state of an HTTP/2 connection that this version understands")]
pub struct InvalidState;

impl State {
    /// What the server has announced to the client, which keeps to it. The next server should announce the
    /// same, and nothing that [limits](crate::Stays::Settings) a client may be less.
    pub fn server_settings(&self) -> &Settings {
        &self.connection.server
    }

    /// Whether streams are open, which the server before serves to their end:
    /// [`Layer::join`](crate::Layer::join) goes on with such a connection.
    pub fn has_streams(&self) -> bool {
        !self.connection.streams.is_empty()
    }

    /// Whether the client has to speak before there is anything to do: the state can be kept until then.
    pub fn is_waiting(&self) -> bool {
        self.waiting.is_empty() && self.unsent.is_empty() && !self.has_streams()
    }

    /// How many bytes travel.
    pub fn len(&self) -> usize {
        self.to_bytes().len()
    }

    /// Never: it has a version.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// For another process, or for later.
    pub fn to_bytes(&self) -> Vec<u8> {
        let Self { connection, waiting, unsent } = self;
        let mut out = Vec::with_capacity(256 + waiting.len() + unsent.len());
        let streams = &connection.streams;
        out.put_u8(if streams.is_empty() { VERSION } else { WITH_STREAMS });
        out.put_u32(connection.streams.last());
        out.put_i64(connection.send_window);
        out.put_i64(connection.receive_window);
        out.put_u32(connection.unacknowledged);
        out.put_u32(connection.unanswered);
        out.put_u32(connection.resets);
        for settings in [connection.client.payload(), connection.server.payload()] {
            put_bytes(&mut out, &settings);
        }
        connection.table.put(&mut out);
        put_bytes(&mut out, waiting);
        put_bytes(&mut out, unsent);
        if !streams.is_empty() {
            streams.put(&mut out);
        }
        out
    }

    /// # Errors
    ///
    /// If another version of this crate has written them in another form; then the connection stays where it
    /// is.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, InvalidState> {
        Self::read(bytes).ok_or(InvalidState)
    }

    fn read(mut bytes: &[u8]) -> Option<Self> {
        let from = &mut bytes;
        let version = from.try_get_u8().ok()?;
        if !matches!(version, VERSION | WITH_STREAMS) {
            return None;
        }
        let mut connection = Connection::new();
        let last = from.try_get_u32().ok().filter(|last| *last < 1 << 31)?;
        connection.streams = Streams::after(last);
        let window = -(1 << 31)..1 << 31;
        connection.send_window = from.try_get_i64().ok().filter(|bytes| window.contains(bytes))?;
        connection.receive_window = from.try_get_i64().ok().filter(|bytes| window.contains(bytes))?;
        connection.unacknowledged = from.try_get_u32().ok()?;
        connection.unanswered = from.try_get_u32().ok()?;
        connection.resets = from.try_get_u32().ok()?;
        connection.client.follow(get_bytes(from)?);
        connection.server.follow(get_bytes(from)?);
        connection.announced = true;
        connection.table = Table::get(from)?;
        connection.table.allow(connection.server.value(Setting::HeaderTableSize));
        let waiting = BytesMut::from(get_bytes(from)?);
        let unsent = BytesMut::from(get_bytes(from)?);
        if version == WITH_STREAMS {
            connection.streams = Streams::get(from, last).filter(|streams| !streams.is_empty())?;
        }
        from.is_empty().then_some(Self { connection, waiting, unsent })
    }
}

pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.put_u32(bytes.len() as u32);
    out.extend_from_slice(bytes);
}

pub(crate) fn get_bytes<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = from.try_get_u32().ok()? as usize;
    let (bytes, rest) = from.split_at_checked(length).filter(|_| length <= MAX_BYTES)?;
    *from = rest;
    Some(bytes)
}
