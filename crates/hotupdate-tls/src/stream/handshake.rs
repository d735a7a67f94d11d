//! The handshake of a connection that may migrate. It is rustls's; what follows it is the record layer's.
//!
//! rustls is given one record at a time, so that it never sees one that comes after the handshake: it would
//! not give back what it has read and not dealt with.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::{ConnectionTrafficSecrets, ServerConnection};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use zeroize::Zeroizing;

use super::accept::no_result;
use super::key_log::{SecretLog, Secrets};
use super::migratable::Migratable;
use crate::input::{Header, Input, MAX_CIPHERTEXT};
use crate::negotiated::Negotiated;
use crate::protection::{HEADER, Protection};
use crate::records::Records;
use crate::secret::Secret;
use crate::suite::{Suite, Version};

/// Most that clients say in a handshake is shorter.
const READ: usize = 2048;

pub(super) struct Handshake<IO> {
    io: IO,
    connection: ServerConnection,
    log: Arc<SecretLog>,
    /// What has arrived and was not given to rustls.
    input: Input,
    /// The most plaintext of a record, by the configuration.
    max_plaintext: usize,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Handshake<IO> {
    pub(super) fn new(
        io: IO,
        connection: ServerConnection,
        log: Arc<SecretLog>,
        max_plaintext: usize,
    ) -> Self {
        Self { io, connection, log, input: Input::default(), max_plaintext }
    }

    pub(super) async fn shake_hands(mut self) -> io::Result<Migratable<IO>> {
        poll_fn(|cx| self.poll(cx)).await?;
        self.finish()
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_send(cx))?;
            if !self.connection.is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            match self.next_record() {
                Ok(true) => {}
                Ok(false) => ready!(self.poll_fill(cx))?,
                Err(error) => {
                    // The client gets the alert, if the transport takes it.
                    let _ = self.poll_send(cx);
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
                }
            }
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.connection.wants_write() {
            let mut transport = Writer { io: &mut self.io, cx: &mut *cx };
            match self.connection.write_tls(&mut transport) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => sent?,
            };
        }
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut bytes = [const { MaybeUninit::uninit() }; READ];
        let mut bytes = ReadBuf::uninit(&mut bytes);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut bytes))?;
        if bytes.filled().is_empty() {
            let why = "the client left during the handshake";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, why)));
        }
        self.input.receive(bytes.filled());
        Poll::Ready(Ok(()))
    }

    /// Gives rustls the next record. `false` if there is no whole one.
    fn next_record(&mut self) -> Result<bool, rustls::Error> {
        let Some(Header { typ, major, length }) = self.input.header() else { return Ok(false) };
        // What cannot become a record is rustls's to refuse.
        let possible = (20..=24).contains(&typ) && major == 3 && length <= MAX_CIPHERTEXT;
        let length = if possible { HEADER + length } else { self.input.ciphertext().len() };
        let Some(record) = self.input.take(length) else { return Ok(false) };
        let mut rest = &*record.bytes;
        while !rest.is_empty() {
            let taken = self.connection.read_tls(&mut rest);
            taken.map_err(|error| rustls::Error::General(error.to_string()))?;
            self.connection.process_new_packets()?;
        }
        Ok(true)
    }

    fn finish(self) -> io::Result<Migratable<IO>> {
        let Self { io, connection, log, input, max_plaintext } = self;
        let kind = connection.handshake_kind();
        let negotiated = Negotiated::of(&connection).ok_or_else(no_result)?;
        let suite = Suite::new(negotiated.version, negotiated.cipher_suite).ok_or_else(no_result)?;
        let Secrets { client, server, exporter } = log.take();
        let extracted = connection.dangerous_extract_secrets().map_err(io::Error::other)?;
        let opener = direction(suite, extracted.rx, client).ok_or_else(other_secrets)?;
        let sealer = direction(suite, extracted.tx, server).ok_or_else(other_secrets)?;
        let records = Records::after_handshake(
            suite,
            Arc::new(negotiated),
            [opener, sealer],
            exporter,
            max_plaintext,
            input.ciphertext(),
        );
        Ok(Migratable::new(io, records, kind))
    }
}

/// No version of rustls 0.23 does this.
fn other_secrets() -> io::Error {
    io::Error::other("rustls has other secrets than it has logged")
}

/// A direction with the key that rustls has said. In TLS 1.3 it is made from the secret that it has `logged`.
fn direction(
    suite: Suite,
    (sequence, extracted): (u64, ConnectionTrafficSecrets),
    logged: Secret,
) -> Option<Protection> {
    use ConnectionTrafficSecrets::{Aes128Gcm, Aes256Gcm, Chacha20Poly1305};
    let (Aes128Gcm { key, iv } | Aes256Gcm { key, iv } | Chacha20Poly1305 { key, iv }) = extracted else {
        return None;
    };
    let (key, iv) = (Secret::new(key.as_ref()), Zeroizing::new(iv.as_ref().try_into().ok()?));
    let secret = match suite.version {
        Version::Tls12 => key.clone(),
        Version::Tls13 => logged,
    };
    Protection::with_key(suite, secret, &key, iv, sequence)
}

/// The transport as rustls writes to it.
struct Writer<'a, 'b, IO> {
    io: &'a mut IO,
    cx: &'a mut Context<'b>,
}

impl<IO: AsyncWrite + Unpin> Writer<'_, '_, IO> {
    fn now<T>(poll: Poll<io::Result<T>>) -> io::Result<T> {
        match poll {
            Poll::Ready(done) => done,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl<IO: AsyncWrite + Unpin> io::Write for Writer<'_, '_, IO> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Self::now(Pin::new(&mut *self.io).poll_write(self.cx, bytes))
    }

    fn write_vectored(&mut self, pieces: &[io::IoSlice<'_>]) -> io::Result<usize> {
        Self::now(Pin::new(&mut *self.io).poll_write_vectored(self.cx, pieces))
    }

    fn flush(&mut self) -> io::Result<()> {
        Self::now(Pin::new(&mut *self.io).poll_flush(self.cx))
    }
}
