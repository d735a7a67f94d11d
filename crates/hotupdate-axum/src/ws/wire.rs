//! One WebSocket without its socket: bytes in, messages out, and the other way round.
//!
//! Deliberately absent: I/O, and framing, which is tungstenite's. Between two calls it holds nothing that could not move:
//! what arrived and was not delivered is in the [`Gate`], what is to be sent is in memory.

use std::io::{self, Read, Write};

use bytes::{Buf, BufMut as _, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use tokio_tungstenite::tungstenite::error::{CapacityError, Error, Result};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self};

use super::gate::{Gate, Passed};

/// The first byte of the state that moves. A version that does not know it leaves the connection where it is.
const FORM: u8 = 1;

/// Small: what is read goes through it once, and there are many sockets.
const CODEC_BUFFER: usize = 4 * 1024;

/// A WebSocket's conversation.
#[derive(Debug)]
pub(super) struct Wire {
    gate: Gate,
    codec: tungstenite::WebSocket<Memory>,
    about: About,
    end_of_stream: bool,
    closed: bool,
}

/// What was agreed on when the conversation began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct About {
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

/// The lengths of what follows the head in the state that moves: the application's state, what is to be sent; the rest
/// is what arrived.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    about: About,
    state: usize,
    unsent: usize,
}

impl Wire {
    /// A conversation whose first bytes have arrived, and to whose client something is to be sent.
    pub(super) fn new(about: About, arrived: &[u8], unsent: &[u8]) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(CODEC_BUFFER)
            .write_buffer_size(0)
            .max_message_size(Some(about.max_message))
            .max_frame_size(Some(about.max_message));
        let memory = Memory { output: unsent.into(), ..Memory::default() };
        let codec = tungstenite::WebSocket::from_raw_socket(memory, Role::Server, Some(config));
        Self {
            gate: Gate::new(arrived, about.max_message),
            codec,
            about,
            end_of_stream: false,
            closed: false,
        }
    }

    pub(super) fn about(&self) -> &About {
        &self.about
    }

    pub(super) fn received(&mut self, bytes: &[u8]) {
        self.gate.push(bytes);
    }

    /// Nothing more will arrive.
    pub(super) fn end_of_stream(&mut self) {
        self.end_of_stream = true;
    }

    /// The next message; `None` if it has not arrived. After an error, or [`Error::ConnectionClosed`] at the orderly end,
    /// there is nothing more.
    pub(super) fn next(&mut self) -> Option<Result<Message>> {
        loop {
            match self.codec.read() {
                Ok(message) => {
                    // So that a pong or a close frame that is due is in `unsent`. The end is found out again.
                    let _ = self.codec.flush();
                    return Some(Ok(message));
                }
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Some(Err(self.fail(error))),
            }
            match self.gate.next() {
                Passed::Whole(bytes) => self.codec.get_mut().input = bytes,
                // What came before the end is delivered before it.
                Passed::Nothing if self.end_of_stream => self.codec.get_mut().end_of_stream = true,
                Passed::Nothing => return None,
                Passed::TooLarge(size) => {
                    let max_size = self.about.max_message;
                    let error = Error::Capacity(CapacityError::MessageTooLong { size, max_size });
                    return Some(Err(self.fail(error)));
                }
            }
        }
    }

    /// Puts a message into `unsent`.
    pub(super) fn write(&mut self, message: Message) -> Result<()> {
        self.codec.send(message)
    }

    pub(super) fn unsent(&self) -> &[u8] {
        &self.codec.get_ref().output
    }

    pub(super) fn sent(&mut self, n: usize) {
        self.codec.get_mut().output.advance(n);
    }

    /// Whether the conversation is over.
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Gives up without a further word.
    pub(super) fn give_up(&mut self) {
        self.closed = true;
        self.codec.get_mut().output.clear();
    }

    fn fail(&mut self, error: Error) -> Error {
        self.closed = true;
        let code = match &error {
            Error::Capacity(_) => Some(CloseCode::Size),
            Error::Utf8(_) => Some(CloseCode::Invalid),
            Error::Protocol(_) => Some(CloseCode::Protocol),
            _ => None,
        };
        if let (Some(code), false) = (code, self.end_of_stream) {
            // If it cannot be said any more, it has been said.
            let _ = self.codec.close(Some(CloseFrame { code, reason: String::new().into() }));
        }
        match error {
            Error::AlreadyClosed => Error::ConnectionClosed,
            error => error,
        }
    }

    // ---- moving ------------------------------------------------------------------------------------------------

    /// Why this conversation has to end where it is, if so.
    pub(super) fn stays(&self) -> Option<&'static str> {
        if self.closed || !self.codec.can_write() {
            Some("it is being closed")
        } else if !self.gate.is_whole() || self.end_of_stream {
            Some("its client does not make sense, or has left")
        } else {
            None
        }
    }

    /// How many bytes have to move besides the application's state.
    pub(super) fn weight(&self) -> usize {
        self.gate.len() + self.unsent().len()
    }

    /// Everything that [`Wire::from_bytes`] needs to go on, and the application's state.
    pub(super) fn to_bytes(&self, state: &[u8]) -> serde_json::Result<Vec<u8>> {
        let head = Head { about: self.about.clone(), state: state.len(), unsent: self.unsent().len() };
        let head = serde_json::to_vec(&head)?;
        let mut bytes = Vec::with_capacity(5 + head.len() + state.len() + self.weight());
        bytes.put_u8(FORM);
        // Fits: a subprotocol is as long as a header at most.
        bytes.put_u32(u32::try_from(head.len()).unwrap_or(u32::MAX));
        bytes.extend_from_slice(&head);
        bytes.extend_from_slice(state);
        bytes.extend_from_slice(self.unsent());
        self.gate.write_to(&mut bytes);
        Ok(bytes)
    }

    /// The conversation, and the application's state; `None` for what another version means and this one does not
    /// understand.
    pub(super) fn from_bytes(mut bytes: &[u8]) -> Option<(Self, &[u8])> {
        if bytes.try_get_u8().ok()? != FORM {
            return None;
        }
        let head = usize::try_from(bytes.try_get_u32().ok()?).ok()?;
        let (head, bytes) = bytes.split_at_checked(head)?;
        let Head { about, state, unsent } = serde_json::from_slice(head).ok()?;
        let (state, bytes) = bytes.split_at_checked(state)?;
        let (unsent, arrived) = bytes.split_at_checked(unsent)?;
        Some((Self::new(about, arrived, unsent), state))
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

    fn about() -> About {
        About { protocol: Some("chat/2".to_owned()), max_message: 1000 }
    }

    #[test]
    fn what_was_said_is_understood() {
        let mut wire = Wire::new(about(), b"\x81\xFE\0\xFFha", b"");
        assert!(wire.next().is_none());
        wire.write(Message::text("unsent")).unwrap();
        let bytes = wire.to_bytes(b"state").unwrap();
        let (moved, state) = Wire::from_bytes(&bytes).unwrap();
        assert_eq!((state, moved.about(), moved.unsent()), (&b"state"[..], &about(), &b"\x81\x06unsent"[..]));
        assert_eq!(moved.to_bytes(b"state").unwrap(), bytes);
        for cut in 0..bytes.len() - b"\x81\xFE\0\xFFha".len() {
            assert!(Wire::from_bytes(&bytes[..cut]).is_none(), "cut at {cut}");
        }
        assert!(Wire::from_bytes(&[&[FORM + 1], &bytes[1..]].concat()).is_none());
    }

    #[test]
    fn each_ping_is_answered_even_if_nothing_can_be_sent() {
        let mut wire = Wire::new(about(), &[0x89, 0x81, 0, 0, 0, 0, b'a', 0x89, 0x81, 0, 0, 0, 0, b'b'], b"");
        assert!(matches!(wire.next(), Some(Ok(Message::Ping(_)))));
        assert_eq!(wire.unsent(), b"\x8A\x01a");
        assert!(matches!(wire.next(), Some(Ok(Message::Ping(_)))));
        assert_eq!(wire.unsent(), b"\x8A\x01a\x8A\x01b");
        wire.sent(3);
        assert_eq!(wire.unsent(), b"\x8A\x01b");
    }

    #[test]
    fn what_goes_wrong_is_said_with_its_code() {
        let too_large: &[u8] = &[0x82, 0xFE, 0x03, 0xE9];
        let no_text: &[u8] = &[0x81, 0x81, 0, 0, 0, 0, 0xFF];
        let reserved: &[u8] = &[0xC1, 0x80, 0, 0, 0, 0];
        let unmasked: &[u8] = &[0x81, 0x00];
        for (bytes, code) in [(too_large, 1009u16), (no_text, 1007), (reserved, 1002), (unmasked, 1002)] {
            let mut wire = Wire::new(about(), bytes, b"");
            assert!(matches!(wire.next(), Some(Err(_))), "{code}");
            assert!(wire.is_closed() && wire.stays().is_some());
            assert_eq!(wire.unsent(), [&[0x88, 2], &code.to_be_bytes()[..]].concat(), "{code}");
        }
    }

    #[test]
    fn both_ends() {
        let mut wire = Wire::new(about(), &[0x88, 0x80, 0, 0, 0, 0], b"");
        assert!(matches!(wire.next(), Some(Ok(Message::Close(None)))));
        assert_eq!((wire.unsent(), wire.stays()), (&b"\x88\0"[..], Some("it is being closed")));
        assert!(matches!(wire.next(), Some(Err(Error::ConnectionClosed))));
        let mut wire = Wire::new(about(), &[0x81, 0x80, 0, 0, 0, 0, 0x81], b"");
        wire.end_of_stream();
        assert!(matches!(wire.next(), Some(Ok(Message::Text(_)))));
        assert!(matches!(wire.next(), Some(Err(Error::Protocol(_)))));
        assert_eq!(wire.unsent(), b"");
    }
}
