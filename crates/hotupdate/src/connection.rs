//! A connection that was accepted: reads and writes, and stands in the live table as long as it is open.
//!
//! Deliberately absent: protocols.

use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::address::Address;
use crate::connections::{Activity, Tracker};
use crate::drain::Drain;

/// The kernel's side of a connection. Shared with the live table, which shuts it down at the deadline of a drain.
#[derive(Debug)]
pub(crate) enum Socket {
    /// TCP.
    Tcp(TcpStream),
    /// Unix stream.
    Unix(UnixStream),
}

/// One accepted connection.
///
/// It stands in the live table until it is dropped. At the deadline of a drain its socket is shut down: reads return
/// end-of-file then, and writes fail.
#[derive(Debug)]
pub struct Connection {
    socket: Arc<Socket>,
    tracker: Tracker,
}

impl Connection {
    pub(crate) fn new(socket: Arc<Socket>, tracker: Tracker) -> Self {
        Self { socket, tracker }
    }

    /// The connection's number, unique in this process.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.tracker.id()
    }

    /// The client's address.
    #[must_use]
    pub fn peer(&self) -> &Address {
        self.tracker.peer()
    }

    /// The address that the client connected to.
    #[must_use]
    pub fn local(&self) -> &Address {
        self.tracker.local()
    }

    /// Records what the connection does.
    #[must_use]
    pub fn activity(&self) -> Activity {
        self.tracker.activity()
    }

    /// What the process wants of this connection.
    #[must_use]
    pub fn drain(&self) -> Drain {
        self.tracker.drain()
    }

    /// Whether bytes wait to be read (or the end of the stream), without reading them.
    #[must_use]
    pub fn is_readable(&self) -> bool {
        let mut byte = [std::mem::MaybeUninit::uninit()];
        match &*self.socket {
            Socket::Tcp(stream) => SockRef::from(stream).peek(&mut byte).is_ok(),
            Socket::Unix(stream) => SockRef::from(stream).peek(&mut byte).is_ok(),
        }
    }
}

impl Socket {
    pub(crate) fn shut_down(&self) {
        // An error means that the client was faster.
        let _ = match self {
            Self::Tcp(stream) => SockRef::from(stream).shutdown(Shutdown::Both),
            Self::Unix(stream) => SockRef::from(stream).shutdown(Shutdown::Both),
        };
    }

    fn poll_read(&self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let read = match self {
                Self::Tcp(stream) => {
                    ready!(stream.poll_read_ready(cx))?;
                    stream.try_read_buf(buf)
                }
                Self::Unix(stream) => {
                    ready!(stream.poll_read_ready(cx))?;
                    stream.try_read_buf(buf)
                }
            };
            match read {
                Ok(_) => return Poll::Ready(Ok(())),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn poll_write(&self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        loop {
            let written = match self {
                Self::Tcp(stream) => {
                    ready!(stream.poll_write_ready(cx))?;
                    stream.try_write_vectored(bufs)
                }
                Self::Unix(stream) => {
                    ready!(stream.poll_write_ready(cx))?;
                    stream.try_write_vectored(bufs)
                }
            };
            match written {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.socket.poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.socket.poll_write(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.socket.poll_write(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = match &*self.socket {
            Socket::Tcp(stream) => SockRef::from(stream).shutdown(Shutdown::Write),
            Socket::Unix(stream) => SockRef::from(stream).shutdown(Shutdown::Write),
        };
        // As tokio does: a client that is gone already is not an error of ours.
        Poll::Ready(done.or_else(|error| match error.kind() {
            io::ErrorKind::NotConnected => Ok(()),
            _ => Err(error),
        }))
    }
}
