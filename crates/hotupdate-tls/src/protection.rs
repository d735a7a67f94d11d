//! One direction of a connection: the secret, the key made from it, and how many records it has protected.

use std::ops::Range;

use rustls::AlertDescription;
use zeroize::Zeroizing;

use crate::error::Misbehaved;
use crate::key::Key;
use crate::provider::aead::{Aad, Nonce};
use crate::secret::Secret;
use crate::suite::{NONCE, Suite, TAG, Version};

/// The most plaintext of one record.
pub(crate) const MAX_PLAINTEXT: usize = 1 << 14;

/// Type, version and length, before each record.
pub(crate) const HEADER: usize = 5;

/// What a record holds (RFC 8446, appendix B.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ContentType(pub(crate) u8);

impl ContentType {
    pub(crate) const CHANGE_CIPHER_SPEC: Self = Self(20);
    pub(crate) const ALERT: Self = Self(21);
    pub(crate) const HANDSHAKE: Self = Self(22);
    pub(crate) const APPLICATION_DATA: Self = Self(23);
}

/// How far a direction is, as it travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Direction {
    /// The traffic secret in TLS 1.3, the key in TLS 1.2.
    pub(crate) secret: Secret,
    /// TLS 1.2 only, for the secret of TLS 1.3 stands for an IV, too.
    pub(crate) iv: Zeroizing<[u8; NONCE]>,
    /// The number of the next record.
    pub(crate) sequence: u64,
}

pub(crate) struct Protection {
    suite: Suite,
    secret: Secret,
    key: Key,
    iv: Zeroizing<[u8; NONCE]>,
    sequence: u64,
}

impl Protection {
    /// `None` if the secret has not the length that the suite asks for.
    pub(crate) fn new(suite: Suite, direction: Direction) -> Option<Self> {
        let Direction { secret, iv, sequence } = direction;
        if secret.as_bytes().len() != suite.secret_len() {
            return None;
        }
        let (key, iv) = match suite.version {
            Version::Tls12 => (Key::new(suite.aead(), &secret), iv),
            Version::Tls13 => {
                let (key, iv) = secret.key_and_iv(suite);
                (Key::new(suite.aead(), &key), iv)
            }
        };
        Some(Self { suite, secret, key, iv, sequence })
    }

    /// Without making the key from the secret once more. `None` if the secret stands for another IV, and so
    /// for another key.
    pub(crate) fn with_key(
        suite: Suite,
        secret: Secret,
        key: &Secret,
        iv: Zeroizing<[u8; NONCE]>,
        sequence: u64,
    ) -> Option<Self> {
        let fits = match suite.version {
            Version::Tls12 => secret == *key,
            Version::Tls13 => secret.as_bytes().len() == suite.secret_len() && secret.iv(suite) == iv,
        };
        let key = Key::new(suite.aead(), key);
        fits.then_some(Self { suite, secret, key, iv, sequence })
    }

    pub(crate) fn into_direction(self) -> Direction {
        let Self { suite, secret, key: _, iv, sequence } = self;
        let iv = match suite.version {
            Version::Tls12 => iv,
            Version::Tls13 => Zeroizing::default(),
        };
        Direction { secret, iv, sequence }
    }

    pub(crate) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Goes on with the next key: a KeyUpdate was sent, or has arrived.
    pub(crate) fn update(&mut self) {
        self.secret = self.secret.next(self.suite);
        let (key, iv) = self.secret.key_and_iv(self.suite);
        (self.key, self.iv, self.sequence) = (Key::new(self.suite.aead(), &key), iv, 0);
    }

    /// Decrypts a record in its place. Returns what it holds, and where that stands now.
    pub(crate) fn open(&mut self, record: &mut [u8]) -> Result<(ContentType, Range<usize>), Misbehaved> {
        let (header, body) = record.split_at_mut(HEADER);
        let typ = ContentType(header[0]);
        let explicit = self.suite.explicit_nonce();
        let Some(length) = body.len().checked_sub(explicit + TAG) else { return Err(BAD_MAC) };
        let next =
            self.sequence.checked_add(1).ok_or((AlertDescription::InternalError, "too many records"))?;
        let mut nonce = self.nonce();
        let (explicit_nonce, body) = body.split_at_mut(explicit);
        nonce[NONCE - explicit..].copy_from_slice(explicit_nonce);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let opened = match self.suite.version {
            Version::Tls12 => {
                let aad = aad12(self.sequence, typ, [header[1], header[2]], length);
                self.key.open_in_place(nonce, Aad::from(aad), body)
            }
            Version::Tls13 => self.key.open_in_place(nonce, Aad::from(&*header), body),
        };
        let plaintext = opened.map_err(|_| BAD_MAC)?;
        self.sequence = next;
        let (typ, length) = match self.suite.version {
            Version::Tls12 => (typ, plaintext.len()),
            Version::Tls13 => unpad(plaintext)?,
        };
        if length > MAX_PLAINTEXT {
            return Err(TOO_LONG);
        }
        let start = HEADER + explicit;
        Ok((typ, start..start + length))
    }

    /// Appends a record to `output` whose plaintext, of `length` bytes, `fill` appends.
    ///
    /// The sequence number is used up first, so that no failure lets it come again.
    pub(crate) fn seal(
        &mut self,
        typ: ContentType,
        length: usize,
        output: &mut Vec<u8>,
        fill: impl FnOnce(&mut Vec<u8>),
    ) {
        debug_assert!(length <= MAX_PLAINTEXT);
        let (sequence, nonce) = (self.sequence, self.nonce());
        self.sequence = sequence.checked_add(1).expect("a key ends before that");
        let explicit = self.suite.explicit_nonce();
        let inner_type = usize::from(self.suite.version == Version::Tls13);
        let outer_type = if inner_type == 1 { ContentType::APPLICATION_DATA } else { typ };
        let [high, low] = ((explicit + length + inner_type + TAG) as u16).to_be_bytes();
        let header = [outer_type.0, 3, 3, high, low];
        output.reserve(HEADER + explicit + length + inner_type + TAG);
        output.extend_from_slice(&header);
        output.extend_from_slice(&nonce[NONCE - explicit..]);
        let start = output.len();
        fill(output);
        debug_assert_eq!(output.len(), start + length);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = match self.suite.version {
            Version::Tls12 => {
                let aad = aad12(sequence, typ, [3, 3], length);
                self.key.seal_in_place_separate_tag(nonce, Aad::from(aad), &mut output[start..])
            }
            Version::Tls13 => {
                output.push(typ.0);
                self.key.seal_in_place_separate_tag(nonce, Aad::from(header), &mut output[start..])
            }
        };
        output.extend_from_slice(tag.expect("a record is short").as_ref());
    }

    fn nonce(&self) -> [u8; NONCE] {
        let mut nonce = *self.iv;
        for (nonce, sequence) in nonce[NONCE - 8..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *nonce ^= sequence;
        }
        nonce
    }
}

const BAD_MAC: Misbehaved = (AlertDescription::BadRecordMac, "a record does not decrypt");

const TOO_LONG: Misbehaved = (AlertDescription::RecordOverflow, "the plaintext of a record is too long");

/// The type behind the plaintext, and how long that is without zeros (RFC 8446, section 5.4).
fn unpad(plaintext: &[u8]) -> Result<(ContentType, usize), Misbehaved> {
    if plaintext.len() > MAX_PLAINTEXT + 1 {
        return Err(TOO_LONG);
    }
    let last = plaintext.iter().rposition(|byte| *byte != 0);
    let last = last.ok_or((AlertDescription::UnexpectedMessage, "a record of zeros alone"))?;
    Ok((ContentType(plaintext[last]), last))
}

fn aad12(sequence: u64, typ: ContentType, version: [u8; 2], length: usize) -> [u8; 13] {
    let mut aad = [0; 13];
    aad[..8].copy_from_slice(&sequence.to_be_bytes());
    aad[8] = typ.0;
    aad[9..11].copy_from_slice(&version);
    aad[11..].copy_from_slice(&(length as u16).to_be_bytes());
    aad
}
