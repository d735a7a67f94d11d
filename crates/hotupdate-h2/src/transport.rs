//! Where a layer reads and writes: the client's transport, or what has taken its place.

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What connects the two servers of a connection that has moved while streams were open: one end of a pair of
/// sockets, for example.
pub trait Relay: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Relay for T {}

pub(crate) enum Transport<T> {
    /// To the client.
    Client(T),
    /// To the server that has the client, for the streams that stayed.
    Relay(Box<dyn Relay>),
    /// It is not known yet whether the connection has moved.
    Away,
    /// The connection has moved, or was taken to be closed.
    Taken,
}

impl<T> Transport<T> {
    pub(crate) fn is_client(&self) -> bool {
        matches!(self, Self::Client(_))
    }

    /// That of the client, which is this from here on; `None` if it is not here.
    pub(crate) fn replace(&mut self, with: Self) -> Option<T> {
        match std::mem::replace(self, with) {
            Self::Client(io) => Some(io),
            other => {
                *self = other;
                None
            }
        }
    }
}

impl<T> fmt::Debug for Transport<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client(_) => "Client",
            Self::Relay(_) => "Relay",
            Self::Away => "Away",
            Self::Taken => "Taken",
        })
    }
}

fn taken<T>() -> Poll<io::Result<T>> {
    Poll::Ready(Err(io::Error::other("the connection has moved")))
}

impl<T: AsyncRead + Unpin> AsyncRead for Transport<T> {
    #[inline(always)]
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Client(io) => Pin::new(io).poll_read(cx, buf),
            Self::Relay(io) => Pin::new(io).poll_read(cx, buf),
            Self::Away => Poll::Pending,
            Self::Taken => taken(),
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Transport<T> {
    #[inline]
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Client(io) => Pin::new(io).poll_write(cx, buf),
            Self::Relay(io) => Pin::new(io).poll_write(cx, buf),
            Self::Away => Poll::Pending,
            Self::Taken => taken(),
        }
    }

    #[inline]
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Client(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Self::Relay(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Self::Away => Poll::Pending,
            Self::Taken => taken(),
        }
    }

    #[inline]
    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Client(io) => io.is_write_vectored(),
            _ => false,
        }
    }

    #[inline]
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Client(io) => Pin::new(io).poll_flush(cx),
            Self::Relay(io) => Pin::new(io).poll_flush(cx),
            Self::Away => Poll::Pending,
            Self::Taken => taken(),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Client(io) => Pin::new(io).poll_shutdown(cx),
            Self::Relay(io) => Pin::new(io).poll_shutdown(cx),
            Self::Away => Poll::Pending,
            Self::Taken => Poll::Ready(Ok(())),
        }
    }
}
