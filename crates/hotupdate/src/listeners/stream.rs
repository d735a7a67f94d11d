//! Stream listeners: accepting connections while this process serves.

use std::fmt;
use std::io;
use std::task::{Context, Poll};

use hotupdate_proto::timing::fixed::sockets::CANNOT_ACCEPT_PAUSE;
use tokio::net::TcpListener;

use crate::address::Address;
use crate::connections::Connections;
use crate::connections::{Connection, Stream};
use crate::listeners::gate::{Claim, Gate, Gated};
use crate::platform::{AsFd, BorrowedFd, OwnedFd, UnixListener};
use crate::process::sockets::is_of_the_connection;
use crate::rate_limited_log::RateLimitedLog;

/// A TCP or Unix stream listener.
#[derive(Debug)]
pub(crate) enum Acceptor {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl AsFd for Acceptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Unix(listener) => listener.as_fd(),
        }
    }
}

impl Gated for Acceptor {
    const SENDS: bool = false;

    fn register(fd: OwnedFd, address: &Address) -> io::Result<Self> {
        match address {
            Address::Ip(_) => Ok(Self::Tcp(TcpListener::from_std(fd.into())?)),
            Address::Unix(_) => Ok(Self::Unix(UnixListener::from_std(fd.into())?)),
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
    pub(crate) async fn accept_caller(&self) -> Option<io::Result<crate::platform::UnixStream>> {
        self.wait(|acceptor, cx| match acceptor {
            Acceptor::Unix(listener) => listener.poll_accept(cx).map_ok(|(stream, _)| stream),
            Acceptor::Tcp(_) => Poll::Ready(Err(io::ErrorKind::Unsupported.into())),
        })
        .await
    }
}

impl Acceptor {
    /// The next connection, and its client's address.
    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Stream, Address)>> {
        match self {
            Self::Tcp(listener) => {
                listener.poll_accept(cx).map_ok(|(stream, peer)| (Stream::Tcp(stream), peer.into()))
            }
            Self::Unix(listener) => {
                listener.poll_accept(cx).map_ok(|(stream, peer)| (Stream::Unix(stream), peer.into()))
            }
        }
    }
}

/// A stream listener that goes from one version of the program to the next.
///
/// Nothing is accepted before [`crate::Starting::ready`], and nothing after the next version has taken over.
///
/// **Dropping it closes it**: clients are refused, the next version is not offered it, and the log says so,
/// because a service that stops listening is seldom meant. So it has to live as long as the process serves;
/// after that ([`Serving::retired`](crate::Serving::retired)) it may go without a word.
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
///
/// # A framework that wants a listener of its own
///
/// Some frameworks take a `std::net::TcpListener` and accept by themselves. They can have a duplicate of the
/// socket:
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// # async fn run(_: std::net::TcpListener, _until: impl Future<Output = ()>) {}
/// let mut hot = hotupdate::join("/run/hello/control.sock").await?;
/// let listener = hot.tcp("http", "0.0.0.0:3000").await?;
/// let hot = hot.ready().await?; // before it, the old version accepts
///
/// let mut drain = hot.drain();
/// let duplicate: std::net::TcpListener = listener.with_fd(|fd| fd.try_clone_to_owned())?.into();
/// run(duplicate, async move { drain.started().await }).await; // closes the duplicate then
/// hot.drained().await;
/// # Ok(())
/// # }
/// ```
///
/// No client is refused or lost by that, because both processes accept from one queue. But the library does
/// not see what the framework accepts, and this is what it costs:
///
/// * The duplicate has to be closed as soon as the drain starts. Until then both versions accept, and a
///   duplicate that stays open takes clients into a process that is about to end.
/// * The duplicate is non-blocking, and has to stay so: `O_NONBLOCK` belongs to the socket, which both
///   processes share.
/// * The connections are not in the table: `status` does not count them, they are not told to end, do not
///   migrate, and [`Serving::drained`](crate::Serving::drained) does not wait for them. The framework's own
///   graceful shutdown has to, before `main` returns.
/// * If the next version fails in its probation, this process serves again ([`Listener`]s open again by
///   themselves), and the framework has to be started again with a new duplicate.
///
/// A framework that can be given connections, or anything with `AsyncRead` and `AsyncWrite`, is better served
/// by [`Listener::accept`].
pub struct Listener {
    gate: Claim<Acceptor>,
    connections: Connections,
    log: RateLimitedLog,
}

impl Listener {
    pub(crate) fn new(gate: Claim<Acceptor>, connections: Connections) -> Self {
        Self { gate, connections, log: RateLimitedLog::default() }
    }

    /// The key under which the next version will ask for it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.gate.name
    }

    /// Where it listens: what was asked for, with the port that the kernel chose for port 0.
    ///
    /// ```no_run
    /// # async fn example(mut hot: hotupdate::Starting) -> Result<(), hotupdate::Error> {
    /// let listener = hot.tcp("http", "127.0.0.1:0").await?;
    /// println!("http://{}", listener.local_addr());
    /// let port = listener.local_addr().ip().map(|address| address.port());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn local_addr(&self) -> &Address {
        &self.gate.address
    }

    /// Calls `use_it` with the listening socket: to read or set an option that has no method here, or to
    /// duplicate it.
    ///
    /// The socket cannot be borrowed for longer, because a handoff closes it at a time of its own, and waits
    /// meanwhile until `use_it` returns. Options belong to the socket and not to the process: the next
    /// version has them, too, and so does this one before it is ready.
    ///
    /// ```no_run
    /// # async fn example(mut hot: hotupdate::Starting) -> Result<(), Box<dyn std::error::Error>> {
    /// let listener = hot.tcp("http", "0.0.0.0:3000").await?;
    /// // Accepted connections have it from their listener.
    /// listener.with_fd(|fd| socket2::SockRef::from(&fd).set_keepalive(true))?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// What `use_it` returns, and an error when the listener is closed.
    pub fn with_fd<R>(&self, use_it: impl FnOnce(BorrowedFd<'_>) -> io::Result<R>) -> io::Result<R> {
        self.gate.with_fd(use_it)
    }

    /// The next connection. Waits while this process is not the one that serves; `None` when it never will be
    /// again.
    ///
    /// Errors of accept(2) are dealt with here: a client that is gone already is skipped, and anything else,
    /// such as being out of descriptors, means a line in the log and a short pause, since the backlog keeps
    /// the clients. Safe to cancel.
    ///
    /// Takes `&mut self` because the runtime wakes one task for each listener.
    pub async fn accept(&mut self) -> Option<Connection> {
        let mut told = false;
        loop {
            // The row is made under the lock of the gate: a release counts every connection that was
            // accepted.
            let accepted = self.gate.wait(|acceptor, cx| {
                acceptor.poll_accept(cx).map_ok(|(stream, peer)| {
                    self.connections.accept(&self.gate.name, peer, self.gate.address.clone(), stream)
                })
            });
            match accepted.await? {
                Ok(connection) => return Some(connection),
                Err(error) if is_of_the_connection(&error) => {
                    tracing::debug!(listener = self.name(), %error, "a connection failed before accept");
                }
                Err(error) => {
                    if !std::mem::replace(&mut told, true)
                        && let Some(suppressed) = self.log.due()
                    {
                        let listener = self.name();
                        tracing::warn!(
                            listener, %error, "cannot accept; connections wait in the backlog{suppressed}"
                        );
                    }
                    tokio::time::sleep(CANNOT_ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener")
            .field("name", &self.gate.name)
            .field("local_addr", &self.gate.address)
            .finish()
    }
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

/// `ConnectInfo<hotupdate::Address>` in handlers of
/// `app.into_make_service_with_connect_info::<hotupdate::Address>()`.
#[cfg(feature = "axum")]
impl axum::extract::connect_info::Connected<axum::serve::IncomingStream<'_, Listener>> for Address {
    fn connect_info(stream: axum::serve::IncomingStream<'_, Listener>) -> Self {
        stream.remote_addr().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listeners::gate::GateControl;
    use hotupdate_proto::{Generation, ListenerKind};
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    fn listener(fd: OwnedFd, kind: ListenerKind, address: Address) -> (Listener, Arc<Gate<Acceptor>>) {
        let gate = Gate::parked("http", kind, address, fd);
        gate.open().unwrap();
        let (connections, _) = Connections::new(Generation::FIRST);
        (Listener::new(Claim::new(gate.clone(), Arc::default()), connections), gate)
    }

    fn tcp() -> (Listener, Arc<Gate<Acceptor>>, std::net::SocketAddr) {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let address = socket.local_addr().unwrap();
        let (listener, gate) = listener(socket.into(), ListenerKind::Tcp, address.into());
        (listener, gate, address)
    }

    #[tokio::test]
    async fn connections_know_both_ends() {
        let (mut listener, _gate, address) = tcp();
        assert_eq!((listener.name(), listener.local_addr().ip()), ("http", Some(address)));
        assert!(listener.with_fd(|fd| socket2::SockRef::from(&fd).is_listener()).unwrap());
        let client = std::net::TcpStream::connect(address).unwrap();
        let connection = listener.accept().await.unwrap();
        assert_eq!(connection.peer_addr().ip(), Some(client.local_addr().unwrap()));
        assert_eq!(connection.local_addr().ip(), Some(address));

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.sock");
        let socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let address = Address::Unix(Some(path.clone()));
        let (mut listener, _gate) = self::listener(socket.into(), ListenerKind::Unix, address);
        let _client = std::os::unix::net::UnixStream::connect(&path).unwrap();
        let connection = listener.accept().await.unwrap();
        assert_eq!(connection.peer_addr(), &Address::Unix(None));
        assert_eq!(connection.local_addr().path(), Some(path.as_path()));
    }

    /// Something else may shut the socket down, which ends accepting for all that share it: that must not
    /// keep a processor busy.
    #[tokio::test]
    async fn a_listener_that_cannot_accept_pauses() {
        let (mut listener, gate, _) = tcp();
        listener.with_fd(|fd| socket2::SockRef::from(&fd).shutdown(std::net::Shutdown::Both)).unwrap();
        let mut accept = pin!(listener.accept());
        let polls = AtomicU32::new(0);
        let counted = std::future::poll_fn(|cx| {
            polls.fetch_add(1, Relaxed);
            accept.as_mut().poll(cx)
        });
        let until = tokio::time::timeout(2 * CANNOT_ACCEPT_PAUSE, counted).await;
        assert!(until.is_err() && polls.load(Relaxed) < 10, "{polls:?} polls");
        gate.close();
        assert!(accept.await.is_none());
    }
}
