//! Stream listeners: accepting connections while this process serves.
//!
//! Deliberately absent: where listeners come from, see `starting.rs`; when they are open, see `gate.rs`.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::io::Errno;
use tokio::net::{TcpListener, UnixListener};

use crate::address::Address;
use crate::connections::Connections;
use crate::connections::{Connection, Socket};
use crate::listeners::gate::{Gate, Gated};
use crate::rate_limited_log::RateLimitedLog;

/// How long accepting pauses when the process has no descriptor left (accept(2), `EMFILE`): the clients wait in the
/// backlog meanwhile, and connections that end make room.
const OUT_OF_DESCRIPTORS_PAUSE: Duration = Duration::from_millis(50);

/// A TCP or Unix stream listener.
#[derive(Debug)]
pub(crate) enum Acceptor {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl AsFd for Acceptor {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Unix(listener) => listener.as_fd(),
        }
    }
}

impl Gated for Acceptor {
    fn register(fd: OwnedFd) -> io::Result<Self> {
        use rustix::net::{AddressFamily, sockopt::socket_domain};
        if socket_domain(&fd)? == AddressFamily::UNIX {
            Ok(Self::Unix(UnixListener::from_std(fd.into())?))
        } else {
            Ok(Self::Tcp(TcpListener::from_std(fd.into())?))
        }
    }

    fn deregister(self) -> io::Result<OwnedFd> {
        match self {
            Self::Tcp(listener) => Ok(listener.into_std()?.into()),
            Self::Unix(listener) => Ok(listener.into_std()?.into()),
        }
    }
}

impl Gate<Acceptor> {
    /// The next caller on a control socket; its connections are not in the live table.
    pub(crate) async fn accept_caller(&self) -> Option<io::Result<tokio::net::UnixStream>> {
        self.wait(|acceptor, cx| match acceptor {
            Acceptor::Unix(listener) => listener.poll_accept(cx).map_ok(|(stream, _)| stream),
            Acceptor::Tcp(_) => Poll::Ready(Err(io::ErrorKind::Unsupported.into())),
        })
        .await
    }
}

impl Acceptor {
    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Socket, Address, Address)>> {
        match self {
            Self::Tcp(listener) => listener.poll_accept(cx).map_ok(|(stream, peer)| {
                let local = stream.local_addr().map_or(Address::Unix(None), Address::from);
                (Socket::Tcp(stream), peer.into(), local)
            }),
            Self::Unix(listener) => listener.poll_accept(cx).map_ok(|(stream, peer)| {
                let local = stream.local_addr().map_or(Address::Unix(None), Address::from);
                (Socket::Unix(stream), peer.into(), local)
            }),
        }
    }
}

/// A stream listener that goes from one version of the program to the next.
///
/// Nothing is accepted before [`crate::Starting::ready`], and nothing after the next version has taken over.
///
/// ```no_run
/// # async fn example() -> Result<(), hotupdate::Error> {
/// let mut hot = hotupdate::join("/run/echo/control.sock").await?;
/// let mut listener = hot.tcp("echo", "0.0.0.0:7000").await?;
/// let hot = hot.ready().await?;
/// while let Some(mut connection) = listener.accept().await {
///     tokio::spawn(async move {
///         let (mut read, mut write) = tokio::io::split(&mut connection);
///         tokio::io::copy(&mut read, &mut write).await
///     });
/// }
/// hot.drained().await;
/// # Ok(())
/// # }
/// ```
pub struct Listener {
    gate: Arc<Gate<Acceptor>>,
    connections: Connections,
    log: RateLimitedLog,
}

impl Listener {
    pub(crate) fn new(gate: Arc<Gate<Acceptor>>, connections: Connections) -> Self {
        Self { gate, connections, log: RateLimitedLog::default() }
    }

    /// The key under which the next version will ask for it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.gate.name
    }

    /// Where it listens.
    #[must_use]
    pub fn local(&self) -> &Address {
        &self.gate.address
    }

    /// Where it listens, `None` for a Unix socket.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.gate.address.ip()
    }

    /// The next connection. Waits while this process is not the one that serves; `None` when it never will be again.
    ///
    /// Errors of accept(2) are dealt with here: a client that is gone already is skipped, and out of descriptors means
    /// a short pause, since the backlog keeps the clients. Safe to cancel.
    ///
    /// Takes `&mut self` because the runtime wakes one task for each listener.
    pub async fn accept(&mut self) -> Option<Connection> {
        let mut told = false;
        loop {
            // The row is made under the lock of the gate: a release counts every connection that was accepted.
            let accepted = self.gate.wait(|acceptor, cx| {
                acceptor.poll_accept(cx).map_ok(|(socket, peer, local)| {
                    self.connections.accept(&self.gate.name, peer, local, socket)
                })
            });
            match accepted.await? {
                Ok(connection) => return Some(connection),
                Err(error) if is_out_of_descriptors(&error) => {
                    if !std::mem::replace(&mut told, true)
                        && let Some(suppressed) = self.log.due()
                    {
                        let listener = self.name();
                        tracing::warn!(listener, %error, "cannot accept; connections wait in the backlog{suppressed}");
                    }
                    tokio::time::sleep(OUT_OF_DESCRIPTORS_PAUSE).await;
                }
                Err(error) => {
                    tracing::debug!(listener = self.name(), %error, "a connection failed before accept")
                }
            }
        }
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").field("name", &self.gate.name).field("local", &self.gate.address).finish()
    }
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    const SHORTAGES: [Errno; 4] = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    Errno::from_io_error(error).is_some_and(|errno| SHORTAGES.contains(&errno))
}

#[cfg(feature = "axum")]
impl axum::serve::Listener for Listener {
    type Io = Connection;
    type Addr = Address;

    async fn accept(&mut self) -> (Connection, Address) {
        match Self::accept(self).await {
            Some(connection) => {
                let peer = connection.peer_addr().clone();
                (connection, peer)
            }
            // `axum::serve` has no word for the end; `Serving::retired` is its signal.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<Address> {
        Ok(self.gate.address.clone())
    }
}
