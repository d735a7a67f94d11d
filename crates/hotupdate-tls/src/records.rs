//! The record layer of a server, without I/O: bytes of the transport come in, plaintext goes out, and the
//! other way round.
//!
//! Where the RFCs leave a choice it answers as rustls does, so that a client cannot tell whether its
//! connection has migrated.

use std::fmt;
use std::io::IoSlice;
use std::sync::Arc;

use rustls::AlertDescription;

use crate::MigrationBlock;
use crate::error::{Error, Misbehaved};
use crate::exporter::Exporter;
use crate::handshake::{Handshake, Message};
use crate::input::{self, Header, Input, MAX_CIPHERTEXT};
use crate::negotiated::Negotiated;
use crate::patience::Patience;
use crate::protection::{ContentType, HEADER, MAX_PLAINTEXT, Protection};
use crate::secret::Secret;
use crate::state::{self, State, StateError};
use crate::suite::{Suite, Version};

/// How much ciphertext waits for the transport before no more plaintext is taken.
pub(crate) const MAX_OUTPUT: usize = 64 * 1024;

/// A TLS connection that goes on from a [`State`], without I/O.
///
/// 1. [`receive`](Self::receive) takes what the transport delivers, and [`end`](Self::end) is told of its end.
/// 2. [`read`](Self::read) returns plaintext. [`write`](Self::write) takes some.
/// 3. After each of them [`output`](Self::output) holds what the transport has to send, also after an error;
///    [`sent`](Self::sent) says how much was.
pub struct Records {
    suite: Suite,
    negotiated: Arc<Negotiated>,
    opener: Protection,
    sealer: Protection,
    exporter: Secret,
    /// The most plaintext of a record that we send.
    max_plaintext: usize,
    input: Input,
    handshake: Handshake,
    output: Vec<u8>,
    /// How much of `output` is sent.
    sent: usize,
    /// The client has asked for a KeyUpdate. Our next record follows it.
    owes_key_update: bool,
    patience: Patience,
    reading: Reading,
    /// A close_notify or a fatal alert was sent: nothing may follow.
    closed: bool,
}

/// Whether more can come from the client.
#[derive(Debug)]
enum Reading {
    Open,
    /// The transport has ended.
    Ended,
    /// The client has said close_notify.
    Closed,
    Failed(Error),
}

/// What [`Records::read`] has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// So many bytes of plaintext.
    Plaintext(usize),
    /// Nothing: the transport has to deliver more.
    Wanting,
    /// The client has closed its side with close_notify. It may still read.
    Closed,
}

impl Records {
    /// Goes on from `state`. Exactly one process may do this with a state, and any other copy of it must be
    /// forgotten then: two records under one key and number reveal both.
    ///
    /// # Errors
    ///
    /// If the state is of a suite that this version does not know.
    pub fn new(state: State) -> Result<Self, StateError> {
        let State {
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
        } = state;
        Ok(Self {
            suite,
            negotiated,
            opener: Protection::new(suite, opener).ok_or(StateError::Inconsistent)?,
            sealer: Protection::new(suite, sealer).ok_or(StateError::Inconsistent)?,
            exporter,
            max_plaintext,
            input: Input::new(&plaintext, &ciphertext),
            handshake,
            output,
            sent: 0,
            owes_key_update,
            patience,
            reading: Reading::Open,
            closed: false,
        })
    }

    /// Goes on where the handshake ends, with the ciphertext that came behind it.
    pub(crate) fn after_handshake(
        suite: Suite,
        negotiated: Arc<Negotiated>,
        [opener, sealer]: [Protection; 2],
        exporter: Secret,
        max_plaintext: usize,
        ciphertext: &[u8],
    ) -> Self {
        Self {
            suite,
            negotiated,
            opener,
            sealer,
            exporter,
            max_plaintext,
            input: Input::new(&[], ciphertext),
            handshake: Handshake::default(),
            output: Vec::new(),
            sent: 0,
            owes_key_update: false,
            patience: Patience::default(),
            reading: Reading::Open,
            closed: false,
        }
    }

    /// What the handshake has led to.
    pub fn negotiated(&self) -> &Arc<Negotiated> {
        &self.negotiated
    }

    /// The transport has delivered these bytes.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.input.receive(bytes);
    }

    /// See [`Input::begun`].
    pub(crate) fn begun(&mut self) -> Option<&mut Vec<u8>> {
        self.input.begun()
    }

    /// The transport has ended: no more bytes will come.
    pub fn end(&mut self) {
        if matches!(self.reading, Reading::Open) {
            self.reading = Reading::Ended;
        }
    }

    /// Gives memory back that is only needed while bytes come and go.
    pub fn release(&mut self) {
        self.input.release();
        input::release(&mut self.output);
    }

    /// Copies plaintext into `buffer`, and decrypts records if there is none.
    ///
    /// # Errors
    ///
    /// If the client has broken TLS or given up, or the transport has ended before a close_notify. Each
    /// further call returns the same error. An alert for the client may stand in the
    /// [`output`](Self::output).
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<Read, Error> {
        let plaintext = match self.peek()? {
            Peek::Plaintext(plaintext) => plaintext,
            Peek::Wanting => return Ok(Read::Wanting),
            Peek::Closed => return Ok(Read::Closed),
        };
        let count = plaintext.len().min(buffer.len());
        buffer[..count].copy_from_slice(&plaintext[..count]);
        self.consume(count);
        Ok(Read::Plaintext(count))
    }

    /// The plaintext that comes next, without taking it; decrypts records if there is none.
    pub(crate) fn peek(&mut self) -> Result<Peek<'_>, Error> {
        loop {
            if !self.input.plaintext().is_empty() {
                return Ok(Peek::Plaintext(self.input.plaintext()));
            }
            match &self.reading {
                Reading::Failed(error) => return Err(error.clone()),
                Reading::Closed => return Ok(Peek::Closed),
                Reading::Open | Reading::Ended => {}
            }
            match self.open_record() {
                Ok(true) => {}
                Ok(false) if matches!(self.reading, Reading::Ended) => return Err(Error::Truncated),
                Ok(false) => return Ok(Peek::Wanting),
                Err(error) => self.reading = Reading::Failed(error),
            }
        }
    }

    /// What the last peek has shown.
    pub(crate) fn plaintext(&self) -> &[u8] {
        self.input.plaintext()
    }

    pub(crate) fn consume(&mut self, count: usize) {
        self.input.consume_plaintext(count);
    }

    /// Plaintext that was read and is not wanted: the next read returns it again.
    pub fn give_back(&mut self, plaintext: &[u8]) {
        self.input.give_back(plaintext);
    }

    /// Protects plaintext, and returns how much of it: 0 if enough [`output`](Self::output) waits for the
    /// transport.
    ///
    /// # Errors
    ///
    /// If our side is closed, the connection has failed, or its keys are used up (TLS 1.2 alone).
    pub fn write(&mut self, plaintext: &[u8]) -> Result<usize, Error> {
        self.write_vectored(&[IoSlice::new(plaintext)])
    }

    /// The same for plaintext in pieces, whose borders do not show in the records.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    pub fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> Result<usize, Error> {
        if let Reading::Failed(error) = &self.reading {
            return Err(error.clone());
        }
        if self.closed {
            return Err(Error::Closed);
        }
        let room = MAX_OUTPUT.saturating_sub(self.output().len());
        let total = pieces.iter().map(|piece| piece.len()).sum::<usize>().min(room);
        let mut bytes = Pieces { pieces, offset: 0 };
        let mut written = 0;
        while written < total {
            let length = (total - written).min(self.max_plaintext);
            self.keep_key_fresh()?;
            self.seal(ContentType::APPLICATION_DATA, length, |output| bytes.copy(length, output));
            written += length;
        }
        Ok(written)
    }

    /// Sends what the client was promised: a KeyUpdate that it has asked for. Otherwise that comes before the
    /// next data. A client that does not read gets no more of them than of data.
    pub fn answer(&mut self) {
        if self.owes_key_update && !self.closed && self.output().len() < MAX_OUTPUT {
            self.owes_key_update = false;
            self.send_key_update(false);
        }
    }

    /// Says close_notify: the client learns that nothing was cut off. It may go on sending.
    pub fn close(&mut self) {
        if !self.closed {
            self.seal_alert(WARNING, AlertDescription::CloseNotify);
            self.closed = true;
        }
    }

    /// Goes on with a new key, and asks the client for the same. `false` if that is not possible: TLS 1.2 has
    /// no such message, and nothing follows the end.
    pub fn update_keys(&mut self) -> bool {
        let possible = self.suite.version == Version::Tls13 && !self.closed;
        if possible {
            self.send_key_update(true);
        }
        possible
    }

    /// What the transport has to send, as much of it at once as it can.
    pub fn output(&self) -> &[u8] {
        &self.output[self.sent..]
    }

    /// The transport has sent the first `count` bytes of the output.
    ///
    /// # Panics
    ///
    /// If the output is shorter.
    pub fn sent(&mut self, count: usize) {
        assert!(count <= self.output().len(), "more was sent than there is");
        self.sent += count;
        if self.sent == self.output.len() {
            self.output.clear();
            self.sent = 0;
        }
    }

    /// Keying material for the application, if the exporter has travelled with the connection; see
    /// [`Acceptor::keep_exporter`](crate::Acceptor::keep_exporter).
    pub(crate) fn export(&self, output: &mut [u8], label: &str, context: Option<&[u8]>) -> Option<()> {
        let exporter = Exporter { suite: self.suite, secret: &self.exporter };
        if self.exporter.is_empty() { None } else { exporter.export(output, label, context) }
    }

    /// What keeps the connection in this process, if anything does.
    ///
    /// # Errors
    ///
    /// With the reason.
    pub fn can_migrate(&self) -> Result<(), MigrationBlock> {
        if !matches!(self.reading, Reading::Open) || self.closed {
            return Err(MigrationBlock::Closing);
        }
        let (plaintext, ciphertext) = (self.input.plaintext().len(), self.input.ciphertext().len());
        if !state::fits(&self.negotiated, plaintext, ciphertext) {
            return Err(MigrationBlock::TooMuch);
        }
        Ok(())
    }

    /// All that another process needs to go on.
    ///
    /// # Errors
    ///
    /// Returns the record layer as it was, if it [cannot migrate](Self::can_migrate) now.
    pub fn into_state(self) -> Result<State, (Box<Self>, MigrationBlock)> {
        if let Err(why) = self.can_migrate() {
            return Err((Box::new(self), why));
        }
        Ok(State {
            plaintext: self.input.plaintext().to_vec(),
            ciphertext: self.input.ciphertext().to_vec(),
            output: self.output().to_vec(),
            suite: self.suite,
            negotiated: self.negotiated,
            opener: self.opener.into_direction(),
            sealer: self.sealer.into_direction(),
            exporter: self.exporter,
            max_plaintext: self.max_plaintext,
            handshake: self.handshake,
            owes_key_update: self.owes_key_update,
            patience: self.patience,
        })
    }

    /// Deals with the next record. `false` if there is no whole one.
    fn open_record(&mut self) -> Result<bool, Error> {
        let Some(header) = self.input.header() else { return Ok(false) };
        if let Err(misbehaved) = self.check_header(header) {
            return self.fail(misbehaved);
        }
        let Some(taken) = self.input.take(HEADER + header.length) else { return Ok(false) };
        let (typ, range) = match self.opener.open(taken.bytes) {
            Ok(opened) => opened,
            Err(misbehaved) => return self.fail(misbehaved),
        };
        let empty = range.is_empty();
        let dealt_with = if self.handshake.is_pending() && typ != ContentType::HANDSHAKE {
            Err((AlertDescription::UnexpectedMessage, "a record in the middle of a handshake message"))
        } else if let Err(misbehaved) = self.patience.record(empty) {
            Err(misbehaved)
        } else {
            match typ {
                ContentType::APPLICATION_DATA => {
                    self.patience.data();
                    taken.keep(range);
                    Ok(())
                }
                ContentType::ALERT => {
                    let alert = taken.bytes[range].try_into().ok();
                    return self.alert(alert).map(|()| true);
                }
                ContentType::HANDSHAKE if !empty => {
                    let messages = taken.bytes[range].to_vec();
                    self.handshake(&messages)
                }
                _ => Err((AlertDescription::UnexpectedMessage, "a record of a type that has no place here")),
            }
        };
        dealt_with.or_else(|misbehaved| self.fail(misbehaved).map(drop)).map(|()| true)
    }

    fn check_header(&self, header: Header) -> Result<(), Misbehaved> {
        let Header { typ, major, length } = header;
        let typ = ContentType(typ);
        if !(ContentType::CHANGE_CIPHER_SPEC.0..=ContentType::APPLICATION_DATA.0).contains(&typ.0)
            || major != 3
        {
            return Err((AlertDescription::DecodeError, "what it sends is no TLS record"));
        }
        let overhead = match self.suite.version {
            Version::Tls12 => MAX_CIPHERTEXT - MAX_PLAINTEXT,
            Version::Tls13 => 256,
        };
        if length > MAX_PLAINTEXT + overhead {
            return Err((AlertDescription::RecordOverflow, "a record is too long"));
        }
        if typ == ContentType::CHANGE_CIPHER_SPEC
            || self.suite.version == Version::Tls13 && typ != ContentType::APPLICATION_DATA
        {
            return Err((AlertDescription::UnexpectedMessage, "a record that is not protected"));
        }
        Ok(())
    }

    fn alert(&mut self, alert: Option<[u8; 2]>) -> Result<(), Error> {
        let Some([level, description]) = alert else {
            return self.fail((AlertDescription::DecodeError, "an alert that is none")).map(drop);
        };
        let alert = AlertDescription::from(description);
        match (level, alert) {
            (WARNING | FATAL, AlertDescription::CloseNotify) => {
                // What follows is ignored (RFC 8446, section 6.1): no more is read.
                self.reading = Reading::Closed;
                Ok(())
            }
            (FATAL, alert) => Err(Error::AlertReceived(alert)),
            (WARNING, alert) => {
                let misbehaved = self.patience.warning().err().or_else(|| {
                    let outlawed =
                        self.suite.version == Version::Tls13 && alert != AlertDescription::UserCanceled;
                    outlawed.then_some((AlertDescription::DecodeError, "a warning, which TLS 1.3 has not"))
                });
                misbehaved.map_or(Ok(()), |misbehaved| self.fail(misbehaved).map(drop))
            }
            _ => self
                .fail((AlertDescription::IllegalParameter, "an alert that is neither warning nor fatal"))
                .map(drop),
        }
    }

    fn handshake(&mut self, mut bytes: &[u8]) -> Result<(), Misbehaved> {
        while let Some(message) = self.handshake.next(self.suite.version, &mut bytes)? {
            match message {
                Message::KeyUpdate { requested } => {
                    self.patience.key_update()?;
                    // Before the answer, however many were asked for before it.
                    self.owes_key_update |= requested;
                    self.opener.update();
                }
                Message::ClientHello => {
                    self.patience.renegotiation()?;
                    self.seal_alert(WARNING, AlertDescription::NoRenegotiation);
                }
            }
        }
        Ok(())
    }

    fn fail(&mut self, (alert, why): Misbehaved) -> Result<bool, Error> {
        if !self.closed {
            self.seal_alert(FATAL, alert);
            self.closed = true;
        }
        Err(Error::PeerMisbehaved { alert, why })
    }

    /// Before data is sealed: a KeyUpdate takes the last number that the key has.
    fn keep_key_fresh(&mut self) -> Result<(), Error> {
        let limit = self.suite.records_per_key();
        match self.suite.version {
            Version::Tls13 if self.sealer.sequence() + 1 >= limit => self.send_key_update(true),
            Version::Tls12 if self.sealer.sequence() >= limit => {
                self.close();
                return Err(Error::KeysExhausted);
            }
            Version::Tls12 | Version::Tls13 => {}
        }
        Ok(())
    }

    fn send_key_update(&mut self, requested: bool) {
        self.seal_bytes(ContentType::HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, requested.into()]);
        self.sealer.update();
    }

    fn seal_alert(&mut self, level: u8, alert: AlertDescription) {
        self.seal_bytes(ContentType::ALERT, &[level, alert.into()]);
    }

    fn seal_bytes(&mut self, typ: ContentType, bytes: &[u8]) {
        self.seal(typ, bytes.len(), |output| output.extend_from_slice(bytes));
    }

    fn seal(&mut self, typ: ContentType, length: usize, fill: impl FnOnce(&mut Vec<u8>)) {
        self.answer();
        self.sealer.seal(typ, length, &mut self.output, fill);
    }
}

impl fmt::Debug for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Records")
            .field("negotiated", &self.negotiated)
            .field("reading", &self.reading)
            .field("closed", &self.closed)
            .finish_non_exhaustive()
    }
}

/// See [`Records::peek`].
pub(crate) enum Peek<'a> {
    Plaintext(&'a [u8]),
    Wanting,
    Closed,
}

const WARNING: u8 = 1;
const FATAL: u8 = 2;
const KEY_UPDATE: u8 = 24;

/// Plaintext in pieces that is copied from the front.
struct Pieces<'a> {
    pieces: &'a [IoSlice<'a>],
    /// In the first of them.
    offset: usize,
}

impl Pieces<'_> {
    fn copy(&mut self, mut length: usize, output: &mut Vec<u8>) {
        while length > 0 {
            let Some((piece, rest)) = self.pieces.split_first() else { return };
            let piece = &piece[self.offset..];
            let count = piece.len().min(length);
            output.extend_from_slice(&piece[..count]);
            length -= count;
            self.offset += count;
            if count == piece.len() {
                (self.pieces, self.offset) = (rest, 0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rustls::{CipherSuite, ProtocolVersion};

    use super::*;

    #[test]
    fn a_connection_whose_output_is_sent_keeps_no_large_buffer() {
        let state =
            crate::state::tests::state(ProtocolVersion::TLSv1_3, CipherSuite::TLS13_AES_128_GCM_SHA256);
        let mut records = Records::new(state).unwrap();
        records.write(&[7; 10_000]).unwrap();
        records.release();
        let waiting = records.output().len();
        assert!(waiting > 10_000, "what is to be sent stays");
        records.sent(waiting);
        records.release();
        assert_eq!(records.output.capacity(), 0);
    }
}
