//! What hyper reads from and writes to: a connection, and before it the bytes that were read already.
//!
//! Deliberately absent: deciding anything. It tells the [`Pulse`] what moves.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::pulse::Pulse;

/// A connection whose first bytes can be given back.
#[derive(Debug)]
pub(crate) struct Io<T> {
    unread: Bytes,
    inner: T,
    pulse: Arc<Pulse>,
}

impl<T> Io<T> {
    pub(crate) fn new(inner: T, pulse: Arc<Pulse>) -> Self {
        Self { unread: Bytes::new(), inner, pulse }
    }

    /// The next read returns these bytes.
    pub(crate) fn give_back(&mut self, bytes: Bytes) {
        if self.unread.is_empty() {
            self.unread = bytes;
        } else if !bytes.is_empty() {
            let mut both = BytesMut::from(bytes);
            both.extend_from_slice(&self.unread);
            self.unread = both.freeze();
        }
    }

    pub(crate) fn get(&self) -> &T {
        &self.inner
    }

    pub(crate) fn into_inner(self) -> T {
        self.inner
    }

    /// Also the bytes that were given back and nobody has read since.
    pub(crate) fn into_parts(self) -> (T, Bytes, Arc<Pulse>) {
        let Self { unread, inner, pulse } = self;
        (inner, unread, pulse)
    }

    /// The same with something else around the connection.
    pub(crate) fn map<U>(self, wrap: impl FnOnce(T) -> U) -> Io<U> {
        let Self { unread, inner, pulse } = self;
        Io { unread, inner: wrap(inner), pulse }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Io<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.unread.has_remaining() {
            let n = self.unread.len().min(buf.remaining());
            buf.put_slice(&self.unread.split_to(n));
            self.pulse.bytes_read();
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.pulse.bytes_read();
        }
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Io<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.pulse.bytes_written();
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.pulse.bytes_written();
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        if flushed.is_ready() {
            self.pulse.flushed();
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn bytes_given_back_come_first_and_in_order() {
        let (mut client, server) = tokio::io::duplex(64);
        client.write_all(b"last").await.unwrap();
        drop(client);
        let mut io = Io::new(server, Arc::default());
        io.give_back(Bytes::from_static(b"middle "));
        io.give_back(Bytes::from_static(b"first "));
        io.give_back(Bytes::new());
        let mut all = String::new();
        io.read_to_string(&mut all).await.unwrap();
        assert_eq!(all, "first middle last");
    }

    #[tokio::test]
    async fn a_small_buffer_gets_what_fits() {
        let (_client, server) = tokio::io::duplex(64);
        let mut io = Io::new(server, Arc::default());
        io.give_back(Bytes::from_static(b"abc"));
        let mut two = [0; 2];
        assert_eq!(io.read(&mut two).await.unwrap(), 2);
        assert_eq!(io.read(&mut two).await.unwrap(), 1);
        assert_eq!(two[0], b'c');
    }
}
