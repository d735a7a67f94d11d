//! Named descriptors behind a gate: open, parked, or closed for ever.
//!
//! Accepting is one system call under the lock of the gate. Parking takes the same lock, so when it returns,
//! nothing is accepted any more: that is confirmed, whatever the application's accept loop is doing. A parked
//! listener is taken out of epoll before, because epoll watches open file descriptions and both processes
//! share this one (epoll(7), Q6).

use std::future::poll_fn;
use std::io;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use hotupdate_proto::ShortText;
use hotupdate_proto::timing::fixed::sockets::FULL_QUEUE_PAUSE;
use hotupdate_proto::{ListenerItem, ListenerKind};
use tokio::sync::{Notify, watch};
use tokio::time::sleep;

use crate::address::Address;
use crate::listeners::inherited::Offered;
use crate::platform::{AsFd, BorrowedFd, OwnedFd};

/// Whether a listener may be used now.
enum Slot<T> {
    Parked(OwnedFd),
    Open(T),
    Closed,
}

/// A descriptor that can be registered with the runtime and taken out again.
pub(crate) trait Gated: AsFd + Sized + Send + Sync + 'static {
    /// Whether something may wait to be sent, which goes on while it is parked.
    const SENDS: bool;

    /// What is bound to this address.
    fn register(fd: OwnedFd, address: &Address) -> io::Result<Self>;
    fn deregister(self) -> io::Result<OwnedFd>;
}

/// One named descriptor of this process.
pub(crate) struct Gate<T> {
    pub(crate) name: ShortText,
    kind: ListenerKind,
    pub(crate) address: Address,
    slot: Mutex<Slot<T>>,
    /// Tells those that wait that there is something else in the slot.
    changes: watch::Sender<()>,
}

/// The application's end of a gate. Nothing would accept behind it once it is dropped, so that closes the
/// gate: clients are refused, which they notice, instead of waiting for an answer that cannot come.
pub(crate) struct Claim<T: Gated> {
    gate: Arc<Gate<T>>,
    dropped: Arc<Notify>,
}

impl<T: Gated> Claim<T> {
    /// `dropped` tells the driver to look which gates are closed.
    pub(crate) fn new(gate: Arc<Gate<T>>, dropped: Arc<Notify>) -> Self {
        Self { gate, dropped }
    }
}

impl<T: Gated> Deref for Claim<T> {
    type Target = Gate<T>;

    fn deref(&self) -> &Gate<T> {
        &self.gate
    }
}

impl<T: Gated> Drop for Claim<T> {
    fn drop(&mut self) {
        if !self.gate.is_closed() {
            self.gate.close();
            self.dropped.notify_one();
        }
    }
}

/// What the driver does with a gate, whatever is behind it.
pub(crate) trait GateControl: Send + Sync {
    fn name(&self) -> &ShortText;
    fn kind(&self) -> ListenerKind;
    fn address(&self) -> &Address;
    /// Lets the application use it. Has to be called in a runtime.
    fn open(&self) -> io::Result<()>;
    /// When this returns, nothing is accepted or received any more.
    fn park(&self) -> io::Result<()>;
    /// Closes the descriptor; the application's waits end.
    fn close(&self);
    /// It was closed, by the driver or because the application dropped its end.
    fn is_closed(&self) -> bool;
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
            changes: watch::Sender::new(()),
        })
    }

    fn slot(&self) -> MutexGuard<'_, Slot<T>> {
        // A slot is replaced as a whole, so a panic elsewhere leaves it whole.
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the descriptor, which stays what it is meanwhile. Fails when the gate is closed.
    pub(crate) fn with_fd<R>(&self, use_it: impl FnOnce(BorrowedFd<'_>) -> io::Result<R>) -> io::Result<R> {
        match &*self.slot() {
            Slot::Parked(fd) => use_it(fd.as_fd()),
            Slot::Open(open) => use_it(open.as_fd()),
            Slot::Closed => Err(io::Error::other(format!("the listener {:?} is closed", self.name))),
        }
    }

    /// Repeats `poll` whenever the gate is open, until it is ready; `None` when the gate is closed for ever.
    pub(crate) async fn wait<R>(&self, mut poll: impl FnMut(&T, &mut Context<'_>) -> Poll<R>) -> Option<R> {
        let mut changes = self.changes.subscribe();
        loop {
            let ready = poll_fn(|cx| match &*self.slot() {
                Slot::Open(open) => poll(open, cx).map(Some),
                Slot::Parked(_) => Poll::Pending,
                Slot::Closed => Poll::Ready(None),
            });
            tokio::select! {
                biased;
                ready = ready => return ready,
                _ = changes.changed() => {}
            }
        }
    }

    /// Sends something unless the gate is closed. A parked descriptor sends, too: that takes nothing away
    /// from the process that serves, and a client that asked just before gets its answer.
    pub(crate) async fn send(
        &self,
        mut open: impl FnMut(&T, &mut Context<'_>) -> Poll<io::Result<usize>>,
        mut parked: impl FnMut(BorrowedFd<'_>) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let mut changes = self.changes.subscribe();
        loop {
            let sent = poll_fn(|cx| match &*self.slot() {
                Slot::Open(socket) => open(socket, cx),
                Slot::Parked(fd) => match parked(fd.as_fd()) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
                    sent => Poll::Ready(sent),
                },
                Slot::Closed => {
                    let why = "this process does not serve any more";
                    Poll::Ready(Err(io::Error::new(io::ErrorKind::NotConnected, why)))
                }
            });
            tokio::select! {
                biased;
                sent = sent => return sent,
                _ = changes.changed() => {}
                // The runtime does not watch what is parked, so it has to be tried again.
                () = sleep(FULL_QUEUE_PAUSE), if self.is_parked() => {}
            }
        }
    }

    fn is_parked(&self) -> bool {
        matches!(*self.slot(), Slot::Parked(_))
    }
}

impl<T: Gated> GateControl for Gate<T> {
    fn name(&self) -> &ShortText {
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
                *slot = Slot::Open(T::register(copy, &self.address)?);
            } else if let Slot::Parked(fd) = std::mem::replace(&mut *slot, Slot::Closed) {
                // No descriptor is left, and a listener that stays closed would be an outage.
                *slot = Slot::Open(T::register(fd, &self.address)?);
            }
        }
        self.changes.send_replace(());
        Ok(())
    }

    fn park(&self) -> io::Result<()> {
        let mut slot = self.slot();
        match std::mem::replace(&mut *slot, Slot::Closed) {
            Slot::Open(open) => {
                *slot = Slot::Parked(open.deregister()?);
                // What waits to accept has nothing to do until it is open again, and while clients wait for
                // the other process no thread is woken for nothing.
                if T::SENDS {
                    self.changes.send_replace(());
                }
            }
            // One that could not be opened is parked already.
            parked_or_closed => *slot = parked_or_closed,
        }
        Ok(())
    }

    fn close(&self) {
        let mut slot = self.slot();
        // Dropping deregisters first and closes then.
        *slot = Slot::Closed;
        self.changes.send_replace(());
    }

    fn is_closed(&self) -> bool {
        matches!(*self.slot(), Slot::Closed)
    }

    fn duplicate(&self) -> io::Result<OwnedFd> {
        self.with_fd(|fd| fd.try_clone_to_owned())
    }

    fn describe(&self) -> io::Result<ListenerItem> {
        self.with_fd(|fd| Ok(Offered::describe(&self.name, self.kind, &self.address, fd)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::listeners::stream::Acceptor;
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::pin::{Pin, pin};
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
    use std::task::{Wake, Waker};
    use tokio::net::UnixDatagram;

    const SOON: Duration = Duration::from_secs(10);

    fn tcp() -> (Arc<Gate<Acceptor>>, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        (Gate::parked("http", ListenerKind::Tcp, address.into(), listener.into()), address)
    }

    /// The next client's address.
    async fn accept(gate: &Gate<Acceptor>) -> Option<SocketAddr> {
        let accepted = gate.wait(|acceptor, cx| match acceptor {
            Acceptor::Tcp(listener) => listener.poll_accept(cx),
            Acceptor::Unix(_) => panic!("it is another kind"),
        });
        accepted.await.map(|accepted| accepted.unwrap().1)
    }

    /// Polls it once.
    async fn is_pending<F: Future>(mut future: Pin<&mut F>) -> bool {
        poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_pending())).await
    }

    async fn soon<T>(future: impl Future<Output = T>) -> T {
        tokio::time::timeout(SOON, future).await.expect("it ends")
    }

    /// A listener that could not be opened, and a process that hands over while it tries again.
    #[tokio::test]
    async fn what_is_parked_can_be_parked() {
        let (gate, address) = tcp();
        gate.park().unwrap();
        assert!(TcpStream::connect(address).is_ok(), "it is closed");
        gate.open().unwrap();
        for _ in 0..2 {
            gate.park().unwrap();
            gate.duplicate().unwrap();
        }
        assert!(!gate.is_closed());
        gate.close();
        gate.park().unwrap();
        gate.open().unwrap();
        assert!(gate.is_closed() && gate.duplicate().is_err(), "closed for ever");
        assert!(gate.describe().unwrap_err().to_string().contains("the listener \"http\" is closed"));
    }

    #[tokio::test]
    #[cfg_attr(hotupdate_portable, ignore = "only a handoff knows the kernel's number of a socket")]
    async fn what_is_known_of_it() {
        let (gate, address) = tcp();
        assert_eq!(
            (gate.name().as_str(), gate.kind(), gate.address().ip()),
            ("http", ListenerKind::Tcp, Some(address))
        );
        let ListenerItem { name, kind, address: at, cookie } = gate.describe().unwrap();
        assert_eq!((name.as_str(), kind, at), ("http", ListenerKind::Tcp, address.to_string()));
        assert_ne!(cookie, 0);
        gate.open().unwrap();
        assert_eq!(gate.describe().unwrap().cookie, cookie);
    }

    /// A task that waits when the gate changes goes on with what it has become.
    #[tokio::test]
    async fn a_wait_survives_parking_and_ends_with_the_gate() {
        let (gate, address) = tcp();
        let mut waits = pin!(accept(&gate));
        assert!(is_pending(waits.as_mut()).await, "it is parked");
        gate.open().unwrap();
        assert!(is_pending(waits.as_mut()).await, "no client came");
        gate.park().unwrap();
        let client = TcpStream::connect(address).unwrap();
        assert!(is_pending(waits.as_mut()).await, "it is parked");
        gate.open().unwrap();
        assert_eq!(soon(waits).await, Some(client.local_addr().unwrap()));

        let mut waits = pin!(accept(&gate));
        assert!(is_pending(waits.as_mut()).await, "no client came");
        gate.close();
        assert_eq!(soon(waits).await, None);
        assert_eq!(soon(accept(&gate)).await, None);
    }

    /// Notes that a task was woken.
    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Relaxed);
        }
    }

    /// Polls it until only a change can wake it, makes the change, and says whether it was woken.
    async fn is_woken_by<F: Future>(mut future: Pin<&mut F>, change: impl FnOnce()) -> bool {
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        loop {
            woken.0.store(false, Relaxed);
            assert!(future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            for _ in 0..10 {
                // The runtime looks after its sockets meanwhile.
                tokio::task::yield_now().await;
            }
            if !woken.0.load(Relaxed) {
                break;
            }
        }
        change();
        woken.0.load(Relaxed)
    }

    #[tokio::test]
    async fn a_change_wakes_what_waits() {
        let (gate, _) = tcp();
        let mut waits = pin!(accept(&gate));
        assert!(is_woken_by(waits.as_mut(), || gate.open().unwrap()).await);
        assert!(!is_woken_by(waits.as_mut(), || gate.park().unwrap()).await, "it could accept nothing");
        assert!(is_woken_by(waits.as_mut(), || gate.open().unwrap()).await);
        assert!(!is_woken_by(waits.as_mut(), || gate.park().unwrap()).await);
        assert!(is_woken_by(waits.as_mut(), || gate.close()).await);
        assert_eq!(soon(waits).await, None);

        let (gate, _other) = datagrams();
        gate.open().unwrap();
        let mut sends = pin!(gate.send(|_, _| Poll::Pending, |_| Ok(7)));
        assert!(is_woken_by(sends.as_mut(), || gate.park().unwrap()).await);
        assert_eq!(soon(sends).await.unwrap(), 7);
    }

    /// What is open is left to the runtime, which knows when to look again.
    #[tokio::test]
    async fn only_what_is_parked_is_tried_again_and_again() {
        const TRIES: u32 = 20;
        let full = |_: BorrowedFd<'_>| Err(io::ErrorKind::WouldBlock.into());
        let (gate, _) = tcp();
        for open in [false, true] {
            if open {
                gate.open().unwrap();
            }
            let tried = AtomicU32::new(0);
            let sends = gate.send(
                |_, _| {
                    tried.fetch_add(1, Relaxed);
                    Poll::Pending
                },
                |fd| {
                    tried.fetch_add(1, Relaxed);
                    full(fd)
                },
            );
            let ends = tokio::time::timeout(TRIES * FULL_QUEUE_PAUSE, sends).await;
            assert!(ends.is_err(), "it is full");
            assert_eq!(tried.load(Relaxed) > 2, !open, "{tried:?} tries");
        }
    }

    /// A gate with a datagram socket, and the socket at the other end.
    fn datagrams() -> (Arc<Gate<UnixDatagram>>, UnixDatagram) {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        let (kind, fd) = (ListenerKind::UnixDatagram, ours.into_std().unwrap().into());
        (Gate::parked("log", kind, Address::Unix(None), fd), theirs)
    }

    fn write(fd: BorrowedFd<'_>) -> io::Result<usize> {
        Ok(rustix::io::write(fd, b"x")?)
    }

    fn send(gate: &Gate<UnixDatagram>) -> impl Future<Output = io::Result<usize>> {
        gate.send(|socket, cx| socket.poll_send(cx, b"x"), write)
    }

    #[tokio::test]
    async fn what_waits_to_be_sent_goes_on_when_the_gate_is_parked_or_closed() {
        let (gate, theirs) = datagrams();
        assert_eq!(soon(send(&gate)).await.unwrap(), 1, "it is parked");
        gate.open().unwrap();
        assert_eq!(soon(send(&gate)).await.unwrap(), 1);
        while gate.with_fd(write).is_ok() {}
        let mut waits = pin!(send(&gate));
        is_woken_by(waits.as_mut(), || gate.park().unwrap()).await;
        assert!(is_pending(waits.as_mut()).await, "the queue is full");
        assert_eq!(soon(theirs.recv(&mut [0])).await.unwrap(), 1);
        assert_eq!(soon(waits).await.unwrap(), 1, "it is tried again while it is parked");

        let error = gate.send(|_, _| Poll::Pending, |_| Err(io::ErrorKind::PermissionDenied.into())).await;
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::PermissionDenied);

        let mut waits = pin!(send(&gate));
        assert!(is_pending(waits.as_mut()).await, "the queue is full");
        gate.close();
        assert_eq!(soon(waits).await.unwrap_err().kind(), io::ErrorKind::NotConnected);
    }

    #[tokio::test]
    async fn a_claim_that_is_dropped_tells_it_unless_the_driver_closed_it() {
        let dropped = Arc::new(Notify::new());
        let (gate, address) = tcp();
        gate.open().unwrap();
        drop(Claim::new(gate.clone(), dropped.clone()));
        soon(dropped.notified()).await;
        assert!(gate.is_closed());
        assert!(TcpStream::connect(address).is_err(), "clients are refused");

        let (gate, _) = tcp();
        gate.close();
        drop(Claim::new(gate, dropped.clone()));
        assert!(is_pending(pin!(dropped.notified())).await);
    }
}
