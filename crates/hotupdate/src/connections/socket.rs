//! The kernel's side of a connection, TCP or Unix: what the table shuts down and the next version gets.

use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hotupdate_proto::migration::Endpoint;
use socket2::SockRef;
use tokio::io::{AsyncRead as _, Interest, ReadBuf};
use tokio::net::{TcpStream, tcp};

use crate::address::Address;
use crate::platform::{AsFd, BorrowedFd, OwnedFd, UnixReadHalf, UnixStream, UnixWriteHalf};
use crate::process::sockets;

/// A connected socket that the table does not know yet.
#[derive(Debug)]
pub(crate) enum Stream {
    /// TCP.
    Tcp(TcpStream),
    /// Unix stream.
    Unix(UnixStream),
}

impl Stream {
    /// A connected socket that arrived, registered with the runtime. Its family is as its address says; if
    /// that is a lie, all the same works that is done here with either of them.
    pub(crate) fn register(fd: OwnedFd, local: &Endpoint) -> io::Result<Self> {
        match local {
            Endpoint::Ip(_) => Ok(Self::Tcp(TcpStream::from_std(fd.into())?)),
            Endpoint::Unix(_) => Ok(Self::Unix(UnixStream::from_std(fd.into())?)),
        }
    }

    /// What reads, and what does everything else and is shared.
    pub(super) fn split(self) -> (Reader, Socket) {
        match self {
            Self::Tcp(stream) => {
                let (reads, writes) = stream.into_split();
                (Reader::Tcp(reads), Socket::Tcp(Some(writes)))
            }
            Self::Unix(stream) => {
                let (reads, writes) = stream.into_split();
                (Reader::Unix(reads), Socket::Unix(Some(writes)))
            }
        }
    }
}

/// Reads what the client sends. Only a half of tokio's own reads as tokio does; with what a stream offers to
/// all that share it, a request costs a hundredth more.
#[derive(Debug)]
pub(super) enum Reader {
    Tcp(tcp::OwnedReadHalf),
    Unix(UnixReadHalf),
}

impl Reader {
    #[inline]
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(half) => Pin::new(half).poll_read(cx, buf),
            Self::Unix(half) => Pin::new(half).poll_read(cx, buf),
        }
    }
}

/// The kernel's side of a connection. Shared with the live table, which shuts it down at the deadline of a
/// drain.
#[derive(Debug)]
pub(crate) enum Socket {
    /// TCP. `None` while it is dropped.
    Tcp(Option<tcp::OwnedWriteHalf>),
    /// Unix stream. `None` while it is dropped.
    Unix(Option<UnixWriteHalf>),
}

/// A half that is dropped would tell the client that nothing more comes; but the connection may have
/// migrated.
impl Drop for Socket {
    fn drop(&mut self) {
        match self {
            Self::Tcp(half) => half.take().into_iter().for_each(tcp::OwnedWriteHalf::forget),
            Self::Unix(half) => half.take().into_iter().for_each(UnixWriteHalf::forget),
        }
    }
}

/// That of a half.
#[inline]
fn stream<S>(half: &Option<impl AsRef<S>>) -> &S {
    half.as_ref().expect("the half is there until it is dropped").as_ref()
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(half) => stream(half).as_fd(),
            Self::Unix(half) => stream(half).as_fd(),
        }
    }
}

impl Socket {
    /// The address that the client connected to.
    pub(super) fn local_addr(&self) -> Option<Address> {
        match self {
            Self::Tcp(half) => stream(half).local_addr().ok().map(Address::from),
            Self::Unix(_) => None,
        }
    }

    /// The kernel's name of the socket, see socket(7); 0 where there is none.
    pub(super) fn cookie(&self) -> u64 {
        sockets::cookie(self.as_fd())
    }

    pub(super) fn is_readable(&self) -> bool {
        peek(&self.as_fd()).is_ok()
    }

    pub(crate) fn shut_down(&self) {
        // An error means that the client was faster.
        let _ = SockRef::from(&self.as_fd()).shutdown(Shutdown::Both);
    }

    /// Ready when bytes wait to be read, or the end of the stream. A socket that is new counts as ready until
    /// it has been looked at.
    pub(super) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let peeked = match self {
                Self::Tcp(half) => {
                    ready!(stream(half).poll_read_ready(cx))?;
                    stream(half).try_io(Interest::READABLE, || peek(&self.as_fd()))
                }
                Self::Unix(half) => {
                    ready!(stream(half).poll_read_ready(cx))?;
                    stream(half).try_io(Interest::READABLE, || peek(&self.as_fd()))
                }
            };
            match peeked {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                peeked => return Poll::Ready(peeked),
            }
        }
    }

    #[inline]
    pub(super) fn poll_write(&self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        loop {
            let written = match self {
                Self::Tcp(half) => {
                    ready!(stream(half).poll_write_ready(cx))?;
                    stream(half).try_write_vectored(bufs)
                }
                Self::Unix(half) => {
                    ready!(stream(half).poll_write_ready(cx))?;
                    stream(half).try_write_vectored(bufs)
                }
            };
            match written {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }
}

fn peek(socket: &BorrowedFd<'_>) -> io::Result<()> {
    SockRef::from(socket).peek(&mut [std::mem::MaybeUninit::uninit()]).map(drop)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::super::fixture::{Fixture, poll_once};
    use super::*;

    /// In pieces that fill the buffer and in pieces that do not, with pauses and without: nothing waits for
    /// ever.
    #[tokio::test]
    async fn everything_is_read_to_the_end() {
        let (mut connection, mut client) = Fixture::new().accept();
        let writes = async move {
            for (n, byte) in [(3, b'a'), (4, b'b'), (9, b'c'), (1, b'd')] {
                client.write_all(&vec![byte; n]).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        let reads = async move {
            let (mut all, mut buf) = (Vec::new(), [0; 4]);
            loop {
                let n = connection.read(&mut buf).await.unwrap();
                all.extend_from_slice(&buf[..n]);
                if n == 0 {
                    return all;
                }
            }
        };
        let both = async { tokio::join!(reads, writes).0 };
        let all = tokio::time::timeout(Duration::from_secs(60), both).await.expect("the end is read");
        assert_eq!(all, b"aaabbbbcccccccccd");
    }

    #[tokio::test]
    async fn what_comes_after_a_short_read_is_an_event() {
        let (mut connection, mut client) = Fixture::new().accept();
        let mut buf = [0; 64];
        for message in [&b"one"[..], b"two", b"three"] {
            assert!(poll_once(connection.read(&mut buf)).is_pending());
            client.write_all(message).await.unwrap();
            let n = connection.read(&mut buf).await.unwrap();
            assert_eq!(&buf[..n], message);
        }
        drop(client);
        assert_eq!(connection.read(&mut buf).await.unwrap(), 0);
        assert_eq!(connection.read(&mut buf).await.unwrap(), 0, "the end stays the end");
    }

    #[tokio::test]
    async fn bytes_can_be_waited_for_and_are_still_there() {
        let (mut connection, mut client) = Fixture::new().accept();
        assert!(poll_once(std::future::poll_fn(|cx| connection.poll_readable(cx))).is_pending());
        client.write_all(b"a").await.unwrap();
        std::future::poll_fn(|cx| connection.poll_readable(cx)).await.unwrap();
        assert_eq!(connection.read(&mut [0; 4]).await.unwrap(), 1);
        assert!(poll_once(std::future::poll_fn(|cx| connection.poll_readable(cx))).is_pending());
        drop(client);
        std::future::poll_fn(|cx| connection.poll_readable(cx)).await.unwrap();
    }

    /// The other process that has a copy goes on with it: its client is not told that anything ends.
    #[tokio::test]
    async fn a_connection_that_is_dropped_is_not_ended() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (client, accepted) =
            tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        let (unix, unix_client) = UnixStream::pair().unwrap();
        let clients: [Box<dyn tokio::io::AsyncRead + Unpin>; 2] =
            [Box::new(client.unwrap()), Box::new(unix_client)];
        for (stream, mut client) in
            [Stream::Tcp(accepted.unwrap().0), Stream::Unix(unix)].into_iter().zip(clients)
        {
            let (reader, socket) = stream.split();
            let mut copy = std::fs::File::from(socket.as_fd().try_clone_to_owned().unwrap());
            drop((reader, socket));
            std::io::Write::write_all(&mut copy, b"more").unwrap();
            let mut bytes = [0; 4];
            client.read_exact(&mut bytes).await.unwrap();
            assert_eq!(&bytes, b"more");
            drop(copy);
            assert_eq!(client.read(&mut bytes).await.unwrap(), 0);
        }
    }

    #[tokio::test]
    async fn a_socket_that_is_shut_down_ends_for_both_sides() {
        let (mut connection, mut client) = Fixture::new().accept();
        connection.socket().shut_down();
        assert_eq!(connection.read(&mut [0; 4]).await.unwrap(), 0);
        assert!(connection.write_all(b"late").await.is_err());
        assert_eq!(client.read(&mut [0; 4]).await.unwrap(), 0);
    }
}
