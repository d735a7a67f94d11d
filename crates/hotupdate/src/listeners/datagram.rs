//! Datagram sockets that go from one version of the program to the next.
//!
//! Deliberately absent: protocols with state for each client on top of them.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::io::ReadBuf;
use tokio::net::UnixDatagram;

use crate::address::Address;
use crate::listeners::gate::{Gate, Gated};

impl Gated for tokio::net::UdpSocket {
    fn register(fd: OwnedFd) -> io::Result<Self> {
        Self::from_std(fd.into())
    }

    fn deregister(self) -> io::Result<OwnedFd> {
        Ok(self.into_std()?.into())
    }
}

impl Gated for UnixDatagram {
    fn register(fd: OwnedFd) -> io::Result<Self> {
        Self::from_std(fd.into())
    }

    fn deregister(self) -> io::Result<OwnedFd> {
        Ok(self.into_std()?.into())
    }
}

/// A UDP socket that goes from one version of the program to the next.
///
/// Datagrams that arrive while nobody receives wait in the socket's buffer. A program that keeps state for each client
/// (QUIC, DTLS) has to pass that state too.
pub struct UdpSocket {
    gate: Arc<Gate<tokio::net::UdpSocket>>,
}

impl UdpSocket {
    pub(crate) fn new(gate: Arc<Gate<tokio::net::UdpSocket>>) -> Self {
        Self { gate }
    }

    /// The address it is bound to.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.gate.address.ip()
    }

    /// The next datagram: its length and its sender. Waits while this process is not the one that serves; `None` when it
    /// never will be again.
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

    /// Sends a datagram; possible while this process serves.
    ///
    /// # Errors
    /// As sendto(2); `NotConnected` when this process does not serve any more.
    pub async fn send_to(&self, bytes: &[u8], to: SocketAddr) -> io::Result<usize> {
        match self.gate.wait(|socket, cx| socket.poll_send_to(cx, bytes, to)).await {
            Some(sent) => sent,
            None => Err(io::Error::new(io::ErrorKind::NotConnected, "this process does not serve any more")),
        }
    }
}

impl fmt::Debug for UdpSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpSocket").field("name", &self.gate.name).field("local", &self.gate.address).finish()
    }
}

/// A Unix datagram socket that goes from one version of the program to the next.
pub struct UnixDatagramSocket {
    gate: Arc<Gate<UnixDatagram>>,
}

impl UnixDatagramSocket {
    pub(crate) fn new(gate: Arc<Gate<UnixDatagram>>) -> Self {
        Self { gate }
    }

    /// The address it is bound to.
    #[must_use]
    pub fn local(&self) -> &Address {
        &self.gate.address
    }

    /// The next datagram: its length and its sender. Waits while this process is not the one that serves; `None` when it
    /// never will be again.
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
}

impl fmt::Debug for UnixDatagramSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnixDatagramSocket").field("local", &self.gate.address).finish()
    }
}
