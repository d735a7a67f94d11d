//! Named descriptors behind a gate: open, parked, or closed for ever.
//!
//! Accepting is one system call under the lock of the gate. Parking takes the same lock, so when it returns, nothing is
//! accepted any more: that is confirmed, whatever the application's accept loop is doing. A parked listener is taken out
//! of epoll before, because epoll watches open file descriptions and both processes share this one (epoll(7), Q6).

use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hotupdate_proto::{ListenerItem, ListenerKind};
use smol_str::SmolStr;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use crate::address::Address;
use crate::listeners::inherited::Offered;

/// How long between two tries to send while the receiver's queue is full and the descriptor is parked.
const FULL_QUEUE_PAUSE: Duration = Duration::from_millis(2);

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
    pub(crate) name: SmolStr,
    kind: ListenerKind,
    pub(crate) address: Address,
    slot: Mutex<Slot<T>>,
    state: watch::Sender<GateState>,
}

/// The application's end of a gate. Nothing would accept behind it once it is dropped, so that closes the gate: clients are
/// refused, which they notice, instead of waiting for an answer that cannot come.
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
    fn name(&self) -> &SmolStr;
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
            state: watch::Sender::new(GateState::Parked),
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
        let mut state = self.state.subscribe();
        loop {
            let seen = *state.borrow_and_update();
            match seen {
                GateState::Closed => return None,
                GateState::Parked => drop(state.changed().await),
                GateState::Open => tokio::select! {
                    biased;
                    result = self.poll_open(&mut poll) => return Some(result),
                    _ = state.changed() => {}
                },
            }
        }
    }

    /// Sends something whenever the gate is not closed: that takes nothing away from the process that serves, and a client
    /// that asked just before this one was parked gets its answer.
    pub(crate) async fn send(
        &self,
        mut open: impl FnMut(&T, &mut Context<'_>) -> Poll<io::Result<usize>>,
        parked: impl Fn(BorrowedFd<'_>) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let mut state = self.state.subscribe();
        loop {
            let seen = *state.borrow_and_update();
            let sent = match seen {
                GateState::Closed => {
                    return Err(io::Error::new(
                        io::ErrorKind::NotConnected,
                        "this process does not serve any more",
                    ));
                }
                GateState::Parked => match self.with_fd(&parked) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        // A parked descriptor is not in epoll, so the queue has to be looked at.
                        let _ = timeout(FULL_QUEUE_PAUSE, state.changed()).await;
                        continue;
                    }
                    sent => Some(sent),
                },
                GateState::Open => tokio::select! {
                    biased;
                    sent = self.poll_open(&mut open) => Some(sent),
                    _ = state.changed() => None,
                },
            };
            match sent {
                // It changed in between.
                Some(Err(_)) if *state.borrow() != seen => {}
                Some(sent) => return sent,
                None => {}
            }
        }
    }

    /// Is never ready unless the gate is open.
    async fn poll_open<R>(&self, poll: &mut impl FnMut(&T, &mut Context<'_>) -> Poll<R>) -> R {
        std::future::poll_fn(|cx| match &*self.slot() {
            Slot::Open(open) => poll(open, cx),
            // The state is about to change.
            Slot::Parked(_) | Slot::Closed => Poll::Pending,
        })
        .await
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
        match std::mem::replace(&mut *slot, Slot::Closed) {
            Slot::Open(open) => {
                *slot = Slot::Parked(open.deregister()?);
                self.state.send_replace(GateState::Parked);
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
        self.state.send_replace(GateState::Closed);
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
    use super::*;
    use crate::listeners::stream::Acceptor;

    /// A listener that could not be opened, and a process that hands over while it tries again.
    #[tokio::test]
    async fn what_is_parked_can_be_parked() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let gate = Gate::<Acceptor>::parked("http", ListenerKind::Tcp, address.into(), listener.into());
        gate.park().unwrap();
        assert!(std::net::TcpStream::connect(address).is_ok(), "it is closed");
        gate.open().unwrap();
        for _ in 0..2 {
            gate.park().unwrap();
            gate.duplicate().unwrap();
        }
        gate.close();
        gate.park().unwrap();
        assert!(gate.duplicate().is_err(), "closed for ever");
    }

    /// A parked descriptor is not in epoll: a task that is not told waits for ever.
    #[tokio::test]
    async fn a_task_that_waits_is_told_when_the_gate_is_parked() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let gate = Gate::<Acceptor>::parked("http", ListenerKind::Tcp, address.into(), listener.into());
        gate.open().unwrap();
        let sent = gate.send(|_, _| Poll::Pending, |_| Ok(7));
        tokio::pin!(sent);
        assert!(timeout(Duration::ZERO, &mut sent).await.is_err(), "the queue is full");
        gate.park().unwrap();
        let sent = timeout(Duration::from_secs(60), sent).await.expect("it is told");
        assert_eq!(sent.unwrap(), 7);
    }
}
