//! A connection before its first migration: rustls, and what else is to be known when it is taken apart.

use std::fmt;
use std::io::{self, BufRead as _, Write as _};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::{ConnectionTrafficSecrets, IoState, ServerConnection};
use tokio::io::{AsyncRead, ReadBuf};
use zeroize::Zeroizing;

use super::key_log::{SecretLog, Secrets};
use super::recent::Recent;
use crate::MigrationBlock;
use crate::input;
use crate::negotiated::Negotiated;
use crate::patience::Patience;
use crate::protection::Direction;
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
    recent: Recent,
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
            recent: Recent::default(),
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

    pub(super) fn error(&self) -> Option<io::Error> {
        self.failed.clone().map(invalid)
    }

    #[inline]
    pub(super) fn peek(&mut self) -> io::Result<Peek<'_>> {
        if !self.given_back.is_empty() {
            Ok(Peek::Plaintext(&self.given_back))
        } else if self.ready > 0 {
            self.connection.reader().into_first_chunk().map(Peek::Plaintext)
        } else if self.is_over() {
            self.last_words()
        } else {
            Ok(Peek::Wanting)
        }
    }

    /// Whether nothing more comes from the client.
    #[inline]
    fn is_over(&self) -> bool {
        self.peer_closed || self.ended || self.failed.is_some()
    }

    #[cold]
    fn last_words(&mut self) -> io::Result<Peek<'_>> {
        let failed = self.error();
        // After a failure it has not said how much there is before it. It tells a clean end from a cut one.
        match self.connection.reader().into_first_chunk() {
            Ok(plaintext @ [_, ..]) => Ok(Peek::Plaintext(plaintext)),
            ended => failed.map_or_else(|| ended.map(|_| Peek::Closed), Err),
        }
    }

    #[inline]
    pub(super) fn consume(&mut self, count: usize) {
        if self.given_back.is_empty() {
            self.connection.reader().consume(count);
            self.ready = self.ready.saturating_sub(count);
        } else {
            self.given_back.drain(..count);
        }
    }

    pub(super) fn give_back(&mut self, plaintext: &[u8]) {
        self.given_back.splice(..0, plaintext.iter().copied());
    }

    pub(super) fn release(&mut self) {
        self.recent.release();
        input::release(&mut self.given_back);
    }

    /// Reads something into rustls, or sees the end.
    pub(super) fn poll_fill<IO: AsyncRead + Unpin>(
        &mut self,
        io: &mut IO,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let handshaking = self.connection.is_handshaking();
        let unsent = self.unsent();
        match self.connection.read_tls(&mut Observed { io, cx, recent: &mut self.recent }) {
            Ok(0) => self.ended = true,
            Ok(_) => match self.connection.process_new_packets() {
                Ok(state) => self.processed(&state, handshaking, unsent),
                Err(error) => self.failed = Some(error),
            },
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.release();
                return Poll::Pending;
            }
            Err(error) => return Poll::Ready(Err(error)),
        }
        Poll::Ready(Ok(()))
    }

    fn processed(&mut self, state: &IoState, handshaking: bool, unsent: usize) {
        self.peer_closed = state.peer_has_closed();
        self.closing |= self.peer_closed;
        let before = std::mem::replace(&mut self.ready, state.plaintext_bytes_to_read());
        let plaintext = self.ready - before;
        let answered = state.tls_bytes_to_write() > unsent;
        if handshaking {
            self.recent.are_dealt_with();
            self.recent.set_overhead(self.suite().map_or(0, Suite::overhead));
        } else if answered {
            self.patience.renegotiations = 1;
            self.recent.are_dealt_with();
        } else if !self.recent.are_data(plaintext) {
            self.may_owe_answer = true;
        }
    }

    fn suite(&self) -> Option<Suite> {
        let suite = self.connection.negotiated_cipher_suite()?.suite();
        Suite::new(self.connection.protocol_version()?, suite)
    }

    /// How much rustls has to send, which it says nowhere else.
    fn unsent(&mut self) -> usize {
        if !self.connection.wants_write() {
            return 0;
        }
        self.connection.process_new_packets().map_or(0, |state| state.tls_bytes_to_write())
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
        if self.recent.is_lost() {
            return Err(MigrationBlock::Fragment);
        }
        if self.recent.key_updates() + self.refreshed > MAX_KEY_UPDATES {
            return Err(MigrationBlock::KeyUpdates);
        }
        self.take_plaintext();
        if !state::fits(negotiated, self.given_back.len(), self.recent.len()) {
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
        let Self { connection, log, recent, patience, given_back, .. } = self;
        let negotiated = Negotiated::of(&connection)?;
        let suite = Suite::new(negotiated.version, negotiated.cipher_suite)?;
        let Secrets { client, server, exporter } = log?.take();
        let extracted = connection.dangerous_extract_secrets().ok()?;
        let mut opener = direction(suite, extracted.rx, client)?;
        let sealer = direction(suite, extracted.tx, server)?;
        let (ciphertext, unopened) = recent.unopened(suite, &opener)?;
        opener.sequence -= unopened;
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
            ciphertext: ciphertext.to_vec(),
        })
    }
}

impl fmt::Debug for Before {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Before").field("failed", &self.failed).finish_non_exhaustive()
    }
}

/// The transport as rustls reads from it.
struct Observed<'a, 'b, IO> {
    io: &'a mut IO,
    cx: &'a mut Context<'b>,
    recent: &'a mut Recent,
}

impl<IO: AsyncRead + Unpin> io::Read for Observed<'_, '_, IO> {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        let most = space.len().min(self.recent.most());
        let mut space = ReadBuf::new(&mut space[..most]);
        match Pin::new(&mut *self.io).poll_read(self.cx, &mut space) {
            Poll::Ready(read) => read?,
            Poll::Pending => return Err(io::ErrorKind::WouldBlock.into()),
        }
        self.recent.read(space.filled());
        Ok(space.filled().len())
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
