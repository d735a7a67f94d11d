//! A connection between two processes: all that one needs to go on where the other stopped.

use std::fmt;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::{CipherSuite, ProtocolVersion};
use zeroize::Zeroizing;

use crate::handshake::Handshake;
use crate::input::{Header, MAX_CIPHERTEXT};
use crate::negotiated::Negotiated;
use crate::patience::Patience;
use crate::protection::{Direction, HEADER, MAX_PLAINTEXT};
use crate::records::MAX_OUTPUT;
use crate::secret::Secret;
use crate::suite::{Suite, Version};

/// The first byte. A version that does not know it leaves the connection where it is.
const FORM: u8 = 1;

/// The most plaintext that may travel unread. What an application gives back is a request's beginning.
const MAX_UNREAD: usize = 1 << 20;

/// The most ciphertext: a record that is not whole, and what was read behind it.
const MAX_UNOPENED: usize = 8 * MAX_CIPHERTEXT;

const MAX_CERTIFICATES: usize = 64;
const MAX_CERTIFICATE: usize = 1 << 16;

/// The most ciphertext that may travel unsent.
const MAX_UNSENT: usize = 2 * MAX_OUTPUT;

/// Whether so much of what was read can travel.
pub(crate) fn fits(negotiated: &Negotiated, plaintext: usize, ciphertext: usize) -> bool {
    let certificates = &negotiated.client_certificates;
    plaintext <= MAX_UNREAD
        && ciphertext <= MAX_UNOPENED
        && certificates.len() <= MAX_CERTIFICATES
        && certificates.iter().all(|certificate| certificate.len() <= MAX_CERTIFICATE)
}

/// A connection that no process serves.
///
/// **A process that holds it is the server of that connection**: it can read all that follows, and speak in
/// the server's name, until the connection ends. What was said before the last change of keys stays hidden in
/// TLS 1.3. The private key of the certificate is not in it, nor a way to another connection.
///
/// Not `Clone` on purpose: each record has a number, and two records with one number under one key reveal
/// both, and the way to forge more. Its bytes may stand in several places, as they do during a migration, but
/// only one process may make [`Records`](crate::Records) or a [`TlsStream`](crate::TlsStream) of them.
#[derive(PartialEq, Eq)]
pub struct State {
    pub(crate) suite: Suite,
    pub(crate) negotiated: Arc<Negotiated>,
    /// What the client sends.
    pub(crate) opener: Direction,
    /// What we send.
    pub(crate) sealer: Direction,
    /// Empty unless it was asked for.
    pub(crate) exporter: Secret,
    /// The most plaintext of a record that we send.
    pub(crate) max_plaintext: usize,
    /// A handshake message of the client that has begun.
    pub(crate) handshake: Handshake,
    pub(crate) owes_key_update: bool,
    pub(crate) patience: Patience,
    /// Decrypted and not read.
    pub(crate) plaintext: Vec<u8>,
    /// Read from the transport and not decrypted.
    pub(crate) ciphertext: Vec<u8>,
    /// Sealed and not sent.
    pub(crate) output: Vec<u8>,
}

/// Why bytes are no [`State`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// Another version has written it.
    #[error("the state of the TLS connection has the form {0}, this version knows {FORM}")]
    Form(u8),
    /// It needs ciphers that this version does not have.
    #[error("the TLS connection has a cipher suite that this version does not know")]
    Suite,
    /// It does not end where it should, or says what cannot be.
    #[error("the state of the TLS connection is damaged")]
    Inconsistent,
}

impl State {
    /// What the handshake has led to.
    pub fn negotiated(&self) -> &Arc<Negotiated> {
        &self.negotiated
    }

    /// Whether the client has to speak first: nothing of it can be read, and nothing of ours is to be sent.
    pub fn is_waiting(&self) -> bool {
        let record = Header::of(&self.ciphertext).map(|header| HEADER + header.length);
        let whole = record.is_some_and(|length| length <= self.ciphertext.len());
        self.plaintext.is_empty() && self.output.is_empty() && !whole
    }

    /// The state for another process. It is as secret as the keys in it: send it over nothing but a socket to
    /// a process of the same user, and wipe every copy.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let Self {
            suite,
            negotiated,
            opener,
            sealer,
            exporter,
            max_plaintext,
            handshake,
            owes_key_update,
            patience,
            plaintext,
            ciphertext,
            output,
        } = self;
        let Negotiated { version, cipher_suite, alpn, server_name, client_certificates } = &**negotiated;
        let Patience { key_updates, empty_records, warnings, renegotiations } = *patience;
        let mut writer = Writer::with_capacity(self.len());
        writer.bytes(&[FORM]);
        writer.bytes(&u16::from(*version).to_be_bytes());
        writer.bytes(&u16::from(*cipher_suite).to_be_bytes());
        writer.bytes(&(*max_plaintext as u16).to_be_bytes());
        writer.bytes(&handshake.to_bytes());
        writer.bytes(&[(*owes_key_update).into(), key_updates, empty_records, warnings, renegotiations]);
        for Direction { secret, iv, sequence } in [opener, sealer] {
            writer.sized(secret.as_bytes());
            if suite.version == Version::Tls12 {
                writer.bytes(&**iv);
            }
            writer.bytes(&sequence.to_be_bytes());
        }
        writer.sized(exporter.as_bytes());
        writer.optional(alpn.as_deref());
        writer.optional(server_name.as_deref().map(str::as_bytes));
        writer.sized(plaintext);
        writer.sized(ciphertext);
        writer.sized(output);
        writer.bytes(&[client_certificates.len() as u8]);
        for certificate in client_certificates {
            writer.sized(certificate);
        }
        writer.0
    }

    /// The state that [`to_bytes`](Self::to_bytes) has written, by this version or another one. The bytes are
    /// the caller's to wipe.
    ///
    /// # Errors
    ///
    /// If this version does not understand it: the connection stays where it is.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, StateError> {
        let (&form, bytes) = bytes.split_first().ok_or(StateError::Inconsistent)?;
        if form != FORM {
            return Err(StateError::Form(form));
        }
        let mut reader = Reader(bytes);
        let version = ProtocolVersion::from(reader.u16()?);
        let cipher_suite = CipherSuite::from(reader.u16()?);
        let suite = Suite::new(version, cipher_suite).ok_or(StateError::Suite)?;
        let max_plaintext = usize::from(reader.u16()?);
        let handshake = Handshake::from_bytes(suite.version, reader.array()?);
        let handshake = handshake.ok_or(StateError::Inconsistent)?;
        let [owes, key_updates, empty_records, warnings, renegotiations] = reader.array()?;
        let opener = reader.direction(suite)?;
        let sealer = reader.direction(suite)?;
        let exporter = Secret::new(reader.sized(MAX_SECRET)?);
        let alpn = reader.optional(u8::MAX.into())?.map(<[u8]>::to_vec);
        let server_name = reader.optional(u16::MAX.into())?.map(|name| String::from_utf8(name.to_vec()));
        let server_name = server_name.transpose().map_err(|_| StateError::Inconsistent)?;
        let plaintext = reader.sized(MAX_UNREAD)?.to_vec();
        let ciphertext = reader.sized(MAX_UNOPENED)?.to_vec();
        let output = reader.sized(MAX_UNSENT)?.to_vec();
        let [count] = reader.array()?;
        let client_certificates = reader.certificates(count.into())?;
        let exporter_fits = exporter.is_empty() || exporter.as_bytes().len() == suite.digest().output_len();
        let length_fits = (1..=MAX_PLAINTEXT).contains(&max_plaintext);
        if !reader.0.is_empty() || owes > 1 || !exporter_fits || !length_fits {
            return Err(StateError::Inconsistent);
        }
        Ok(Self {
            suite,
            negotiated: Arc::new(Negotiated {
                version,
                cipher_suite,
                alpn,
                server_name,
                client_certificates,
            }),
            opener,
            sealer,
            exporter,
            max_plaintext,
            handshake,
            owes_key_update: owes == 1,
            patience: Patience { key_updates, empty_records, warnings, renegotiations },
            plaintext,
            ciphertext,
            output,
        })
    }

    /// About as long as its bytes, and not less: they must not be moved while they grow.
    fn len(&self) -> usize {
        const FIXED: usize = 512;
        let certificates = &self.negotiated.client_certificates;
        FIXED
            + self.plaintext.len()
            + self.ciphertext.len()
            + self.output.len()
            + self.negotiated.alpn.as_ref().map_or(0, Vec::len)
            + self.negotiated.server_name.as_ref().map_or(0, String::len)
            + certificates.iter().map(|certificate| 4 + certificate.len()).sum::<usize>()
    }
}

/// No secrets, and nothing that client or server have said.
impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("negotiated", &self.negotiated)
            .field("received", &self.opener.sequence)
            .field("sent", &self.sealer.sequence)
            .field("plaintext", &self.plaintext.len())
            .field("ciphertext", &self.ciphertext.len())
            .field("output", &self.output.len())
            .finish_non_exhaustive()
    }
}

/// The longest secret: SHA-384's output.
const MAX_SECRET: usize = 48;

/// Numbers are big-endian, and what has no fixed length follows its length in four bytes.
struct Writer(Zeroizing<Vec<u8>>);

impl Writer {
    fn with_capacity(capacity: usize) -> Self {
        Self(Zeroizing::new(Vec::with_capacity(capacity)))
    }

    fn bytes(&mut self, bytes: &[u8]) {
        debug_assert!(self.0.len() + bytes.len() <= self.0.capacity(), "what it held would stay behind");
        self.0.extend_from_slice(bytes);
    }

    fn sized(&mut self, bytes: &[u8]) {
        self.bytes(&(bytes.len() as u32).to_be_bytes());
        self.bytes(bytes);
    }

    fn optional(&mut self, bytes: Option<&[u8]>) {
        self.bytes(&[bytes.is_some().into()]);
        if let Some(bytes) = bytes {
            self.sized(bytes);
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, count: usize) -> Result<&'a [u8], StateError> {
        let (bytes, rest) = self.0.split_at_checked(count).ok_or(StateError::Inconsistent)?;
        self.0 = rest;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], StateError> {
        Ok(self.bytes(N)?.try_into().expect("it has this length"))
    }

    fn u16(&mut self) -> Result<u16, StateError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    fn sized(&mut self, limit: usize) -> Result<&'a [u8], StateError> {
        let length = u32::from_be_bytes(self.array()?) as usize;
        if length > limit { Err(StateError::Inconsistent) } else { self.bytes(length) }
    }

    fn optional(&mut self, limit: usize) -> Result<Option<&'a [u8]>, StateError> {
        match self.array()? {
            [0] => Ok(None),
            [1] => self.sized(limit).map(Some),
            _ => Err(StateError::Inconsistent),
        }
    }

    fn direction(&mut self, suite: Suite) -> Result<Direction, StateError> {
        let secret = Secret::new(self.sized(MAX_SECRET)?);
        if secret.as_bytes().len() != suite.secret_len() {
            return Err(StateError::Inconsistent);
        }
        let iv = match suite.version {
            Version::Tls12 => Zeroizing::new(self.array()?),
            Version::Tls13 => Zeroizing::default(),
        };
        Ok(Direction { secret, iv, sequence: u64::from_be_bytes(self.array()?) })
    }

    fn certificates(&mut self, count: usize) -> Result<Vec<CertificateDer<'static>>, StateError> {
        if count > MAX_CERTIFICATES {
            return Err(StateError::Inconsistent);
        }
        (0..count).map(|_| Ok(CertificateDer::from(self.sized(MAX_CERTIFICATE)?.to_vec()))).collect()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn state(version: ProtocolVersion, cipher_suite: CipherSuite) -> State {
        let suite = Suite::new(version, cipher_suite).unwrap();
        let direction = |sequence| Direction {
            secret: Secret::new(&vec![7; suite.secret_len()]),
            iv: Zeroizing::new(if suite.version == Version::Tls12 { [9; 12] } else { [0; 12] }),
            sequence,
        };
        State {
            suite,
            negotiated: Arc::new(Negotiated {
                version,
                cipher_suite,
                alpn: Some(b"h2".to_vec()),
                server_name: None,
                client_certificates: vec![CertificateDer::from(vec![1, 2, 3]), CertificateDer::from(vec![4])],
            }),
            opener: direction(5),
            sealer: direction(u64::MAX - 1),
            exporter: Secret::new(&vec![8; suite.digest().output_len()]),
            max_plaintext: 1000,
            handshake: Handshake::default(),
            owes_key_update: true,
            patience: Patience { key_updates: 1, empty_records: 2, warnings: 3, renegotiations: 1 },
            plaintext: b"plain".to_vec(),
            ciphertext: b"cipher".to_vec(),
            output: b"sealed".to_vec(),
        }
    }

    fn states() -> [State; 3] {
        [
            state(ProtocolVersion::TLSv1_3, CipherSuite::TLS13_AES_128_GCM_SHA256),
            state(ProtocolVersion::TLSv1_3, CipherSuite::TLS13_AES_256_GCM_SHA384),
            state(ProtocolVersion::TLSv1_2, CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
        ]
    }

    #[test]
    fn bytes_say_all_of_it() {
        for state in states() {
            assert_eq!(State::from_bytes(&state.to_bytes()).unwrap(), state);
        }
    }

    #[test]
    fn bytes_that_end_early_or_go_on_are_refused() {
        for state in states() {
            let mut bytes = state.to_bytes().to_vec();
            for length in 0..bytes.len() {
                assert!(State::from_bytes(&bytes[..length]).is_err());
            }
            bytes.push(0);
            assert_eq!(State::from_bytes(&bytes), Err(StateError::Inconsistent));
        }
    }

    #[test]
    fn another_form_or_suite_is_left_to_its_version() {
        let bytes = states()[0].to_bytes();
        let altered = |at: usize, byte: u8| {
            let mut bytes = bytes.clone();
            bytes[at] = byte;
            State::from_bytes(&bytes).unwrap_err()
        };
        assert_eq!(altered(0, 2), StateError::Form(2));
        assert_eq!(altered(4, 0x04), StateError::Suite);
        // TLS 1.2 has no such suite.
        assert_eq!(altered(2, 0x03), StateError::Suite);
    }

    #[test]
    fn the_bytes_are_written_in_one_place() {
        // The debug assertion of the writer looks at each step.
        for state in states() {
            let bytes = state.to_bytes();
            assert!(bytes.len() <= state.len());
        }
    }

    #[test]
    fn a_debug_output_shows_no_secret_and_no_word() {
        for state in states() {
            let shown = format!("{state:?} {:?}", state.opener);
            for secret in ["7, 7", "8, 8", "9, 9", "112, 108", "0707", "0808"] {
                assert!(!shown.contains(secret), "{secret}: {shown}");
            }
        }
    }
}
