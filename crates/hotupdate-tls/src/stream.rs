//! A TLS connection of a server over a transport of tokio.

mod accept;
mod before;
mod engine;
mod key_log;
mod recent;
mod transport;

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::HandshakeKind;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::MigrationBlock;
use crate::negotiated::Negotiated;
use crate::records::{Peek, Records};
use crate::state::{State, StateError};

pub use accept::Acceptor;
use engine::Engine;
use transport::Transport;

/// A connection of a client, as [`Acceptor::accept`] yields it, or as it arrived from another process.
///
/// It begins in rustls. After [`into_state`](Self::into_state) and [`from_state`](Self::from_state), in
/// whichever process, it goes on in this crate's [`Records`]. The client sees no difference, nor does the
/// application.
///
/// Reading at the end returns 0 bytes if the client has said close_notify, and
/// [`UnexpectedEof`](io::ErrorKind::UnexpectedEof) if it has not: what it said may be cut off. Shutting down
/// says close_notify; the client may go on sending after it.
#[derive(Debug)]
pub struct TlsStream<IO> {
    transport: Transport<IO>,
    negotiated: Arc<Negotiated>,
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
    /// Goes on where another process stopped, or this one, if the migration was refused.
    ///
    /// # Errors
    ///
    /// If the state is damaged.
    pub fn from_state(io: IO, state: State) -> Result<Self, StateError> {
        let records = Records::new(state)?;
        let negotiated = records.negotiated().clone();
        Ok(Self { transport: Transport::new(io, Engine::Records(Box::new(records))), negotiated })
    }

    /// Takes the connection apart: its transport, and all that another process needs to go on.
    ///
    /// Flush it first: the answer to a client's KeyUpdate waits for that.
    ///
    /// # Errors
    ///
    /// Returns the stream as it was if it cannot migrate now.
    pub fn into_state(self) -> Result<(IO, State), NotMigrated<IO>> {
        let Self { transport, negotiated } = self;
        transport
            .into_state(&negotiated)
            .map_err(|(transport, why)| NotMigrated { stream: Self { transport, negotiated }, why })
    }

    /// What the handshake has led to.
    pub fn negotiated(&self) -> &Arc<Negotiated> {
        &self.negotiated
    }

    /// Whether the client has shaken hands in full or has resumed a session. `None` after a migration.
    pub fn handshake_kind(&self) -> Option<HandshakeKind> {
        match &self.transport.engine {
            Engine::Rustls(before) => before.connection.handshake_kind(),
            Engine::Records(_) | Engine::Lost => None,
        }
    }

    /// How many processes the connection has left.
    pub fn migrations(&self) -> u32 {
        match &self.transport.engine {
            Engine::Records(records) => records.migrations(),
            Engine::Rustls(_) | Engine::Lost => 0,
        }
    }

    /// Plaintext that was read and is not wanted: the next read returns it again, here or in another process.
    pub fn give_back(&mut self, plaintext: &[u8]) {
        self.transport.engine.give_back(plaintext);
    }

    /// Keying material that only client and server know (RFC 5705, and RFC 8446, section 7.5). It is the same
    /// before and after a migration.
    ///
    /// # Errors
    ///
    /// If output or label are too long; after a migration also if the exporter was not
    /// [kept](Acceptor::keep_exporter), and in TLS 1.2, where nothing that may travel leads to it.
    pub fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &str,
        context: Option<&[u8]>,
    ) -> io::Result<()> {
        self.transport.engine.export(output, label, context)
    }

    /// Changes the key for what is sent from here on, and asks the client for the same (TLS 1.3). The layer
    /// does that by itself before a key is used up.
    ///
    /// # Errors
    ///
    /// If the connection has failed or is closed, or has no TLS 1.3.
    pub fn refresh_traffic_keys(&mut self) -> io::Result<()> {
        self.transport.engine.refresh_traffic_keys()
    }

    /// The transport.
    pub fn get_ref(&self) -> &IO {
        &self.transport.io
    }

    /// The transport. Reading from it or writing to it breaks the connection.
    pub fn get_mut(&mut self) -> &mut IO {
        &mut self.transport.io
    }

    /// The transport, without the connection: whatever was read from it is lost.
    pub fn into_inner(self) -> IO {
        self.transport.io
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
        loop {
            match self.transport.engine.peek() {
                Ok(Peek::Plaintext(_)) => return Poll::Ready(Ok(true)),
                Ok(Peek::Closed) => return Poll::Ready(Ok(false)),
                Ok(Peek::Wanting) => ready!(self.transport.poll_exchange(cx))?,
                Err(error) => return self.transport.fail(cx, error),
            }
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let transport = &mut self.transport;
        loop {
            match transport.engine.peek() {
                Ok(Peek::Plaintext(plaintext)) => {
                    let count = plaintext.len().min(buf.remaining());
                    buf.put_slice(&plaintext[..count]);
                    transport.engine.consume(count);
                    return Poll::Ready(Ok(()));
                }
                Ok(Peek::Closed) => return Poll::Ready(Ok(())),
                Ok(Peek::Wanting) => ready!(transport.poll_exchange(cx))?,
                Err(error) => return transport.fail(cx, error),
            }
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let transport = &mut self.transport;
        let empty = bufs.iter().all(|buf| buf.is_empty());
        loop {
            match transport.engine.write(bufs) {
                Ok(0) if !empty => ready!(transport.poll_send(cx))?,
                Ok(count) => {
                    // What cannot be sent now is sent by the next write or flush.
                    let _: Poll<()> = transport.poll_send(cx)?;
                    return Poll::Ready(Ok(count));
                }
                Err(error) => return transport.fail(cx, error),
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.transport.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.transport.engine.close();
        ready!(self.transport.poll_flush(cx))?;
        Pin::new(&mut self.transport.io).poll_shutdown(cx)
    }
}
