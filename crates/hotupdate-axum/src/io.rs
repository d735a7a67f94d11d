//! What hyper reads from and writes to: a connection, and before it the bytes that were read already.
//!
//! Deliberately absent: deciding anything. It reports what is read and written.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use hotupdate::connections::ConnectionActivity;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};

/// How much is read of what is held back: to see whether the client closes, more is not needed.
const GLANCE: usize = 64;

/// A connection whose first bytes can be given back.
#[derive(Debug)]
pub(crate) struct Io<T> {
    unread: Bytes,
    inner: T,
    activity: ConnectionActivity,
    /// The client has said that nothing more comes.
    has_ended: bool,
    /// The client has been told so.
    is_shut: bool,
}

impl<T> Io<T> {
    pub(crate) fn new(inner: T, activity: ConnectionActivity) -> Self {
        Self { unread: Bytes::new(), inner, activity, has_ended: false, is_shut: false }
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

    /// Also the bytes that were given back and not read since.
    pub(crate) fn into_parts(self) -> (T, Bytes, ConnectionActivity) {
        let Self { unread, inner, activity, has_ended: _, is_shut: _ } = self;
        (inner, unread, activity)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Io<T> {
    /// Tells the client that nothing more comes, and reads what it still sends, as far as neither has been
    /// done.
    pub(crate) async fn end(self) -> io::Result<()> {
        let Self { mut inner, has_ended, is_shut, .. } = self;
        if !is_shut {
            inner.shutdown().await?;
        }
        let mut waste = [0; 1024];
        while !has_ended && inner.read(&mut waste).await? > 0 {}
        Ok(())
    }
}

impl<T: AsyncRead + Unpin> Io<T> {
    /// Ready when the client closes. What it sends instead waits in `unread`; the code that lets it through
    /// polls again.
    #[cold]
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.unread.is_empty() {
            let mut bytes = [0; GLANCE];
            let mut glance = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut self.inner).poll_read(cx, &mut glance))?;
            if glance.filled().is_empty() {
                self.has_ended = true;
                return Poll::Ready(Ok(()));
            }
            self.unread = Bytes::copy_from_slice(glance.filled());
        }
        Poll::Pending
    }
}

impl<T> Io<T> {
    /// Bytes that were given back are there.
    #[cold]
    fn read_again(&mut self, buf: &mut ReadBuf<'_>) {
        let n = self.unread.len().min(buf.remaining());
        buf.put_slice(&self.unread[..n]);
        match n == self.unread.len() {
            // The buffer that they are in is not kept.
            true => self.unread = Bytes::new(),
            false => self.unread.advance(n),
        }
        self.activity.bytes_read();
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Io<T> {
    // Into the code of the caller: most reads find nothing.
    #[inline(always)]
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.activity.holds_back() {
            return self.poll_end(cx);
        }
        if self.unread.has_remaining() {
            self.read_again(buf);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        if buf.filled().len() > before {
            self.activity.bytes_read();
        } else if buf.remaining() > 0 {
            self.has_ended = true;
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Io<T> {
    #[inline]
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.activity.bytes_written();
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    #[inline]
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.activity.bytes_written();
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    #[inline]
    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    #[inline]
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        if flushed.is_ready() {
            self.activity.flushed();
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.inner).poll_shutdown(cx))?;
        self.is_shut = true;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

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

    /// So a connection costs no system call that hyper has made already.
    #[tokio::test]
    async fn the_end_is_told_once_and_read_once() {
        #[derive(Default)]
        struct Counts {
            reads: usize,
            shutdowns: usize,
        }
        impl AsyncRead for Counts {
            fn poll_read(
                mut self: Pin<&mut Self>,
                _: &mut Context<'_>,
                _: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                self.reads += 1;
                Poll::Ready(Ok(()))
            }
        }
        impl AsyncWrite for Counts {
            fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
                unreachable!("nothing is written")
            }

            fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(Ok(()))
            }

            fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.shutdowns += 1;
                Poll::Ready(Ok(()))
            }
        }
        for (has_ended, is_shut) in [(false, false), (false, true), (true, false), (true, true)] {
            let mut counts = Counts::default();
            let mut io = Io::new(&mut counts, activity());
            if has_ended {
                assert_eq!(io.read(&mut [0]).await.unwrap(), 0);
            }
            if is_shut {
                io.shutdown().await.unwrap();
            }
            assert!(io.read(&mut []).await.unwrap() == 0 && io.has_ended == has_ended, "no room is no end");
            io.end().await.unwrap();
            assert_eq!((counts.reads, counts.shutdowns), (2, 1));
        }
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
