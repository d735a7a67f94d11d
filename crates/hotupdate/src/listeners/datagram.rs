//! Datagram sockets that go from one version of the program to the next.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use socket2::{SockAddr, SockRef};
use tokio::io::ReadBuf;

use crate::address::Address;
use crate::listeners::gate::{Claim, Gated};
use crate::platform::{BorrowedFd, OwnedFd, UnixDatagram};

impl Gated for tokio::net::UdpSocket {
    const SENDS: bool = true;

    fn register(fd: OwnedFd, _: &Address) -> io::Result<Self> {
        Self::from_std(fd.into())
    }

    fn deregister(self) -> io::Result<OwnedFd> {
        Ok(self.into_std()?.into())
    }
}

impl Gated for UnixDatagram {
    const SENDS: bool = true;

    fn register(fd: OwnedFd, _: &Address) -> io::Result<Self> {
        Self::from_std(fd.into())
    }

    fn deregister(self) -> io::Result<OwnedFd> {
        Ok(self.into_std()?.into())
    }
}

/// A UDP socket that goes from one version of the program to the next.
///
/// Datagrams that arrive while no process receives wait in the socket's buffer, and the next process to serve
/// has them. A protocol that keeps state for each client (QUIC, DTLS) has to pass that state, too: see
/// [`Starting::export`](crate::Starting::export).
///
/// Dropping it closes it, as with [`Listener`](crate::Listener).
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let mut hot = hotupdate::join("/run/echo/control.sock").await?;
/// let socket = hot.udp("echo", "0.0.0.0:7000").await?;
/// let hot = hot.ready().await?;
/// let mut buffer = [0; 1500];
/// while let Some(received) = socket.recv_from(&mut buffer).await {
///     let (length, client) = received?;
///     socket.send_to(&buffer[..length], client).await?;
/// }
/// hot.drained().await;
/// # Ok(())
/// # }
/// ```
pub struct UdpSocket {
    gate: Claim<tokio::net::UdpSocket>,
}

impl UdpSocket {
    pub(crate) fn new(gate: Claim<tokio::net::UdpSocket>) -> Self {
        Self { gate }
    }

    /// The key under which the next version will ask for it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.gate.name
    }

    /// The address it is bound to, with the port that the kernel chose for port 0.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.gate
            .address
            .ip()
            .expect("what is no Unix socket was found to have an IP address when it was claimed")
    }

    /// The next datagram: its length and its sender. Waits while this process is not the one that serves;
    /// `None` when it never will be again. What does not fit into `buf` is lost. Safe to cancel.
    ///
    /// # Errors
    /// As recvfrom(2).
    pub async fn recv_from(&self, buf: &mut [u8]) -> Option<io::Result<(usize, SocketAddr)>> {
        self.gate
            .wait(|socket, cx| {
                let mut buf = ReadBuf::new(buf);
                socket.poll_recv_from(cx, &mut buf).map_ok(|from| (buf.filled().len(), from))
            })
            .await
    }

    /// As [`UdpSocket::recv_from`], and leaves the datagram where it is.
    ///
    /// # Errors
    /// As recvfrom(2).
    pub async fn peek_from(&self, buf: &mut [u8]) -> Option<io::Result<(usize, SocketAddr)>> {
        self.gate
            .wait(|socket, cx| {
                let mut buf = ReadBuf::new(buf);
                socket.poll_peek_from(cx, &mut buf).map_ok(|from| (buf.filled().len(), from))
            })
            .await
    }

    /// Sends a datagram. Possible until this process will never serve again, so that clients that asked just
    /// before the next version took over get their answers.
    ///
    /// # Errors
    /// As sendto(2); `NotConnected` when this process will never serve again.
    pub async fn send_to(&self, bytes: &[u8], to: SocketAddr) -> io::Result<usize> {
        let parked = |fd: BorrowedFd<'_>| SockRef::from(&fd).send_to(bytes, &to.into());
        self.gate.send(|socket, cx| socket.poll_send_to(cx, bytes, to), parked).await
    }

    /// Calls `use_it` with the socket: to read or set an option that has no method here, such as joining a
    /// multicast group. For how long it may be used, and whose the options are, see
    /// [`Listener::with_fd`](crate::Listener::with_fd).
    ///
    /// ```no_run
    /// # async fn example(socket: hotupdate::UdpSocket) -> std::io::Result<()> {
    /// socket.with_fd(|fd| socket2::SockRef::from(&fd).set_broadcast(true))?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// What `use_it` returns, and an error when the socket is closed.
    pub fn with_fd<R>(&self, use_it: impl FnOnce(BorrowedFd<'_>) -> io::Result<R>) -> io::Result<R> {
        self.gate.with_fd(use_it)
    }
}

impl fmt::Debug for UdpSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("UdpSocket");
        debug.field("name", &self.gate.name).field("local_addr", &self.gate.address).finish()
    }
}

/// A Unix datagram socket that goes from one version of the program to the next.
///
/// Dropping it closes it, as with [`Listener`](crate::Listener).
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let mut hot = hotupdate::join("/run/log/control.sock").await?;
/// let socket = hot.unix_datagram("log", "/run/log/log.sock").await?;
/// let hot = hot.ready().await?;
/// let mut buffer = [0; 1024];
/// while let Some(received) = socket.recv_from(&mut buffer).await {
///     let (length, sender) = received?;
///     if let Some(path) = sender.path() {
///         socket.send_to(&buffer[..length], path).await?; // a client without a path has no address
///     }
/// }
/// hot.drained().await;
/// # Ok(())
/// # }
/// ```
pub struct UnixDatagramSocket {
    gate: Claim<UnixDatagram>,
}

impl UnixDatagramSocket {
    pub(crate) fn new(gate: Claim<UnixDatagram>) -> Self {
        Self { gate }
    }

    /// The key under which the next version will ask for it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.gate.name
    }

    /// The address it is bound to.
    #[must_use]
    pub fn local_addr(&self) -> &Address {
        &self.gate.address
    }

    /// The next datagram: its length and its sender. Waits while this process is not the one that serves;
    /// `None` when it never will be again. What does not fit into `buf` is lost. Safe to cancel.
    ///
    /// # Errors
    /// As recvfrom(2).
    pub async fn recv_from(&self, buf: &mut [u8]) -> Option<io::Result<(usize, Address)>> {
        self.gate
            .wait(|socket, cx| {
                let mut buf = ReadBuf::new(buf);
                socket.poll_recv_from(cx, &mut buf).map_ok(|from| (buf.filled().len(), from.into()))
            })
            .await
    }

    /// Sends a datagram to the socket at this path. Waits while its queue is full. Possible until this
    /// process will never serve again, as with [`UdpSocket::send_to`].
    ///
    /// # Errors
    /// As sendto(2); `NotConnected` when this process will never serve again.
    pub async fn send_to(&self, bytes: &[u8], path: impl AsRef<Path>) -> io::Result<usize> {
        let path = path.as_ref();
        let to = SockAddr::unix(path)?;
        let parked = |fd: BorrowedFd<'_>| SockRef::from(&fd).send_to(bytes, &to);
        self.gate.send(|socket, cx| socket.poll_send_to(cx, bytes, path), parked).await
    }

    /// Calls `use_it` with the socket, as [`Listener::with_fd`](crate::Listener::with_fd).
    ///
    /// # Errors
    /// What `use_it` returns, and an error when the socket is closed.
    pub fn with_fd<R>(&self, use_it: impl FnOnce(BorrowedFd<'_>) -> io::Result<R>) -> io::Result<R> {
        self.gate.with_fd(use_it)
    }
}

impl fmt::Debug for UnixDatagramSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("UnixDatagramSocket");
        debug.field("name", &self.gate.name).field("local_addr", &self.gate.address).finish()
    }
}
