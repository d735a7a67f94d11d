//! A connection before its first migration: rustls, which is given whole records alone, and what it has to
//! say when it is taken apart.

use std::fmt;
use std::io::{self, BufRead as _, Write as _};
use std::sync::Arc;

use rustls::{ConnectionTrafficSecrets, ServerConnection};
use zeroize::Zeroizing;

use super::key_log::{SecretLog, Secrets};
use crate::MigrationBlock;
use crate::input::{self, Header, MAX_CIPHERTEXT};
use crate::negotiated::Negotiated;
use crate::patience::Patience;
use crate::protection::{Direction, HEADER, MAX_PLAINTEXT};
use crate::records::Peek;
use crate::secret::Secret;
use crate::state::{self, State};
use crate::suite::{Suite, Version};

/// How many KeyUpdates are looked through for the newest secret: about ten milliseconds.
const MAX_KEY_UPDATES: u64 = 4096;

/// How much may be read at once. A record of the usual length fits, and whatever it is, its plaintext fits
/// into rustls, which takes nothing more while it has over 16 KiB unread: two records have two headers and
/// tags.
pub(super) const MAX_READ: usize = MAX_PLAINTEXT + 40;

pub(super) struct Before {
    pub(super) connection: ServerConnection,
    /// `None` if the connection is not to migrate.
    log: Option<Arc<SecretLog>>,
    /// The beginning of a record whose rest has not arrived. From its whole header on rustls has it, too, but
    /// does not give it back.
    partial: Vec<u8>,
    silent: Silent,
    /// How much longer than its plaintext a record is. `None` if that is not known: during the handshake, and
    /// if the client pads its records.
    overhead: Option<usize>,
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
    /// The client has said close_notify.
    peer_closed: bool,
    /// One side has said it.
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
            partial: Vec::new(),
            silent: Silent::default(),
            overhead: None,
            patience: Patience::default(),
            given_back: Vec::new(),
            ready: 0,
            may_owe_answer: false,
            ended: false,
            peer_closed: false,
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

    pub(super) fn error(&self) -> Option<io::Error> {
        self.failed.clone().map(invalid)
    }

    pub(super) fn peek(&mut self) -> io::Result<Peek<'_>> {
        if !self.given_back.is_empty() {
            return Ok(Peek::Plaintext(&self.given_back));
        }
        if self.ready == 0 && !self.peer_closed && !self.ended && self.failed.is_none() {
            return Ok(Peek::Wanting);
        }
        let failed = self.error();
        // It tells a clean end from a cut one.
        match self.connection.reader().into_first_chunk() {
            Ok(plaintext @ [_, ..]) => Ok(Peek::Plaintext(plaintext)),
            ended => failed.map_or_else(|| ended.map(|_| Peek::Closed), Err),
        }
    }

    pub(super) fn consume(&mut self, count: usize) {
        if self.given_back.is_empty() {
            self.connection.reader().consume(count);
            // After a failure rustls has not said how much there is.
            self.ready = self.ready.saturating_sub(count);
        } else {
            self.given_back.drain(..count);
        }
    }

    pub(super) fn give_back(&mut self, plaintext: &[u8]) {
        self.given_back.splice(..0, plaintext.iter().copied());
    }

    /// How much may be read at once.
    pub(super) fn space(&self) -> usize {
        MAX_READ.saturating_sub(self.partial.len()).max(self.missing()).min(MAX_READ)
    }

    pub(super) fn release(&mut self) {
        input::release(&mut self.partial);
        input::release(&mut self.given_back);
    }

    /// Gives rustls what the transport has delivered.
    pub(super) fn receive(&mut self, bytes: &[u8]) {
        if self.failed.is_none()
            && let Err(error) = self.try_receive(bytes)
        {
            self.failed = Some(error);
        }
    }

    fn try_receive(&mut self, mut bytes: &[u8]) -> Result<(), rustls::Error> {
        if (1..HEADER).contains(&self.partial.len()) {
            let bytes = [&std::mem::take(&mut self.partial), bytes].concat();
            return self.try_receive(&bytes);
        }
        while let Some(group) = self.group(bytes) {
            let rest = &bytes[group.length..];
            if rest.len() >= HEADER && whole_record(rest).is_none() {
                // It goes along: rustls makes its buffer anew whenever nothing is in it.
                self.deal_with(group, bytes)?;
                self.partial.extend_from_slice(rest);
                return Ok(());
            }
            self.deal_with(group, &bytes[..group.length])?;
            bytes = rest;
        }
        self.partial.extend_from_slice(bytes);
        if self.partial.len() >= HEADER { self.bring(bytes) } else { Ok(()) }
    }

    /// The records at the front of `bytes` that are dealt with together: all but the last one, which shows
    /// whether rustls has half a handshake message.
    fn group(&self, bytes: &[u8]) -> Option<Group> {
        let mut end = match self.missing() {
            0 => whole_record(bytes)?,
            missing => (missing <= bytes.len()).then_some(missing)?,
        };
        let (mut group, mut whole) = (Group { length: end, count: 1 }, 1);
        while self.overhead.is_some()
            && let Some(next) = whole_record(&bytes[end..])
        {
            group = Group { length: end, count: whole };
            (end, whole) = (end + next, whole + 1);
        }
        Some(group)
    }

    /// How much is missing of the record that has begun, if its length is known.
    fn missing(&self) -> usize {
        Header::of(&self.partial).map_or(0, |header| HEADER + header.length - self.partial.len())
    }

    /// Half a record may follow the group in `bytes`.
    fn deal_with(&mut self, group: Group, bytes: &[u8]) -> Result<(), rustls::Error> {
        let Group { length, count } = group;
        let mut beginning = std::mem::take(&mut self.partial);
        let (handshaking, ready) = (self.connection.is_handshaking(), self.ready);
        let shown = self.process(bytes)?;
        let whole = beginning.len() + length;
        let is_data = |overhead| self.ready - ready + count * overhead == whole;
        if handshaking || count == 1 && shown || self.overhead.is_some_and(is_data) {
            self.silent.forget();
        } else {
            self.may_owe_answer = true;
            if count > 1 {
                // There may have been anything among them. Perhaps the client pads its records.
                self.silent.lose(count);
                self.overhead = None;
            } else if self.log.is_some() {
                self.silent.keep(&beginning, &bytes[..length]);
            }
        }
        if handshaking && !self.connection.is_handshaking() {
            self.overhead = Negotiated::of(&self.connection)
                .and_then(|negotiated| Suite::new(negotiated.version, negotiated.cipher_suite))
                .map(Suite::overhead);
        }
        beginning.clear();
        self.partial = beginning;
        Ok(())
    }

    /// Has rustls do what records say. Returns whether that can be seen.
    fn process(&mut self, mut bytes: &[u8]) -> Result<bool, rustls::Error> {
        let handshaking = self.connection.is_handshaking();
        let (unsent, ready) = (self.unsent(), self.ready);
        let mut answered = false;
        while self.bring_some(&mut bytes)? {
            let state = self.connection.process_new_packets()?;
            self.peer_closed = state.peer_has_closed();
            self.ready = state.plaintext_bytes_to_read();
            answered = state.tls_bytes_to_write() > unsent;
        }
        self.closing |= self.peer_closed;
        if answered && !handshaking {
            self.patience.renegotiations = 1;
        }
        Ok(answered || self.ready > ready)
    }

    /// How much rustls has to send, which it says nowhere else.
    fn unsent(&mut self) -> usize {
        if !self.connection.wants_write() {
            return 0;
        }
        self.connection.process_new_packets().map_or(0, |state| state.tls_bytes_to_write())
    }

    fn bring(&mut self, mut bytes: &[u8]) -> Result<(), rustls::Error> {
        while self.bring_some(&mut bytes)? {}
        Ok(())
    }

    /// Gives rustls some of the bytes. `false` if it takes none, or there are none.
    fn bring_some(&mut self, bytes: &mut &[u8]) -> Result<bool, rustls::Error> {
        if bytes.is_empty() {
            return Ok(false);
        }
        // It has room: see `MAX_READ`.
        match self.connection.read_tls(bytes) {
            Ok(count) => Ok(count > 0),
            Err(error) => Err(rustls::Error::General(error.to_string())),
        }
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
        if self.silent.lost {
            return Err(MigrationBlock::Fragment);
        }
        if self.silent.total + self.refreshed > MAX_KEY_UPDATES {
            return Err(MigrationBlock::KeyUpdates);
        }
        self.take_plaintext();
        let ciphertext = self.silent.bytes.len() + self.partial.len();
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
        let Self { connection, log, partial, silent, patience, given_back, .. } = self;
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
            ciphertext: [unopened.records, &partial].concat(),
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
    /// There were some that are not here.
    lost: bool,
    /// Since the connection's beginning: there cannot have been more KeyUpdates.
    total: u64,
}

/// See [`Before::group`].
#[derive(Clone, Copy)]
struct Group {
    /// Of it that has not arrived before.
    length: usize,
    count: usize,
}

/// The length of the record at the front of `bytes`, if it is whole, or of all of them if they cannot become
/// one: then rustls says so.
fn whole_record(bytes: &[u8]) -> Option<usize> {
    let Header { typ, major, length } = Header::of(bytes)?;
    let length = HEADER + length;
    let possible = (20..=24).contains(&typ) && major == 3 && length <= HEADER + MAX_CIPHERTEXT;
    if !possible { Some(bytes.len()) } else { (length <= bytes.len()).then_some(length) }
}

/// See [`Silent::since_key_update`].
struct Unopened<'a> {
    records: &'a [u8],
    count: u64,
}

impl Silent {
    const MAX: usize = 4 * MAX_CIPHERTEXT;

    fn keep(&mut self, beginning: &[u8], rest: &[u8]) {
        self.total += 1;
        self.lost |= self.bytes.len() + beginning.len() + rest.len() > Self::MAX;
        if !self.lost {
            self.bytes.extend_from_slice(beginning);
            self.bytes.extend_from_slice(rest);
            self.count += 1;
        }
    }

    /// There were so many records at most that are not here.
    fn lose(&mut self, count: usize) {
        self.forget();
        self.total += count as u64;
        self.lost = true;
    }

    fn forget(&mut self) {
        (self.bytes, self.count, self.lost) = (Vec::new(), 0, false);
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
