//! Bytes and messages: one JSON object, then a NUL byte, with a limit.
//!
//! JSON never contains a raw NUL (RFC 8259, section 7), so the byte ends a message wherever it stands. A
//! message that begins with the byte [`BINARY`], as no JSON text does, says its length instead, in the four
//! bytes that follow (little-endian): many connections in one frame, see [`bulk`].
//!
//! Deliberately absent: reading and writing.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize as _, Zeroizing};

use crate::message::{MAX_DESCRIPTORS, Message};
use crate::migration::bulk;
use crate::text::OneLine;

/// The longest message, in bytes without its NUL or its head. The largest real one is a batch of connection
/// rows.
pub const MAX_MESSAGE: usize = 1 << 20;

/// With what a binary frame begins.
pub const BINARY: u8 = 1;

/// Why bytes are not a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// More than [`MAX_MESSAGE`] bytes without a NUL.
    #[error("a message of more than {MAX_MESSAGE} bytes")]
    TooLong,
    /// Not what was expected.
    #[error("not a message: {}", OneLine(.0))]
    Invalid(String),
    /// The message says that it owns another number of descriptors than its content.
    #[error("a `{name}` message that owns {owns} descriptors and says {says}")]
    Descriptors {
        /// The message.
        name: &'static str,
        /// What follows from its content.
        owns: usize,
        /// What it says.
        says: usize,
    },
    /// More descriptors than a message may own.
    #[error("a message with {0} descriptors; the limit is {MAX_DESCRIPTORS}")]
    TooManyDescriptors(usize),
}

/// Cuts a stream of bytes into messages.
///
/// ```
/// use hotupdate_proto::frame::Decoder;
///
/// let mut decoder = Decoder::default();
/// decoder.push(b"{\"a\":1}\0{\"b\"");
/// assert_eq!(decoder.next_frame().unwrap().unwrap(), b"{\"a\":1}");
/// assert!(decoder.next_frame().is_none());
/// assert_eq!(decoder.unread(), b"{\"b\"");
/// ```
///
/// Connections may travel with keys: what is not needed any more is wiped, and no `Debug` shows it.
#[derive(Clone, Debug, Default)]
pub struct Decoder {
    bytes: Zeroizing<Vec<u8>>,
    /// Bytes before this position contain no NUL, so that a long message is not searched again and again.
    searched: usize,
}

impl Decoder {
    /// Adds bytes that arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        let length = self.bytes.len() + bytes.len();
        if length > self.bytes.capacity() {
            // A vector that grows by itself leaves its old bytes behind.
            let mut larger = Zeroizing::new(Vec::with_capacity(length.next_power_of_two()));
            larger.extend_from_slice(&self.bytes);
            self.bytes = larger;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole message, without its NUL or with its head, `None` if it has not arrived. It is the
    /// caller's to wipe.
    ///
    /// # Errors
    /// [`FrameError::TooLong`], after which nothing sensible can follow.
    pub fn next_frame(&mut self) -> Option<Result<Vec<u8>, FrameError>> {
        let is_binary = self.bytes.first() == Some(&BINARY);
        let end = if is_binary { self.binary_end() } else { self.text_end() };
        match end? {
            Ok(end) => {
                let mut frame = self.bytes[..end].to_vec();
                let left = self.bytes.len() - end;
                self.bytes.copy_within(end.., 0);
                self.bytes[left..].zeroize();
                self.bytes.truncate(left);
                if !is_binary {
                    frame.pop();
                }
                self.searched = 0;
                Some(Ok(frame))
            }
            Err(error) => Some(Err(error)),
        }
    }

    /// How many bytes a message takes that ends with a NUL.
    fn text_end(&mut self) -> Option<Result<usize, FrameError>> {
        match self.bytes[self.searched..].iter().position(|byte| *byte == 0) {
            Some(offset) if self.searched + offset > MAX_MESSAGE => Some(Err(FrameError::TooLong)),
            Some(offset) => Some(Ok(self.searched + offset + 1)),
            None if self.bytes.len() > MAX_MESSAGE => Some(Err(FrameError::TooLong)),
            None => {
                self.searched = self.bytes.len();
                None
            }
        }
    }

    /// How many bytes a message takes that says its length.
    fn binary_end(&self) -> Option<Result<usize, FrameError>> {
        let (_, rest) = self.bytes.split_first()?;
        match usize::try_from(u32::from_le_bytes(*rest.first_chunk()?)) {
            Ok(length) if length <= MAX_MESSAGE => {
                let end = bulk::HEAD + length;
                (self.bytes.len() >= end).then_some(Ok(end))
            }
            _ => Some(Err(FrameError::TooLong)),
        }
    }

    /// What was pushed and is not part of a message that was returned.
    #[must_use]
    pub fn unread(&self) -> &[u8] {
        &self.bytes
    }
}

/// Any value as bytes on the wire, with its NUL.
///
/// # Errors
/// [`FrameError`] if it cannot be JSON or is longer than [`MAX_MESSAGE`].
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, FrameError> {
    let mut bytes = serde_json::to_vec(value).map_err(|error| FrameError::Invalid(error.to_string()))?;
    if bytes.len() > MAX_MESSAGE {
        return Err(FrameError::TooLong);
    }
    bytes.push(0);
    Ok(bytes)
}

/// One frame, as [`Decoder::next_frame`] returns it, as a value.
///
/// # Errors
/// [`FrameError::Invalid`] with what serde has to say.
pub fn decode<T: DeserializeOwned>(frame: &[u8]) -> Result<T, FrameError> {
    serde_json::from_slice(frame).map_err(|error| FrameError::Invalid(error.to_string()))
}

/// A message on the link together with how many descriptors it says it owns.
#[derive(Serialize, Deserialize)]
struct Envelope<M> {
    #[serde(default, skip_serializing_if = "is_zero")]
    fds: usize,
    #[serde(flatten)]
    message: M,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// A message of the link as bytes; it says how many descriptors it owns.
///
/// # Errors
/// As [`encode`], and [`FrameError::TooManyDescriptors`].
pub fn encode_message(message: &Message) -> Result<Vec<u8>, FrameError> {
    let fds = message.descriptors();
    if fds > MAX_DESCRIPTORS {
        return Err(FrameError::TooManyDescriptors(fds));
    }
    encode(&Envelope { fds, message })
}

/// A frame of the link as a message, whose count of descriptors is checked.
///
/// # Errors
/// As [`decode`], [`FrameError::Descriptors`] and [`FrameError::TooManyDescriptors`].
pub fn decode_message(frame: &[u8]) -> Result<Message, FrameError> {
    if frame.first() == Some(&BINARY) {
        return bulk::decode(frame.get(bulk::HEAD..).unwrap_or_default());
    }
    let Envelope::<Message> { fds, message } = decode(frame)?;
    match message.descriptors() {
        owns if owns > MAX_DESCRIPTORS => Err(FrameError::TooManyDescriptors(owns)),
        owns if owns != fds => Err(FrameError::Descriptors { name: message.name(), owns, says: fds }),
        _ => Ok(message),
    }
}
