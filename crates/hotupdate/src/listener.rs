//! Named listeners behind a gate: open, parked, or closed for ever.
//!
//! Deliberately absent: where listeners come from, see `starting.rs`; who opens and parks them, see
//! `driver.rs`.
//!
//! Accepting is one system call under the lock of the gate. Parking takes the same lock, so when it returns, nothing is
//! accepted any more: that is confirmed, whatever the application's accept loop is doing. A parked listener is taken out
//! of epoll before, because epoll watches open file descriptions and both processes share this one (epoll(7), Q6).

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hotupdate_proto::{ListenerItem, ListenerKind};
use rustix::io::Errno;
use smol_str::SmolStr;
use tokio::io::ReadBuf;
use tokio::net::{TcpListener, UnixDatagram, UnixListener};
use tokio::sync::watch;

use crate::address::Address;
use crate::complaint::Complaint;
use crate::connection::{Connection, Socket};
use crate::connections::Connections;
use crate::offered::Offered;

/// How long accepting pauses when the process has no descriptor left (accept(2), `EMFILE`): the clients wait in the
/// backlog meanwhile, and connections that end make room.
const OUT_OF_DESCRIPTORS_PAUSE: Duration = Duration::from_millis(50);

/// Whether a listener may be used now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum GateState {
    Parked,
    Open,
    Closed,
}

enum Slot<T> {
    Parked(OwnedFd),
    Open(T),
    Closed,
}

/// A descriptor that can be registered with the runtime and taken out again.
pub(crate) trait Gated: AsFd + Sized + Send + Sync + 'static {
    fn register(fd: OwnedFd) -> io::Result<Self>;
    fn deregister(self) -> io::Result<OwnedFd>;
}

/// One named descriptor of this process.
pub(crate) struct Gate<T> {
    name: SmolStr,
    kind: ListenerKind,
    address: Address,
    slot: Mutex<Slot<T>>,
    state: watch::Sender<GateState>,
}

/// What the driver does with a gate, whatever is behind it.
pub(crate) trait GateControl: Send + Sync {
    fn name(&self) -> &SmolStr;
    fn kind(&self) -> ListenerKind;
    fn address(&self) -> &Address;
    /// Lets the application use it. Has to be called in a runtime.
    fn open(&self) -> io::Result<()>;
    /// When this returns, nothing is accepted or received any more.
    fn park(&self) -> io::Result<()>;
    /// Closes the descriptor; the application's waits end.
    fn close(&self);
    /// A duplicate to be sent.
    fn duplicate(&self) -> io::Result<OwnedFd>;
    /// What a successor is told about it. Needs no further descriptor.
    fn describe(&self) -> io::Result<ListenerItem>;
}

impl<T: Gated> Gate<T> {
    pub(crate) fn parked(name: &str, kind: ListenerKind, address: Address, fd: OwnedFd) -> Arc<Self> {
        Arc::new(Self {
            name: name.into(),
            kind,
            address,
            slot: Mutex::new(Slot::Parked(fd)),
            state: watch::Sender::new(GateState::Parked),
        })
    }

    fn slot(&self) -> MutexGuard<'_, Slot<T>> {
        // A slot is replaced as a whole, so a panic elsewhere leaves it whole.
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with_fd<R>(&self, use_it: impl FnOnce(BorrowedFd<'_>) -> io::Result<R>) -> io::Result<R> {
        match &*self.slot() {
            Slot::Parked(fd) => use_it(fd.as_fd()),
            Slot::Open(open) => use_it(open.as_fd()),
            Slot::Closed => Err(io::Error::other(format!("the listener {:?} is closed", self.name))),
        }
    }

    /// Repeats `poll` whenever the gate is open, until it is ready; `None` when the gate is closed for ever.
    async fn wait<R>(&self, mut poll: impl FnMut(&T, &mut Context<'_>) -> Poll<R>) -> Option<R> {
        let mut state = self.state.subscribe();
        loop {
            let seen = *state.borrow_and_update();
            match seen {
                GateState::Closed => return None,
                GateState::Parked => drop(state.changed().await),
                GateState::Open => {
                    let poll_open = std::future::poll_fn(|cx| match &*self.slot() {
                        Slot::Open(open) => poll(open, cx),
                        // The state is about to change.
                        Slot::Parked(_) | Slot::Closed => Poll::Pending,
                    });
                    tokio::select! {
                        biased;
                        result = poll_open => return Some(result),
                        _ = state.changed() => {}
                    }
                }
            }
        }
    }
}

impl<T: Gated> GateControl for Gate<T> {
    fn name(&self) -> &SmolStr {
        &self.name
    }

    fn kind(&self) -> ListenerKind {
        self.kind
    }

    fn address(&self) -> &Address {
        &self.address
    }

    fn open(&self) -> io::Result<()> {
        let mut slot = self.slot();
        if let Slot::Parked(fd) = &*slot {
            // Registering consumes the descriptor, also where it fails; so a copy goes first.
            if let Ok(copy) = fd.try_clone() {
                *slot = Slot::Open(T::register(copy)?);
            } else if let Slot::Parked(fd) = std::mem::replace(&mut *slot, Slot::Closed) {
                // No descriptor is left, and a listener that nobody listens to would be an outage.
                *slot = Slot::Open(T::register(fd)?);
            }
        }
        if matches!(*slot, Slot::Open(_)) {
            self.state.send_replace(GateState::Open);
        }
        Ok(())
    }

    fn park(&self) -> io::Result<()> {
        let mut slot = self.slot();
        if let Slot::Open(open) = std::mem::replace(&mut *slot, Slot::Closed) {
            *slot = Slot::Parked(open.deregister()?);
            self.state.send_replace(GateState::Parked);
        }
        Ok(())
    }

    fn close(&self) {
        let mut slot = self.slot();
        // Dropping deregisters first and closes then.
        *slot = Slot::Closed;
        self.state.send_replace(GateState::Closed);
    }

    fn duplicate(&self) -> io::Result<OwnedFd> {
        self.with_fd(|fd| fd.try_clone_to_owned())
    }

    fn describe(&self) -> io::Result<ListenerItem> {
        self.with_fd(|fd| Ok(Offered::describe(&self.name, self.kind, &self.address, fd)))
    }
}

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
    complaint: Complaint,
}

impl Listener {
    pub(crate) fn new(gate: Arc<Gate<Acceptor>>, connections: Connections) -> Self {
        Self { gate, connections, complaint: Complaint::default() }
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
                    let socket = Arc::new(socket);
                    let tracker = self.connections.insert(&self.gate.name, peer, local, &socket);
                    Connection::new(socket, tracker)
                })
            });
            match accepted.await? {
                Ok(connection) => return Some(connection),
                Err(error) if is_out_of_descriptors(&error) => {
                    if !std::mem::replace(&mut told, true)
                        && let Some(unsaid) = self.complaint.due()
                    {
                        let listener = self.name();
                        tracing::warn!(listener, %error, "cannot accept; connections wait in the backlog{unsaid}");
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
                let peer = connection.peer().clone();
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
