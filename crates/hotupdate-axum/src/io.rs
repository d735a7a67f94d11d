//! What hyper reads from and writes to: a connection, and before it the bytes that were read already.
//!
//! Deliberately absent: deciding anything. It reports what is read and written.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use hotupdate::connections::ConnectionActivity;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How much is read of what is held back: to see whether the client closes, more is not needed.
const GLANCE: usize = 64;

/// A connection whose first bytes can be given back.
#[derive(Debug)]
pub(crate) struct Io<T> {
    unread: Bytes,
    inner: T,
    activity: ConnectionActivity,
}

impl<T> Io<T> {
    pub(crate) fn new(inner: T, activity: ConnectionActivity) -> Self {
        Self { unread: Bytes::new(), inner, activity }
    }

    /// The next read returns these bytes.
    pub(crate) fn give_back(&mut self, bytes: Bytes) {
        if bytes.is_empty() {
            // The buffer that they are in would be kept.
        } else if self.unread.is_empty() {
            self.unread = bytes;
        } else {
            let mut both = BytesMut::from(bytes);
            both.extend_from_slice(&self.unread);
            self.unread = both.freeze();
        }
    }

    pub(crate) fn into_inner(self) -> T {
        self.inner
    }

    /// Also the bytes that were given back and not read since.
    pub(crate) fn into_parts(self) -> (T, Bytes, ConnectionActivity) {
        let Self { unread, inner, activity } = self;
        (inner, unread, activity)
    }
}

impl<T: AsyncRead + Unpin> Io<T> {
    /// Ready when the client closes. What it sends instead waits in `unread`; the code that lets it through
    /// polls again.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.unread.is_empty() {
            let mut bytes = [0; GLANCE];
            let mut glance = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut self.inner).poll_read(cx, &mut glance))?;
            if glance.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.unread = Bytes::copy_from_slice(glance.filled());
        }
        Poll::Pending
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Io<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.activity.holds_back() {
            return self.poll_end(cx);
        }
        if self.unread.has_remaining() {
            let n = self.unread.len().min(buf.remaining());
            buf.put_slice(&self.unread[..n]);
            match n == self.unread.len() {
                // The buffer that they are in is not kept.
                true => self.unread = Bytes::new(),
                false => self.unread.advance(n),
            }
            self.activity.bytes_read();
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.activity.bytes_read();
        }
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Io<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.activity.bytes_written();
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.activity.bytes_written();
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        if flushed.is_ready() {
            self.activity.flushed();
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Of a connection of a process that is not there.
    fn activity() -> ConnectionActivity {
        let (_, stream) = tokio::net::UnixStream::pair().unwrap();
        hotupdate::testing::Table::new().accept("test", stream).activity()
    }

    #[tokio::test]
    async fn bytes_given_back_come_first_and_in_order() {
        let (mut client, server) = tokio::io::duplex(64);
        client.write_all(b"last").await.unwrap();
        drop(client);
        let mut io = Io::new(server, activity());
        io.give_back(Bytes::from_static(b"middle "));
        io.give_back(Bytes::from_static(b"first "));
        io.give_back(Bytes::new());
        let mut all = String::new();
        io.read_to_string(&mut all).await.unwrap();
        assert_eq!(all, "first middle last");
    }

    /// A connection may be silent for long, and what hyper reads into is 8 KiB.
    #[tokio::test]
    async fn no_buffer_is_kept_of_which_nothing_is_left() {
        let buffer = Bytes::from(vec![7; 8]);
        let mut io = Io::new(tokio::io::duplex(64).1, activity());
        io.give_back(buffer.slice(8..));
        assert!(buffer.is_unique(), "nothing was given back");
        io.give_back(buffer.clone());
        for half in 0..2 {
            assert!(!buffer.is_unique(), "{half} halves were read");
            io.read_exact(&mut [0; 4]).await.unwrap();
        }
        assert!(buffer.is_unique());
    }

    #[tokio::test]
    async fn what_is_held_back_is_kept_and_the_end_is_told() {
        let (mut client, server) = tokio::io::duplex(256);
        let activity = activity();
        let _request = activity.begin_request();
        let mut io = Io::new(server, activity.clone());
        let message = [7; 2 * GLANCE];
        client.write_all(&message).await.unwrap();
        let _ = activity.begin_poll(true);
        let mut bytes = [0; 4 * GLANCE];
        assert!(io.read(&mut bytes).now_or_never().is_none());
        assert!(io.read(&mut bytes).now_or_never().is_none(), "and no more of it");
        let _ = activity.begin_poll(false);
        io.read_exact(&mut bytes[..2 * GLANCE]).await.unwrap();
        assert_eq!(bytes[..2 * GLANCE], message);
        let _ = activity.begin_poll(true);
        assert!(io.read(&mut bytes).now_or_never().is_none());
        drop(client);
        assert_eq!(io.read(&mut bytes).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_small_buffer_gets_what_fits() {
        let (_client, server) = tokio::io::duplex(64);
        let mut io = Io::new(server, activity());
        io.give_back(Bytes::from_static(b"abc"));
        let mut two = [0; 2];
        assert_eq!(io.read(&mut two).await.unwrap(), 2);
        assert_eq!(io.read(&mut two).await.unwrap(), 1);
        assert_eq!(two[0], b'c');
    }
}
