//! One WebSocket without its socket: bytes in, messages out, and the other way round.
//!
//! Deliberately absent: I/O. Between two calls the codec holds nothing that could not migrate: what arrived
//! and was not delivered is in the [`FrameBuffer`], what is to be sent is in [`Memory`].

use std::io::{self, Read, Write};

use bytes::{Buf, BufMut as _, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use tungstenite::protocol::{Role, WebSocketConfig};

use super::frame_buffer::{FrameBuffer, Next};
use super::message::{Error, Message};

/// The first byte of the state that migrates. A version that does not know it refuses the connection.
const STATE_VERSION: u8 = 1;

/// Bytes of tungstenite's read buffer for each socket. Small: what is read goes through it once, and there
/// are many.
const CODEC_BUFFER: usize = 4 * 1024;

/// The protocol state of one WebSocket.
#[derive(Debug)]
pub(super) struct Codec {
    frames: FrameBuffer,
    tungstenite: tungstenite::WebSocket<Memory>,
    negotiated: Negotiated,
    end_of_stream: bool,
    closed: bool,
}

/// What the handshake has agreed on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Negotiated {
    pub(super) protocol: Option<String>,
    pub(super) max_message: usize,
}

/// What tungstenite reads from and writes to.
#[derive(Debug, Default)]
struct Memory {
    input: Bytes,
    end_of_stream: bool,
    output: BytesMut,
}

/// The head of the state that migrates, with the lengths of what follows it: the application's state, the
/// bytes to be sent; the rest are the bytes that arrived.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    negotiated: Negotiated,
    state: usize,
    unsent: usize,
}

impl Codec {
    /// Begins with bytes that have arrived from the client, and bytes that are still to be sent to it.
    pub(super) fn new(negotiated: Negotiated, arrived: &[u8], unsent: &[u8]) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(CODEC_BUFFER)
            .write_buffer_size(0)
            .max_message_size(Some(negotiated.max_message))
            .max_frame_size(Some(negotiated.max_message));
        let memory = Memory { output: unsent.into(), ..Memory::default() };
        let tungstenite = tungstenite::WebSocket::from_raw_socket(memory, Role::Server, Some(config));
        Self {
            frames: FrameBuffer::new(arrived, negotiated.max_message),
            tungstenite,
            negotiated,
            end_of_stream: false,
            closed: false,
        }
    }

    pub(super) fn negotiated(&self) -> &Negotiated {
        &self.negotiated
    }

    pub(super) fn received(&mut self, bytes: &[u8]) {
        self.frames.push(bytes);
    }

    /// The client has closed its side: nothing more will arrive.
    pub(super) fn end_of_stream(&mut self) {
        self.end_of_stream = true;
    }

    /// The next message; `None` if it has not arrived completely. After an error, or [`Error::Closed`] at the
    /// orderly end, there is nothing more.
    pub(super) fn next(&mut self) -> Option<Result<Message, Error>> {
        loop {
            match self.tungstenite.read() {
                Ok(message) => {
                    // Puts a pong or a close frame that is due into `unsent`. If this fails, the next read
                    // fails too.
                    let _ = self.tungstenite.flush();
                    if let Some(message) = Message::from_tungstenite(message) {
                        return Some(Ok(message));
                    }
                }
                Err(tungstenite::Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Some(Err(self.fail(Error::from_tungstenite(error)))),
            }
            match self.frames.next() {
                Next::Complete(bytes) => self.tungstenite.get_mut().input = bytes,
                // What came before the end is delivered before it.
                Next::Incomplete if self.end_of_stream => self.tungstenite.get_mut().end_of_stream = true,
                Next::Incomplete => return None,
                Next::TooLarge(size) => {
                    let max = self.negotiated.max_message;
                    return Some(Err(self.fail(Error::TooLarge { size, max })));
                }
            }
        }
    }

    /// Appends a message to `unsent`.
    pub(super) fn write(&mut self, message: Message) -> Result<(), Error> {
        self.tungstenite.send(message.into_tungstenite()).map_err(Error::from_tungstenite)
    }

    pub(super) fn unsent(&self) -> &[u8] {
        &self.tungstenite.get_ref().output
    }

    pub(super) fn sent(&mut self, n: usize) {
        self.tungstenite.get_mut().output.advance(n);
    }

    /// Whether nothing more will be read or written.
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Drops what is to be sent, and ends.
    pub(super) fn give_up(&mut self) {
        self.closed = true;
        self.tungstenite.get_mut().output.clear();
    }

    fn fail(&mut self, error: Error) -> Error {
        self.closed = true;
        if let (Some(code), false) = (error.close_code(), self.end_of_stream) {
            // An error means that a close frame was sent before.
            let _ = self.write(Message::close(code, ""));
        }
        error
    }

    // ---- migration
    // ------------------------------------------------------------------------------------------------

    /// Why this WebSocket cannot migrate at all, if so.
    pub(super) fn migration_block(&self) -> Option<&'static str> {
        if self.closed || !self.tungstenite.can_write() {
            Some("it is being closed")
        } else if !self.frames.is_valid() || self.end_of_stream {
            Some("its client has sent an invalid frame, or has left")
        } else {
            None
        }
    }

    /// How many bytes have to migrate besides the application's state.
    pub(super) fn pending_bytes(&self) -> usize {
        self.frames.len() + self.unsent().len()
    }

    /// Everything that [`Codec::from_bytes`] needs to go on, and the application's state.
    pub(super) fn to_bytes(&self, state: &[u8]) -> serde_json::Result<Vec<u8>> {
        let head =
            Head { negotiated: self.negotiated.clone(), state: state.len(), unsent: self.unsent().len() };
        let head = serde_json::to_vec(&head)?;
        let mut bytes = Vec::with_capacity(5 + head.len() + state.len() + self.pending_bytes());
        bytes.put_u8(STATE_VERSION);
        // Fits: a subprotocol is as long as a header at most.
        bytes.put_u32(u32::try_from(head.len()).unwrap_or(u32::MAX));
        bytes.extend_from_slice(&head);
        bytes.extend_from_slice(state);
        bytes.extend_from_slice(self.unsent());
        self.frames.write_to(&mut bytes);
        Ok(bytes)
    }

    /// The codec, and the application's state; `None` for a format that this version does not know.
    pub(super) fn from_bytes(mut bytes: &[u8]) -> Option<(Self, &[u8])> {
        if bytes.try_get_u8().ok()? != STATE_VERSION {
            return None;
        }
        let head = usize::try_from(bytes.try_get_u32().ok()?).ok()?;
        let (head, bytes) = bytes.split_at_checked(head)?;
        let Head { negotiated, state, unsent } = serde_json::from_slice(head).ok()?;
        let (state, bytes) = bytes.split_at_checked(state)?;
        let (unsent, arrived) = bytes.split_at_checked(unsent)?;
        Some((Self::new(negotiated, arrived, unsent), state))
    }
}

impl Read for Memory {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.input.is_empty() && !self.end_of_stream {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let n = self.input.len().min(buf.len());
        self.input.copy_to_slice(&mut buf[..n]);
        Ok(n)
    }
}

impl Write for Memory {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.output.extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn negotiated() -> Negotiated {
        Negotiated { protocol: Some("chat/2".to_owned()), max_message: 1000 }
    }

    #[test]
    fn a_state_survives_a_migration() {
        let mut codec = Codec::new(negotiated(), b"\x81\xFE\0\xFFha", b"");
        assert!(codec.next().is_none());
        codec.write(Message::text("unsent")).unwrap();
        let bytes = codec.to_bytes(b"state").unwrap();
        let (migrated, state) = Codec::from_bytes(&bytes).unwrap();
        assert_eq!(
            (state, migrated.negotiated(), migrated.unsent()),
            (&b"state"[..], &negotiated(), &b"\x81\x06unsent"[..])
        );
        assert_eq!(migrated.to_bytes(b"state").unwrap(), bytes);
        for cut in 0..bytes.len() - b"\x81\xFE\0\xFFha".len() {
            assert!(Codec::from_bytes(&bytes[..cut]).is_none(), "cut at {cut}");
        }
        assert!(Codec::from_bytes(&[&[STATE_VERSION + 1], &bytes[1..]].concat()).is_none());
    }

    #[test]
    fn each_ping_is_answered_even_if_nothing_can_be_sent() {
        let mut codec =
            Codec::new(negotiated(), &[0x89, 0x81, 0, 0, 0, 0, b'a', 0x89, 0x81, 0, 0, 0, 0, b'b'], b"");
        assert!(matches!(codec.next(), Some(Ok(Message::Ping(_)))));
        assert_eq!(codec.unsent(), b"\x8A\x01a");
        assert!(matches!(codec.next(), Some(Ok(Message::Ping(_)))));
        assert_eq!(codec.unsent(), b"\x8A\x01a\x8A\x01b");
        codec.sent(3);
        assert_eq!(codec.unsent(), b"\x8A\x01b");
    }

    #[test]
    fn each_protocol_error_has_its_close_code() {
        let too_large: &[u8] = &[0x82, 0xFE, 0x03, 0xE9];
        let no_text: &[u8] = &[0x81, 0x81, 0, 0, 0, 0, 0xFF];
        let reserved: &[u8] = &[0xC1, 0x80, 0, 0, 0, 0];
        let unmasked: &[u8] = &[0x81, 0x00];
        for (bytes, code) in [(too_large, 1009u16), (no_text, 1007), (reserved, 1002), (unmasked, 1002)] {
            let mut codec = Codec::new(negotiated(), bytes, b"");
            assert!(matches!(codec.next(), Some(Err(_))), "{code}");
            assert!(codec.is_closed() && codec.migration_block().is_some());
            assert_eq!(codec.unsent(), [&[0x88, 2], &code.to_be_bytes()[..]].concat(), "{code}");
        }
    }

    #[test]
    fn an_orderly_end_and_an_abrupt_one() {
        let mut codec = Codec::new(negotiated(), &[0x88, 0x80, 0, 0, 0, 0], b"");
        assert!(matches!(codec.next(), Some(Ok(Message::Close(None)))));
        assert_eq!((codec.unsent(), codec.migration_block()), (&b"\x88\0"[..], Some("it is being closed")));
        assert!(matches!(codec.next(), Some(Err(Error::Closed))));
        let mut codec = Codec::new(negotiated(), &[0x81, 0x80, 0, 0, 0, 0, 0x81], b"");
        codec.end_of_stream();
        assert!(matches!(codec.next(), Some(Ok(Message::Text(_)))));
        assert!(matches!(codec.next(), Some(Err(Error::Protocol(_)))));
        assert_eq!(codec.unsent(), b"");
    }
}
