//! A TLS connection of a server over a transport of tokio.

mod accept;
mod handshake;
mod key_log;
mod migratable;
mod staying;

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::HandshakeKind;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::MigrationBlock;
use crate::negotiated::Negotiated;
use crate::records::Records;
use crate::state::{State, StateError};

pub use accept::Acceptor;
use migratable::Migratable;
use staying::Staying;

/// A connection of a client, as [`Acceptor::accept`] yields it, or as it arrived from another process.
///
/// rustls shakes hands. A connection that [may migrate](Acceptor::migratable) goes on in this crate's
/// [`Records`](crate::Records) from there, before and after [`into_state`](Self::into_state) and
/// [`from_state`](Self::from_state), in whichever process. Any other one stays in rustls. The client sees no
/// difference, nor does the application.
///
/// Reading at the end returns 0 bytes if the client has said close_notify, and
/// [`UnexpectedEof`](io::ErrorKind::UnexpectedEof) if it has not: what it said may be cut off. Shutting down
/// says close_notify; the client may go on sending after it.
#[derive(Debug)]
pub struct TlsStream<IO>(Stream<IO>);

#[derive(Debug)]
enum Stream<IO> {
    Staying(Staying<IO>),
    Migratable(Migratable<IO>),
}

/// A connection that stays in its process, as it was.
#[derive(Debug, thiserror::Error)]
#[error("the TLS connection cannot migrate: {why}")]
pub struct NotMigrated<IO> {
    /// It goes on as before.
    pub stream: TlsStream<IO>,
    /// What keeps it.
    pub why: MigrationBlock,
}

impl<IO> TlsStream<IO> {
    /// Goes on where another process stopped, or this one, if the migration was refused. What was not sent
    /// there is sent with the next write or flush.
    ///
    /// # Errors
    ///
    /// If the state is damaged.
    pub fn from_state(io: IO, state: State) -> Result<Self, StateError> {
        Ok(Self(Stream::Migratable(Migratable::new(io, Records::new(state)?, None))))
    }

    /// Takes the connection apart: its transport, and all that another process needs to go on.
    ///
    /// What was written and not sent travels along, if it was not flushed.
    ///
    /// # Errors
    ///
    /// Returns the stream as it was if it cannot migrate now.
    pub fn into_state(self) -> Result<(IO, State), NotMigrated<IO>> {
        match self.0 {
            Stream::Staying(stream) => {
                let why = stream.why();
                Err(NotMigrated { stream: Self(Stream::Staying(stream)), why })
            }
            Stream::Migratable(stream) => stream.into_state().map_err(|(stream, why)| {
                let stream = Self(Stream::Migratable(stream));
                NotMigrated { stream, why }
            }),
        }
    }

    /// What the handshake has led to.
    pub fn negotiated(&self) -> &Arc<Negotiated> {
        match &self.0 {
            Stream::Staying(stream) => stream.negotiated(),
            Stream::Migratable(stream) => stream.records.negotiated(),
        }
    }

    /// Whether the client has shaken hands in full or has resumed a session. `None` after a migration.
    pub fn handshake_kind(&self) -> Option<HandshakeKind> {
        match &self.0 {
            Stream::Staying(stream) => stream.connection().handshake_kind(),
            Stream::Migratable(stream) => stream.handshake_kind,
        }
    }

    /// What keeps the connection in this process, if anything does.
    ///
    /// # Errors
    ///
    /// With the reason.
    pub fn can_migrate(&self) -> Result<(), MigrationBlock> {
        match &self.0 {
            Stream::Staying(stream) => Err(stream.why()),
            Stream::Migratable(stream) => stream.records.can_migrate(),
        }
    }

    /// How many bytes were written and are not sent: so many travel, if the connection migrates now.
    pub fn unsent(&self) -> usize {
        match &self.0 {
            Stream::Staying(_) => 0,
            Stream::Migratable(stream) => stream.records.output().len(),
        }
    }

    /// Plaintext that was read and is not wanted: the next read returns it again, here or in another process.
    pub fn give_back(&mut self, plaintext: &[u8]) {
        match &mut self.0 {
            Stream::Staying(stream) => stream.give_back(plaintext),
            Stream::Migratable(stream) => stream.records.give_back(plaintext),
        }
    }

    /// Keying material that only client and server know (RFC 5705, and RFC 8446, section 7.5). It is the same
    /// before and after a migration.
    ///
    /// # Errors
    ///
    /// If output or label are too long. Where connections may migrate, also if the exporter was not
    /// [kept](Acceptor::keep_exporter), and in TLS 1.2, whose exporter is made of the master secret: that must
    /// not travel, for with it all that was said before could be read.
    pub fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &str,
        context: Option<&[u8]>,
    ) -> io::Result<()> {
        match &self.0 {
            Stream::Staying(stream) => stream.export(output, label, context),
            Stream::Migratable(stream) => stream.records.export(output, label, context).ok_or_else(|| {
                io::Error::new(io::ErrorKind::Unsupported, "the connection has not kept such an exporter")
            }),
        }
    }

    /// Changes the key for what is sent from here on, and asks the client for the same (TLS 1.3). The layer
    /// does that by itself before a key is used up.
    ///
    /// # Errors
    ///
    /// If the connection has failed or is closed, or has no TLS 1.3.
    pub fn refresh_traffic_keys(&mut self) -> io::Result<()> {
        match &mut self.0 {
            Stream::Staying(stream) => stream.refresh_traffic_keys(),
            Stream::Migratable(stream) => {
                let updated = stream.records.update_keys();
                updated.then_some(()).ok_or_else(|| io::ErrorKind::Unsupported.into())
            }
        }
    }

    /// The transport.
    pub fn get_ref(&self) -> &IO {
        match &self.0 {
            Stream::Staying(stream) => stream.io(),
            Stream::Migratable(stream) => &stream.io,
        }
    }

    /// The transport. Reading from it or writing to it breaks the connection.
    pub fn get_mut(&mut self) -> &mut IO {
        match &mut self.0 {
            Stream::Staying(stream) => stream.io_mut(),
            Stream::Migratable(stream) => &mut stream.io,
        }
    }

    /// The transport, without the connection: whatever was read from it is lost.
    pub fn into_inner(self) -> IO {
        match self.0 {
            Stream::Staying(stream) => stream.into_io(),
            Stream::Migratable(stream) => stream.io,
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> TlsStream<IO> {
    /// Whether the client has said something that was not read: ready with `true` then, and with `false` when
    /// it has closed its side. Nothing else is speech, though it arrives: an alert, a KeyUpdate, half a
    /// record.
    ///
    /// A look at the socket cannot say this, for what was decrypted is no more in it.
    ///
    /// # Errors
    ///
    /// As reading.
    pub fn poll_spoken(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let plaintext = match &mut self.0 {
            Stream::Staying(stream) => stream.poll_plaintext(cx),
            Stream::Migratable(stream) => stream.poll_plaintext(cx),
        };
        plaintext.map_ok(|plaintext| !plaintext.is_empty())
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<IO> {
    #[inline]
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Stream::Staying(stream) => stream.poll_read(cx, buf),
            Stream::Migratable(stream) => stream.poll_read(cx, buf),
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<IO> {
    #[inline]
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Stream::Staying(stream) => stream.inner().poll_write(cx, buf),
            Stream::Migratable(stream) => stream.poll_write(cx, &[IoSlice::new(buf)]),
        }
    }

    #[inline]
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Stream::Staying(stream) => stream.inner().poll_write_vectored(cx, bufs),
            Stream::Migratable(stream) => stream.poll_write(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    #[inline]
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Stream::Staying(stream) => stream.inner().poll_flush(cx),
            Stream::Migratable(stream) => stream.poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Stream::Staying(stream) => stream.inner().poll_shutdown(cx),
            Stream::Migratable(stream) => stream.poll_shutdown(cx),
        }
    }
}
