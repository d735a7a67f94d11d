//! The kernel's side of a connection, TCP or Unix: what the table shuts down and the next version gets.

use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::task::{Context, Poll, ready};

use hotupdate_proto::migration::Endpoint;
use socket2::SockRef;
use tokio::io::{Interest, ReadBuf};
use tokio::net::TcpStream;

use crate::address::Address;
use crate::platform::{AsFd, BorrowedFd, OwnedFd, UnixStream};
use crate::process::sockets;

/// The kernel's side of a connection. Shared with the live table, which shuts it down at the deadline of a
/// drain.
#[derive(Debug)]
pub(crate) enum Socket {
    /// TCP.
    Tcp(TcpStream),
    /// Unix stream.
    Unix(UnixStream),
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

impl Socket {
    /// A connected socket that arrived, registered with the runtime. Its family is as its address says; if
    /// that is a lie, all the same works that is done here with either of them.
    pub(crate) fn register(fd: OwnedFd, local: &Endpoint) -> io::Result<Self> {
        match local {
            Endpoint::Ip(_) => Ok(Self::Tcp(TcpStream::from_std(fd.into())?)),
            Endpoint::Unix(_) => Ok(Self::Unix(UnixStream::from_std(fd.into())?)),
        }
    }

    /// The address that the client connected to.
    pub(super) fn local_addr(&self) -> Option<Address> {
        match self {
            Self::Tcp(stream) => stream.local_addr().ok().map(Address::from),
            Self::Unix(_) => None,
        }
    }

    /// The kernel's name of the socket, see socket(7); 0 where there is none.
    pub(super) fn cookie(&self) -> u64 {
        sockets::cookie(self.as_fd())
    }

    pub(super) fn is_readable(&self) -> bool {
        let mut byte = [std::mem::MaybeUninit::uninit()];
        match self {
            Self::Tcp(stream) => SockRef::from(stream).peek(&mut byte).is_ok(),
            Self::Unix(stream) => SockRef::from(stream).peek(&mut byte).is_ok(),
        }
    }

    pub(crate) fn shut_down(&self) {
        // An error means that the client was faster.
        let _ = match self {
            Self::Tcp(stream) => SockRef::from(stream).shutdown(Shutdown::Both),
            Self::Unix(stream) => SockRef::from(stream).shutdown(Shutdown::Both),
        };
    }

    /// Ready when bytes wait to be read, or the end of the stream. A socket that is new counts as ready until
    /// it has been looked at.
    pub(super) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let peek = |socket: SockRef<'_>| socket.peek(&mut [std::mem::MaybeUninit::uninit()]);
        loop {
            let peeked = match self {
                Self::Tcp(stream) => {
                    ready!(stream.poll_read_ready(cx))?;
                    stream.try_io(Interest::READABLE, || peek(SockRef::from(stream)))
                }
                Self::Unix(stream) => {
                    ready!(stream.poll_read_ready(cx))?;
                    stream.try_io(Interest::READABLE, || peek(SockRef::from(stream)))
                }
            };
            match peeked {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                peeked => return Poll::Ready(peeked.map(drop)),
            }
        }
    }

    /// Most reads find nothing, since hyper reads until there is nothing more: they end here, in the
    /// code of the caller.
    #[inline(always)]
    pub(super) fn poll_read(&self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_read_ready(cx))?;
        self.poll_read_now(cx, buf)
    }

    #[inline(always)]
    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_read_ready(cx),
            Self::Unix(stream) => stream.poll_read_ready(cx),
        }
    }

    /// The socket counts as ready.
    fn poll_read_now(&self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        loop {
            let read = match self {
                Self::Tcp(stream) => {
                    stream.try_io(Interest::READABLE, || read_once(buf, |buf| stream.try_read_buf(buf)))
                }
                Self::Unix(stream) => {
                    stream.try_io(Interest::READABLE, || read_once(buf, |buf| stream.try_read_buf(buf)))
                }
            };
            if buf.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
            match read {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(self.poll_read_ready(cx))?,
                read => return Poll::Ready(read),
            }
        }
    }

    #[inline]
    pub(super) fn poll_write(&self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
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

/// As in tokio's own `poll_read`, a read that does not fill the buffer says that the kernel has no more:
/// `WouldBlock` makes the next one wait for an event. Without that each request would cost a second
/// recvfrom(2), which finds nothing.
#[inline]
fn read_once<'a>(
    buf: &mut ReadBuf<'a>,
    read: impl FnOnce(&mut ReadBuf<'a>) -> io::Result<usize>,
) -> io::Result<()> {
    let room = buf.remaining();
    let n = read(buf)?;
    if (1..room).contains(&n) { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::super::fixture::{Fixture, poll_once};
    use super::*;

    #[test]
    fn a_read_that_fills_the_buffer_or_finds_the_end_says_nothing_about_what_is_left() {
        let read = |n: usize| {
            let mut bytes = [0; 4];
            let mut buf = ReadBuf::new(&mut bytes);
            read_once(&mut buf, |_| Ok(n)).map_err(|error| error.kind())
        };
        assert_eq!((read(0), read(4)), (Ok(()), Ok(())));
        assert_eq!([read(1), read(3)], [Err(io::ErrorKind::WouldBlock); 2]);
    }

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

    #[tokio::test]
    async fn a_socket_that_is_shut_down_ends_for_both_sides() {
        let (mut connection, mut client) = Fixture::new().accept();
        connection.socket().shut_down();
        assert_eq!(connection.read(&mut [0; 4]).await.unwrap(), 0);
        assert!(connection.write_all(b"late").await.is_err());
        assert_eq!(client.read(&mut [0; 4]).await.unwrap(), 0);
    }
}
