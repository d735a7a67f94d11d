//! What is said over a WebSocket, as an application sees it: the same types as in `axum::extract::ws`.
//!
//! Deliberately absent: frames. A message is complete when it arrives, and is sent as one frame.

use std::fmt;
use std::io;
use std::ops::Deref;
use std::str::Utf8Error;

use bytes::Bytes;
use tungstenite::error::CapacityError;

/// A message.
///
/// ```
/// use hotupdate_axum::ws::{Message, close_code};
///
/// assert_eq!(Message::from("hello"), Message::text("hello"));
/// assert_eq!(Message::text("hello").to_text().ok(), Some("hello"));
/// assert_eq!(Message::binary([1, 2]).into_data(), [1, 2].as_slice());
/// let bye = Message::close(close_code::NORMAL, "bye");
/// # let _ = bye;
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A text.
    Text(Utf8Bytes),
    /// Any bytes.
    Binary(Bytes),
    /// The client asks whether the server is alive; at most 125 bytes. It is answered by
    /// [`recv`](super::WebSocket::recv) itself.
    Ping(Bytes),
    /// The answer to a ping, or a sign of life without one; at most 125 bytes.
    Pong(Bytes),
    /// The end. It is answered by [`recv`](super::WebSocket::recv) itself; nothing can be sent after it.
    Close(Option<CloseFrame>),
}

impl Message {
    /// A text.
    pub fn text(text: impl Into<Utf8Bytes>) -> Self {
        Self::Text(text.into())
    }

    /// A message of any bytes.
    pub fn binary(bytes: impl Into<Vec<u8>>) -> Self {
        Self::Binary(Bytes::from(bytes.into()))
    }

    /// A close frame with a reason of at most 123 bytes, for clients that show it.
    pub fn close(code: CloseCode, reason: impl Into<Utf8Bytes>) -> Self {
        Self::Close(Some(CloseFrame { code, reason: reason.into() }))
    }

    /// Its bytes; those of the reason of a close frame.
    #[must_use]
    pub fn into_data(self) -> Bytes {
        match self {
            Self::Text(text) => text.into(),
            Self::Binary(bytes) | Self::Ping(bytes) | Self::Pong(bytes) => bytes,
            Self::Close(frame) => frame.map(|frame| frame.reason.into()).unwrap_or_default(),
        }
    }

    /// Its bytes as text; the reason of a close frame.
    ///
    /// # Errors
    /// They are not UTF-8.
    pub fn to_text(&self) -> Result<&str, Utf8Error> {
        match self {
            Self::Text(text) => Ok(text),
            Self::Binary(bytes) | Self::Ping(bytes) | Self::Pong(bytes) => std::str::from_utf8(bytes),
            Self::Close(frame) => Ok(frame.as_ref().map(|frame| &*frame.reason).unwrap_or_default()),
        }
    }

    pub(super) fn from_tungstenite(message: tungstenite::Message) -> Option<Self> {
        Some(match message {
            tungstenite::Message::Text(text) => Self::Text(Utf8Bytes(text)),
            tungstenite::Message::Binary(bytes) => Self::Binary(bytes),
            tungstenite::Message::Ping(bytes) => Self::Ping(bytes),
            tungstenite::Message::Pong(bytes) => Self::Pong(bytes),
            tungstenite::Message::Close(frame) => Self::Close(
                frame.map(|frame| CloseFrame { code: frame.code.into(), reason: Utf8Bytes(frame.reason) }),
            ),
            // Only written, never read.
            tungstenite::Message::Frame(_) => return None,
        })
    }

    pub(super) fn into_tungstenite(self) -> tungstenite::Message {
        match self {
            Self::Text(Utf8Bytes(text)) => tungstenite::Message::Text(text),
            Self::Binary(bytes) => tungstenite::Message::Binary(bytes),
            Self::Ping(bytes) => tungstenite::Message::Ping(bytes),
            Self::Pong(bytes) => tungstenite::Message::Pong(bytes),
            Self::Close(frame) => tungstenite::Message::Close(frame.map(|frame| {
                tungstenite::protocol::CloseFrame { code: frame.code.into(), reason: frame.reason.0 }
            })),
        }
    }
}

impl From<String> for Message {
    fn from(text: String) -> Self {
        Self::text(text)
    }
}

impl From<&str> for Message {
    fn from(text: &str) -> Self {
        Self::text(text)
    }
}

impl From<Utf8Bytes> for Message {
    fn from(text: Utf8Bytes) -> Self {
        Self::Text(text)
    }
}

impl From<Vec<u8>> for Message {
    fn from(bytes: Vec<u8>) -> Self {
        Self::binary(bytes)
    }
}

impl From<&[u8]> for Message {
    fn from(bytes: &[u8]) -> Self {
        Self::binary(bytes)
    }
}

impl From<Bytes> for Message {
    fn from(bytes: Bytes) -> Self {
        Self::Binary(bytes)
    }
}

/// Why a conversation ends, see [`close_code`].
pub type CloseCode = u16;

/// Codes of close frames (RFC 6455, section 7.4.1, and the registry of IANA).
///
/// ```no_run
/// # async fn example(socket: hotupdate_axum::ws::WebSocket) {
/// socket.close(hotupdate_axum::ws::close_code::NORMAL, "bye").await;
/// # }
/// ```
pub mod close_code {
    use super::CloseCode;

    /// What the conversation was for is done.
    pub const NORMAL: CloseCode = 1000;
    /// The server goes down, or the browser has left the page.
    pub const AWAY: CloseCode = 1001;
    /// The other side broke the protocol.
    pub const PROTOCOL: CloseCode = 1002;
    /// The other side sent a kind of data that cannot be accepted.
    pub const UNSUPPORTED: CloseCode = 1003;
    /// There was no code. Never in a frame.
    pub const STATUS: CloseCode = 1005;
    /// There was no close frame. Never in a frame.
    pub const ABNORMAL: CloseCode = 1006;
    /// A message was not what it said to be, such as a text that is not UTF-8.
    pub const INVALID: CloseCode = 1007;
    /// A message against the rules of the application.
    pub const POLICY: CloseCode = 1008;
    /// A message was too large.
    pub const SIZE: CloseCode = 1009;
    /// The server does not know an extension that the client needs.
    pub const EXTENSION: CloseCode = 1010;
    /// The server could not do what it should.
    pub const ERROR: CloseCode = 1011;
    /// The server restarts: reconnect, after a random pause of 5 to 30 seconds if there are many.
    pub const RESTART: CloseCode = 1012;
    /// The server is overloaded: come again later.
    pub const AGAIN: CloseCode = 1013;
}

/// The last message of either side.
///
/// ```
/// use hotupdate_axum::ws::{CloseFrame, close_code};
///
/// let frame = CloseFrame { code: close_code::POLICY, reason: "too many questions".into() };
/// assert_eq!(frame.reason, "too many questions");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloseFrame {
    /// Why, for programs.
    pub code: CloseCode,
    /// Why, for persons; at most 123 bytes.
    pub reason: Utf8Bytes,
}

/// Bytes that are UTF-8. Cheap to clone; a [`str`] in all other respects.
///
/// ```
/// use hotupdate_axum::ws::Utf8Bytes;
///
/// let text = Utf8Bytes::from_static("hello");
/// assert_eq!((text.len(), text.as_str()), (5, "hello"));
/// assert!(Utf8Bytes::try_from(vec![0xFF]).is_err());
/// ```
#[derive(Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Utf8Bytes(tungstenite::Utf8Bytes);

impl Utf8Bytes {
    /// Without a copy.
    #[must_use]
    pub const fn from_static(text: &'static str) -> Self {
        Self(tungstenite::Utf8Bytes::from_static(text))
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl Deref for Utf8Bytes {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<str> for Utf8Bytes {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Display for Utf8Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.as_str(), f)
    }
}

impl fmt::Debug for Utf8Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl From<String> for Utf8Bytes {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl From<&str> for Utf8Bytes {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl TryFrom<Bytes> for Utf8Bytes {
    type Error = Utf8Error;

    fn try_from(bytes: Bytes) -> Result<Self, Utf8Error> {
        bytes.try_into().map(Self)
    }
}

impl TryFrom<Vec<u8>> for Utf8Bytes {
    type Error = Utf8Error;

    fn try_from(bytes: Vec<u8>) -> Result<Self, Utf8Error> {
        Bytes::from(bytes).try_into()
    }
}

impl From<Utf8Bytes> for Bytes {
    fn from(text: Utf8Bytes) -> Self {
        text.0.into()
    }
}

impl PartialEq<str> for Utf8Bytes {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<&str> for Utf8Bytes {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

/// Why a conversation has failed.
///
/// ```no_run
/// use hotupdate_axum::ws::{Error, WebSocket};
///
/// # async fn example(mut socket: WebSocket) {
/// match socket.recv().await {
///     Some(Ok(message)) => println!("{message:?}"),
///     Some(Err(Error::TooLarge { size, max })) => println!("{size} bytes, and {max} are allowed"),
///     Some(Err(error)) => println!("{error}"),
///     None => println!("it ended in order"),
/// }
/// # }
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The conversation is over: a close frame was sent, or the client has left.
    #[error("the WebSocket is closed")]
    Closed,
    /// The connection failed.
    #[error("the connection of the WebSocket failed: {0}")]
    Io(#[from] io::Error),
    /// The client broke the protocol. It was told so, with 1002.
    #[error("the client broke the WebSocket protocol: {0}")]
    Protocol(String),
    /// The client sent a text that is not UTF-8. It was told so, with 1007.
    #[error("the client sent a text that is not UTF-8")]
    InvalidUtf8,
    /// The client sent a message larger than
    /// [`max_message_size`](super::Upgrade::max_message_size). It was told so, with 1009.
    #[error("the client sent a message of {size} bytes, and at most {max} are allowed")]
    TooLarge {
        /// Bytes of the message, as far as they are known.
        size: usize,
        /// Bytes that are allowed.
        max: usize,
    },
}

impl Error {
    pub(super) fn from_tungstenite(error: tungstenite::Error) -> Self {
        match error {
            tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed => Self::Closed,
            tungstenite::Error::Io(error) => Self::Io(error),
            tungstenite::Error::Utf8(_) => Self::InvalidUtf8,
            tungstenite::Error::Capacity(CapacityError::MessageTooLong { size, max_size }) => {
                Self::TooLarge { size, max: max_size }
            }
            tungstenite::Error::Protocol(error) => Self::Protocol(error.to_string()),
            error => Self::Protocol(error.to_string()),
        }
    }

    /// What the client is told before the connection is closed.
    pub(super) fn close_code(&self) -> Option<CloseCode> {
        match self {
            Self::Protocol(_) => Some(close_code::PROTOCOL),
            Self::InvalidUtf8 => Some(close_code::INVALID),
            Self::TooLarge { .. } => Some(close_code::SIZE),
            Self::Closed | Self::Io(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_conversion() {
        let messages = [
            Message::text("text"),
            Message::binary([1, 2]),
            Message::Ping("ping".into()),
            Message::Pong("pong".into()),
            Message::close(close_code::AGAIN, "later"),
            Message::close(4000, ""),
            Message::Close(None),
        ];
        for message in messages {
            assert_eq!(Message::from_tungstenite(message.clone().into_tungstenite()), Some(message));
        }
    }

    #[test]
    fn texts_and_bytes() {
        assert_eq!(Message::close(close_code::NORMAL, "bye").to_text(), Ok("bye"));
        assert_eq!(
            (Message::Close(None).to_text(), Message::Close(None).into_data()),
            (Ok(""), Bytes::new())
        );
        assert!(Message::binary([0xFF]).to_text().is_err());
        assert_eq!(Message::from(&[1u8][..]), Message::from(vec![1u8]));
        assert_eq!(format!("{} {:?}", Utf8Bytes::from("a"), Utf8Bytes::from("a")), "a \"a\"");
    }
}
