//! What a client may say in a handshake message once the handshake is done: a KeyUpdate in TLS 1.3, and a
//! ClientHello in TLS 1.2, which asks for another handshake and is refused.

use rustls::AlertDescription;

use crate::error::Misbehaved;
use crate::suite::Version;

/// Type and length.
const HEADER: usize = 4;
const CLIENT_HELLO: u8 = 1;
const KEY_UPDATE: u8 = 24;

/// Of what travels of a message that has begun.
const LENGTH: usize = HEADER + 4 + 1;

/// The longest ClientHello that is waited for.
const MAX_LENGTH: usize = 0xffff;

/// A message that has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// The client's next record has the next key.
    KeyUpdate {
        /// The client asks the same of us.
        requested: bool,
    },
    ClientHello,
}

/// A message whose rest has not arrived.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Handshake {
    header: [u8; HEADER],
    /// Bytes of the message so far.
    arrived: usize,
    /// The last of them.
    last: u8,
}

impl Handshake {
    /// Whether the next record has to go on with a message.
    pub(crate) fn is_pending(&self) -> bool {
        self.arrived > 0
    }

    /// As it travels.
    pub(crate) fn to_bytes(&self) -> [u8; LENGTH] {
        let Self { header: [a, b, c, d], arrived, last } = *self;
        let [e, f, g, h] = (arrived as u32).to_be_bytes();
        [a, b, c, d, e, f, g, h, last]
    }

    /// `None` if no message can have begun like this.
    pub(crate) fn from_bytes(version: Version, [a, b, c, d, e, f, g, h, last]: [u8; LENGTH]) -> Option<Self> {
        let arrived = u32::from_be_bytes([e, f, g, h]) as usize;
        let message = Self { header: [a, b, c, d], arrived, last };
        if arrived == 0 {
            return (message == Self::default()).then_some(message);
        }
        let possible = message.check(version).is_ok() && arrived.checked_sub(HEADER) < Some(message.length());
        possible.then_some(message)
    }

    /// Takes the next message, or what there is of it, from the front of `bytes`.
    pub(crate) fn next(
        &mut self,
        version: Version,
        bytes: &mut &[u8],
    ) -> Result<Option<Message>, Misbehaved> {
        while self.arrived < HEADER {
            let Some((byte, rest)) = bytes.split_first() else { return Ok(None) };
            self.header[self.arrived] = *byte;
            self.arrived += 1;
            *bytes = rest;
            self.check(version)?;
        }
        let count = bytes.len().min(HEADER + self.length() - self.arrived);
        let (body, rest) = bytes.split_at(count);
        *bytes = rest;
        self.arrived += count;
        self.last = body.last().copied().unwrap_or(self.last);
        if self.arrived < HEADER + self.length() {
            return Ok(None);
        }
        let last = std::mem::take(self).last;
        match version {
            Version::Tls12 => Ok(Some(Message::ClientHello)),
            // The message must end its record: what follows has another key.
            Version::Tls13 if !bytes.is_empty() => {
                Err((AlertDescription::UnexpectedMessage, "a message after a KeyUpdate in its record"))
            }
            Version::Tls13 if last > 1 => {
                Err((AlertDescription::IllegalParameter, "a KeyUpdate that is neither of the two"))
            }
            Version::Tls13 => Ok(Some(Message::KeyUpdate { requested: last == 1 })),
        }
    }

    /// Refuses a message by its header, without waiting for the rest.
    fn check(&self, version: Version) -> Result<(), Misbehaved> {
        let (expected, length_fits) = match version {
            Version::Tls12 => (CLIENT_HELLO, self.length() <= MAX_LENGTH),
            Version::Tls13 => (KEY_UPDATE, self.length() == 1),
        };
        if self.header[0] != expected {
            return Err((AlertDescription::UnexpectedMessage, "a handshake message after the handshake"));
        }
        if self.arrived >= HEADER && !length_fits {
            return Err((AlertDescription::DecodeError, "a handshake message of an impossible length"));
        }
        Ok(())
    }

    /// Of the body.
    fn length(&self) -> usize {
        let [_, a, b, c] = self.header;
        u32::from_be_bytes([0, a, b, c]) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What has arrived of a message that begins so.
    fn from_bytes(version: Version, header: [u8; HEADER], arrived: u8) -> Option<Handshake> {
        let [a, b, c, d] = header;
        Handshake::from_bytes(version, [a, b, c, d, 0, 0, 0, arrived, 0])
    }

    #[test]
    fn a_message_that_cannot_have_begun_does_not_arrive() {
        let whole = [KEY_UPDATE, 0, 0, 1];
        for arrived in 1..=4 {
            let mut header = [0; HEADER];
            header[..arrived].copy_from_slice(&whole[..arrived]);
            let handshake = from_bytes(Version::Tls13, header, arrived as u8);
            assert!(handshake.is_some_and(|handshake| handshake.is_pending()));
        }
        assert_eq!(from_bytes(Version::Tls13, whole, 5), None, "it has ended");
        assert_eq!(from_bytes(Version::Tls13, whole, 6), None);
        assert_eq!(from_bytes(Version::Tls13, [CLIENT_HELLO, 0, 0, 1], 4), None);
        assert_eq!(from_bytes(Version::Tls13, [KEY_UPDATE, 0, 0, 2], 4), None);
        assert_eq!(from_bytes(Version::Tls12, [KEY_UPDATE, 0, 0, 1], 1), None);
        assert_eq!(from_bytes(Version::Tls13, whole, 0), None, "nothing has arrived");
    }

    #[test]
    fn a_client_hello_has_a_length_that_is_waited_for() {
        assert!(from_bytes(Version::Tls12, [CLIENT_HELLO, 0, 0xff, 0xff], 4).is_some());
        assert_eq!(from_bytes(Version::Tls12, [CLIENT_HELLO, 1, 0, 0], 4), None);
    }
}
