//! A connection before its first migration: rustls, which is given whole records alone, and what it has to
//! say when it is taken apart.

use std::fmt;
use std::io::{self, BufRead as _, Write as _};
use std::sync::Arc;

use rustls::{ConnectionTrafficSecrets, ServerConnection};
use zeroize::Zeroizing;

use super::key_log::{SecretLog, Secrets};
use crate::MigrationBlock;
use crate::input::{Input, MAX_CIPHERTEXT};
use crate::negotiated::Negotiated;
use crate::patience::Patience;
use crate::protection::{Direction, HEADER};
use crate::records::Peek;
use crate::secret::Secret;
use crate::state::{self, State};
use crate::suite::{Suite, Version};

/// How many KeyUpdates are looked through for the newest secret: about ten milliseconds.
const MAX_KEY_UPDATES: u64 = 4096;

pub(super) struct Before {
    pub(super) connection: ServerConnection,
    /// `None` if the connection is not to migrate.
    log: Option<Arc<SecretLog>>,
    /// Nothing of it is in rustls: what lies in rustls's own buffer could not be taken out of it again.
    pub(super) input: Input,
    silent: Silent,
    /// What can be seen from outside: that the client has asked for a renegotiation, in TLS 1.2.
    patience: Patience,
    /// Plaintext that the application has given back.
    given_back: Vec<u8>,
    /// How much plaintext rustls has ready.
    ready: usize,
    /// A record has come that may have been a KeyUpdate that asks for one.
    may_owe_answer: bool,
    /// The transport has ended.
    ended: bool,
    /// One side has said close_notify.
    closing: bool,
    failed: Option<rustls::Error>,
    /// How often we have changed our key by ourselves.
    refreshed: u64,
}

impl Before {
    pub(super) fn new(connection: ServerConnection, log: Option<Arc<SecretLog>>) -> Self {
        Self {
            connection,
            log,
            input: Input::default(),
            silent: Silent::default(),
            patience: Patience::default(),
            given_back: Vec::new(),
            ready: 0,
            may_owe_answer: false,
            ended: false,
            closing: false,
            failed: None,
            refreshed: 0,
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    pub(super) fn end(&mut self) {
        self.ended = true;
        // It tells a clean end from a cut one by this.
        let _ = self.connection.read_tls(&mut io::empty());
    }

    pub(super) fn peek(&mut self) -> io::Result<Peek<'_>> {
        if !self.given_back.is_empty() {
            return Ok(Peek::Plaintext(&self.given_back));
        }
        while self.ready == 0 {
            if self.process_record()? {
                continue;
            }
            // It tells a clean end from a cut one.
            return match self.connection.reader().into_first_chunk() {
                Ok(_) => Ok(Peek::Closed),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Peek::Wanting),
                Err(error) => Err(error),
            };
        }
        self.connection.reader().into_first_chunk().map(Peek::Plaintext)
    }

    pub(super) fn consume(&mut self, count: usize) {
        if self.given_back.is_empty() {
            self.connection.reader().consume(count);
            self.ready -= count;
        } else {
            self.given_back.drain(..count);
        }
    }

    pub(super) fn give_back(&mut self, plaintext: &[u8]) {
        self.given_back.splice(..0, plaintext.iter().copied());
    }

    /// Gives rustls the next record. `false` if there is no whole one.
    pub(super) fn process_record(&mut self) -> io::Result<bool> {
        if let Some(error) = &self.failed {
            return Err(invalid(error.clone()));
        }
        let Some(length) = self.next_length() else { return Ok(false) };
        let handshaking = self.connection.is_handshaking();
        let unsent = self.unsent();
        let mut record = &self.input.ciphertext()[..length];
        while !record.is_empty() && self.connection.read_tls(&mut record)? > 0 {}
        let state = self.connection.process_new_packets().map_err(|error| {
            self.failed = Some(error.clone());
            invalid(error)
        })?;
        self.closing |= state.peer_has_closed();
        let answered = state.tls_bytes_to_write() > unsent;
        if !handshaking && answered {
            self.patience.renegotiations = 1;
        }
        self.ready = state.plaintext_bytes_to_read();
        if handshaking || answered || self.ready > 0 {
            self.silent.forget();
        } else {
            self.may_owe_answer = true;
            if self.log.is_some() {
                self.silent.keep(&self.input.ciphertext()[..length]);
            }
        }
        self.input.take(length);
        Ok(true)
    }

    /// How much rustls has to send, which it says nowhere else.
    fn unsent(&mut self) -> usize {
        if !self.connection.wants_write() {
            return 0;
        }
        self.connection.process_new_packets().map_or(0, |state| state.tls_bytes_to_write())
    }

    /// How much of the input rustls gets next: a record, or whatever there is if that cannot become one, for
    /// then rustls says so.
    fn next_length(&self) -> Option<usize> {
        let header = self.input.header()?;
        let possible =
            (20..=24).contains(&header.typ) && header.major == 3 && header.length <= MAX_CIPHERTEXT;
        if possible { self.input.record().map(<[u8]>::len) } else { Some(self.input.ciphertext().len()) }
    }

    /// A KeyUpdate that answers the client's waits in rustls for the next write, even if that is an empty
    /// one.
    pub(super) fn answer(&mut self) {
        if std::mem::take(&mut self.may_owe_answer) {
            // It fails if the connection has failed, and then nothing is to be answered.
            let _ = self.connection.writer().write(&[]);
        }
    }

    pub(super) fn close(&mut self) {
        self.closing = true;
        self.connection.send_close_notify();
    }

    pub(super) fn refresh_traffic_keys(&mut self) -> io::Result<()> {
        self.refreshed += 1;
        self.connection.refresh_traffic_keys().map_err(invalid)
    }

    /// Everything is checked here, for rustls does not come back from an extraction.
    pub(super) fn can_migrate(&mut self, negotiated: &Negotiated) -> Result<(), MigrationBlock> {
        let Some(log) = &self.log else { return Err(MigrationBlock::Disabled) };
        let suite = Suite::new(negotiated.version, negotiated.cipher_suite).ok_or(MigrationBlock::Suite)?;
        if suite.version == Version::Tls13 && !log.has_both() {
            return Err(MigrationBlock::Suite);
        }
        if self.closing || self.ended || self.failed.is_some() || self.connection.is_handshaking() {
            return Err(MigrationBlock::Closing);
        }
        self.answer();
        if self.connection.wants_write() {
            return Err(MigrationBlock::Unwritten);
        }
        if self.silent.overflow {
            return Err(MigrationBlock::Fragment);
        }
        if self.silent.total + self.refreshed > MAX_KEY_UPDATES {
            return Err(MigrationBlock::KeyUpdates);
        }
        self.take_plaintext();
        let ciphertext = self.silent.bytes.len() + self.input.ciphertext().len();
        if !state::fits(negotiated, self.given_back.len(), ciphertext) {
            return Err(MigrationBlock::TooMuch);
        }
        Ok(())
    }

    /// What rustls has decrypted waits here from now on.
    fn take_plaintext(&mut self) {
        let mut reader = self.connection.reader();
        while let Ok(plaintext @ [_, ..]) = reader.fill_buf() {
            let count = plaintext.len();
            self.given_back.extend_from_slice(plaintext);
            reader.consume(count);
            self.ready -= count;
        }
    }

    /// `None` if rustls's secrets are not those that it has logged.
    pub(super) fn into_state(self) -> Option<State> {
        let Self { connection, log, input, silent, patience, given_back, .. } = self;
        let negotiated = Negotiated::of(&connection)?;
        let suite = Suite::new(negotiated.version, negotiated.cipher_suite)?;
        let Secrets { client, server, exporter } = log?.take();
        let extracted = connection.dangerous_extract_secrets().ok()?;
        let mut opener = direction(suite, extracted.rx, client)?;
        let sealer = direction(suite, extracted.tx, server)?;
        let unopened = silent.since_key_update(opener.sequence);
        opener.sequence -= unopened.count;
        Some(State {
            suite,
            negotiated: Arc::new(negotiated),
            migrations: 1,
            opener,
            sealer,
            exporter,
            owes_key_update: false,
            patience,
            plaintext: given_back,
            ciphertext: [unopened.records, input.ciphertext()].concat(),
        })
    }
}

impl fmt::Debug for Before {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Before").field("failed", &self.failed).finish_non_exhaustive()
    }
}

/// The records since the last one of which something was seen, as they arrived.
///
/// They may hold the beginning of a handshake message, which waits in rustls and would be lost: the record
/// layer decrypts them again.
#[derive(Default)]
struct Silent {
    bytes: Vec<u8>,
    count: u64,
    /// There were too many to keep.
    overflow: bool,
    /// Since the connection's beginning: there cannot have been more KeyUpdates.
    total: u64,
}

/// See [`Silent::since_key_update`].
struct Unopened<'a> {
    records: &'a [u8],
    count: u64,
}

impl Silent {
    const MAX: usize = 4 * MAX_CIPHERTEXT;

    fn keep(&mut self, record: &[u8]) {
        self.total += 1;
        self.overflow |= self.bytes.len() + record.len() > Self::MAX;
        if !self.overflow {
            self.bytes.extend_from_slice(record);
            self.count += 1;
        }
    }

    fn forget(&mut self) {
        (self.bytes, self.count, self.overflow) = (Vec::new(), 0, false);
    }

    /// Those that came under the present key, of which `sequence` records have been opened: what came before
    /// the last KeyUpdate is dealt with, and so is the KeyUpdate.
    fn since_key_update(&self, sequence: u64) -> Unopened<'_> {
        let count = self.count.min(sequence);
        let mut records = &self.bytes[..];
        for _ in count..self.count {
            let length = HEADER + usize::from(u16::from_be_bytes([records[3], records[4]]));
            records = &records[length..];
        }
        Unopened { records, count }
    }
}

/// The direction whose present key rustls has said. In TLS 1.3 it is searched for from its `first` secret on.
fn direction(
    suite: Suite,
    (sequence, extracted): (u64, ConnectionTrafficSecrets),
    first: Secret,
) -> Option<Direction> {
    use ConnectionTrafficSecrets::{Aes128Gcm, Aes256Gcm, Chacha20Poly1305};
    let (Aes128Gcm { key, iv } | Aes256Gcm { key, iv } | Chacha20Poly1305 { key, iv }) = extracted else {
        return None;
    };
    let iv = Zeroizing::new(iv.as_ref().try_into().ok()?);
    match suite.version {
        Version::Tls12 => Some(Direction { secret: Secret::new(key.as_ref()), iv, sequence }),
        Version::Tls13 => {
            let mut secret = first;
            for _ in 0..=MAX_KEY_UPDATES {
                let (candidate, its_iv) = secret.key_and_iv(suite);
                if candidate.as_bytes() == key.as_ref() && its_iv == iv {
                    return Some(Direction { secret, iv: Zeroizing::default(), sequence });
                }
                secret = secret.next(suite);
            }
            None
        }
    }
}

fn invalid(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
