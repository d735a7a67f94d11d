//! A connection that stays in its process: rustls has it, by tokio-rustls.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::ServerConnection;
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;

use crate::MigrationBlock;
use crate::negotiated::Negotiated;

#[derive(Debug)]
pub(super) struct Staying<IO> {
    stream: Box<TlsStream<IO>>,
    negotiated: Arc<Negotiated>,
    /// Plaintext that the application has given back.
    given_back: Vec<u8>,
    why: MigrationBlock,
}

impl<IO> Staying<IO> {
    /// `None` if the handshake is not over.
    pub(super) fn new(stream: TlsStream<IO>, why: MigrationBlock) -> Option<Self> {
        let negotiated = Arc::new(Negotiated::of(stream.get_ref().1)?);
        Some(Self { stream: Box::new(stream), negotiated, given_back: Vec::new(), why })
    }

    pub(super) fn negotiated(&self) -> &Arc<Negotiated> {
        &self.negotiated
    }

    pub(super) fn why(&self) -> MigrationBlock {
        self.why
    }

    pub(super) fn connection(&self) -> &ServerConnection {
        self.stream.get_ref().1
    }

    pub(super) fn io(&self) -> &IO {
        self.stream.get_ref().0
    }

    pub(super) fn io_mut(&mut self) -> &mut IO {
        self.stream.get_mut().0
    }

    pub(super) fn into_io(self) -> IO {
        self.stream.into_inner().0
    }

    #[inline]
    pub(super) fn inner(&mut self) -> Pin<&mut TlsStream<IO>>
    where
        IO: Unpin,
    {
        Pin::new(&mut self.stream)
    }

    pub(super) fn give_back(&mut self, plaintext: &[u8]) {
        self.given_back.splice(..0, plaintext.iter().copied());
    }

    pub(super) fn export(&self, output: &mut [u8], label: &str, context: Option<&[u8]>) -> io::Result<()> {
        let exported = self.connection().export_keying_material(output, label.as_bytes(), context);
        exported.map(drop).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
    }

    pub(super) fn refresh_traffic_keys(&mut self) -> io::Result<()> {
        self.stream.get_mut().1.refresh_traffic_keys().map_err(io::Error::other)
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Staying<IO> {
    /// Not empty, unless the client has closed its side.
    pub(super) fn poll_plaintext(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        if self.given_back.is_empty() {
            Pin::new(&mut *self.stream).poll_fill_buf(cx)
        } else {
            Poll::Ready(Ok(&self.given_back))
        }
    }

    #[inline]
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.given_back.is_empty() {
            return self.inner().poll_read(cx, buf);
        }
        let count = self.given_back.len().min(buf.remaining());
        buf.put_slice(&self.given_back[..count]);
        self.given_back.drain(..count);
        Poll::Ready(Ok(()))
    }
}
