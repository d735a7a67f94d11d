//! The pair of sockets between two processes of which one has a connection, and the other one serves what was
//! open on it.
//!
//! Deliberately absent: what is said over it, which is a matter of the protocol.

use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

use super::connection::Connection;
use super::socket::{Reader, Socket, Stream};
use crate::platform::{AsFd as _, OwnedFd, UnixStream, pair};

/// The end of the process that has the connection; the other end is a [`Connection`] that goes on.
#[doc(hidden)]
#[derive(Debug)]
pub struct Relay {
    reader: Reader,
    socket: Socket,
}

/// For a connection that is about to leave: it takes two descriptors more.
#[doc(hidden)]
#[derive(Debug)]
pub struct RelayPair {
    near: Stream,
    far: OwnedFd,
}

/// The pair of a connection that has asked to leave.
pub(crate) struct Relayed {
    near: Stream,
    /// For the other process.
    pub(crate) far: Arc<OwnedFd>,
    /// The task that goes on with the near end.
    goes_on: oneshot::Sender<Connection>,
}

impl RelayPair {
    /// Registered with the runtime.
    ///
    /// # Errors
    /// If the process is short of descriptors or memory.
    pub fn new() -> io::Result<Self> {
        let (near, far) = pair()?;
        Ok(Self { near: Stream::Unix(near), far })
    }

    pub(super) fn for_streams(self) -> (Relayed, oneshot::Receiver<Connection>) {
        let Self { near, far } = self;
        let (goes_on, stayed) = oneshot::channel();
        (Relayed { near, far: Arc::new(far), goes_on }, stayed)
    }
}

impl Relayed {
    /// The connection is in the other process now. Our copy of its socket is closed, and the row is that of
    /// the near end from here on.
    pub(super) fn begin(self, connection: Connection) {
        let Self { near, far: _, goes_on } = self;
        let stays = connection.over(near);
        stays.tracker().record.relayed();
        // A task that is gone wants no streams either: the row ends here.
        let _ = goes_on.send(stays);
    }
}

impl Relay {
    /// One that has arrived, registered with the runtime.
    pub(crate) fn register(fd: OwnedFd) -> io::Result<Self> {
        let (reader, socket) = Stream::Unix(UnixStream::from_std(fd.into())?).split();
        Ok(Self { reader, socket })
    }
}

impl AsyncRead for Relay {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.reader.poll_read(cx, buf)
    }
}

impl AsyncWrite for Relay {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.socket.poll_write(cx, &[IoSlice::new(buf)])
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(SockRef::from(&self.socket.as_fd()).shutdown(Shutdown::Write))
    }
}
