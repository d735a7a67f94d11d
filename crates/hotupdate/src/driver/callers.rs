//! Callers on the control socket: who may, what they ask, and successors that want to join.
//!
//! Deliberately absent: the form of what is said, see [`crate::session`].

use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hotupdate_proto::operator::Reply;
use hotupdate_proto::{Join, ListenerKind, Refusal, incumbent, operator};
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::timeout;

use super::effects::monotonic_ns;
use super::reserve::Reserve;
use super::{Done, Driver, Role, Sealed, Waiting};
use crate::address::Address;
use crate::channel::{self, Receiver};
use crate::complaint::Complaint;
use crate::control::{self, Ownership};
use crate::error::{Doing, Result};
use crate::gate::{Gate, GateControl};
use crate::listener::Acceptor;
use crate::serving::Lifecycle;
use crate::session::{self, Outcome, Request, Rules};
use crate::state::Export;

/// Callers on the control socket at the same time; they cost a descriptor each. If more come, the one that has been silent
/// longest has to go, and if none is silent the newest is turned away.
const MAX_SESSIONS: usize = 256;

/// How long a caller waits for the place of one that is silent.
const CROWDED_PAUSE: Duration = Duration::from_millis(10);

/// How many of those that are silent are asked for their place.
const CROWDED_TRIES: u32 = 5;

/// How long accepting callers pauses after an error, such as being out of descriptors, and between two looks for more.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long between two tries to open a listener, which fails when the kernel is short of memory or of watches (epoll_ctl(2)).
const REOPEN_PAUSE: Duration = Duration::from_millis(50);

/// The path's listener and its lock.
pub(super) struct Control {
    pub(super) gate: Arc<Gate<Acceptor>>,
    lock: OwnedFd,
}

impl Driver {
    pub(super) async fn request(&mut self, request: Request) {
        match request {
            Request::Status(reply) => drop(reply.send(self.status())),
            Request::Monitor(reply) => drop(reply.send((self.status(), self.monitor.subscribe()))),
            Request::Connections(reply) => drop(reply.send(self.all_rows())),
            Request::Command(command, reply) => self.command(command, reply).await,
            Request::Join(join, receiver) => self.join(join, receiver),
        }
    }

    pub(super) async fn command(&mut self, command: operator::Command, reply: oneshot::Sender<Outcome>) {
        let waits = match command {
            operator::Command::Handoff => Some(false),
            operator::Command::Rollback => Some(true),
            _ => None,
        };
        let Role::Incumbent(machine) = &mut self.role else {
            let _ = reply.send(Err(operator::OperatorError::NotServing));
            return;
        };
        let stops = matches!(command, operator::Command::Stop { .. });
        match machine.command(Instant::now(), command) {
            Err(error) => drop(reply.send(Err(error))),
            Ok(effects) => {
                self.for_good |= stops;
                match waits {
                    Some(rollback) => self.waiting.push(Waiting { rollback, reply }),
                    None => drop(reply.send(Ok(None))),
                }
                self.perform(effects).await;
            }
        }
    }

    pub(super) fn join(&mut self, join: Join, receiver: Box<Receiver>) {
        let admitted = match &self.role {
            Role::Incumbent(machine) => machine.admits(&join),
            _ => Err(Refusal::Starting),
        };
        match admitted {
            Err(refusal) => {
                if let Some(end) = self.rules.end_of_refusal() {
                    tracing::warn!(successor = %join.process, %refusal, "a successor is turned away{end}");
                }
                self.turn_away(&receiver, session::refused(&refusal));
            }
            Ok(()) => self.export(move |sealed| Done::Exported { join, receiver, sealed }),
        }
    }

    pub(super) fn turn_away(&self, receiver: &Receiver, reply: Reply) {
        let (stream, write) = (receiver.stream().clone(), self.settings.timing.write);
        tokio::spawn(async move {
            if let Ok(bytes) = hotupdate_proto::frame::encode(&reply) {
                let _ = channel::send(&stream, &bytes, &[], tokio::time::Instant::now() + write).await;
            }
        });
    }

    /// Asks the application for its state where it can block nobody.
    pub(super) fn export(&self, done: impl FnOnce(io::Result<Sealed>) -> Done + Send + 'static) {
        let back = self.done.0.clone();
        if self.exports.is_empty() {
            // The answer is looked at next, and the queue is only that long if the driver is far behind.
            if let Err(mpsc::error::TrySendError::Full(done)) = back.try_send(done(Ok(Vec::new()))) {
                tokio::spawn(async move { back.send(done).await });
            }
            return;
        }
        let exports = self.exports.clone();
        tokio::task::spawn_blocking(move || {
            // Without an answer everybody would wait for a deadline that says nothing about the reason.
            let run = AssertUnwindSafe(|| exports.iter().map(Export::run).collect());
            let panicked = |_| Err(io::Error::other("the application's export panicked"));
            let sealed = catch_unwind(run).unwrap_or_else(panicked);
            drop(back.blocking_send(done(sealed)));
        });
    }

    pub(super) async fn done(&mut self, done: Done) {
        match done {
            Done::Exported { join, receiver, sealed } => self.offer(join, *receiver, sealed).await,
            // The attempt that it was for has ended; the accept loops run again.
            Done::Finished { stop, .. } if stop != self.stops => {}
            Done::Finished { mut stopped, sealed, .. } => {
                let event = match sealed {
                    Ok(sealed) => {
                        stopped.ago = Duration::from_nanos(monotonic_ns().saturating_sub(stopped.at_ns));
                        stopped.state = sealed.iter().map(|(item, _)| item.clone()).collect();
                        self.sealed = sealed;
                        incumbent::Event::Stopped(stopped)
                    }
                    Err(error) => {
                        incumbent::Event::CannotStop(format!("the state cannot be exported: {error}"))
                    }
                };
                self.incumbent(event).await;
            }
            // After a rollback the link that they were for is another's.
            Done::Rows(rows) if self.draining => self.send_rows(&rows),
            Done::Rows(_) => {}
            Done::Child { child, attempt, status } => self.child_ended(child, &attempt, status),
            Done::Flushed => drop(self.lifecycle.send_replace(Lifecycle::Drained)),
        }
    }

    pub(super) fn own(&mut self, ownership: Ownership) {
        let Ownership { listener, lock } = ownership;
        let address = Address::Unix(Some(self.settings.path.clone()));
        let gate = Gate::parked("control", ListenerKind::Unix, address, listener);
        let rules = self.rules.clone();
        tokio::spawn(accept_callers(gate.clone(), rules, self.settings.allowed.clone()));
        self.control = Some(Control { gate, lock });
    }

    /// Opens everything that a process serves on. What cannot be opened now is tried again: there is nobody else to do it.
    pub(super) fn open_all(&mut self) {
        let listeners = self.outfit.gates.iter().map(|(gate, _)| gate.as_ref());
        let control = self.control.iter().map(|control| control.gate.as_ref() as &dyn GateControl);
        let mut failed = None;
        for gate in listeners.chain(control) {
            if let Err(error) = gate.open() {
                failed = Some((gate.name(), error));
            }
        }
        if let (Some((listener, error)), None) = (&failed, self.reopen_at) {
            tracing::error!(%listener, %error, "a listener cannot be opened; it is tried again until it can");
        }
        self.reopen_at = failed.map(|_| Instant::now() + REOPEN_PAUSE);
    }

    pub(super) fn open_gates(&self) -> Result<()> {
        for (gate, _) in &self.outfit.gates {
            gate.open().doing(|| format!("opening the listener {:?}", gate.name()))?;
        }
        Ok(())
    }
}

impl Drop for Control {
    /// The task that accepts callers holds the gate as long as it is not closed.
    fn drop(&mut self) {
        self.gate.close();
    }
}

impl Control {
    pub(super) fn ownership(&self) -> io::Result<Ownership> {
        Ok(Ownership { listener: self.gate.duplicate()?, lock: self.lock.try_clone()? })
    }
}

/// The next caller. Meanwhile what is missing of the reserve is taken as soon as there is room.
async fn next_caller(gate: &Gate<Acceptor>, reserve: &Reserve) -> Option<io::Result<UnixStream>> {
    loop {
        tokio::select! {
            accepted = gate.accept_caller() => return accepted,
            () = tokio::time::sleep(ACCEPT_PAUSE), if reserve.is_short() => drop(reserve.fill()),
        }
    }
}

async fn accept_callers(gate: Arc<Gate<Acceptor>>, rules: Rules, allowed: Vec<u32>) {
    let slots = Arc::new(Semaphore::new(MAX_SESSIONS));
    let reserve = Reserve::default();
    // What is missing is taken later.
    let _ = reserve.fill();
    let (complaint, mut told) = (Complaint::default(), false);
    while let Some(accepted) = next_caller(&gate, &reserve).await {
        let stream: UnixStream = match accepted {
            Ok(stream) => stream,
            // One that was held back makes room.
            Err(_) if reserve.spend() => continue,
            Err(error) => {
                if !std::mem::replace(&mut told, true)
                    && let Some(unsaid) = complaint.due()
                {
                    tracing::warn!(%error, "callers on the control socket cannot be accepted{unsaid}");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        told = false;
        let uid = stream.peer_cred().map_or(u32::MAX, |credentials| credentials.uid());
        if !control::may(uid, &allowed) {
            let refusal = Refusal::NotAllowed { uid };
            let unknown =
                if control::is_known(uid) { "" } else { ", or a user that our user namespace does not map" };
            rules.complain(format!("{refusal}{unknown}"));
            tokio::spawn(session::refuse(stream, session::refused(&refusal), rules.write));
            continue;
        }
        let slot = match slots.clone().try_acquire_owned() {
            Ok(slot) => Some(slot),
            Err(_) => make_room(&slots, &rules).await,
        };
        let Some(slot) = slot else {
            tokio::spawn(session::refuse(stream, session::crowded(), Duration::ZERO));
            continue;
        };
        let (rules, reserve) = (rules.clone(), reserve.clone());
        tokio::spawn(async move {
            session::serve(stream, rules).await;
            drop(slot);
            let _ = reserve.fill();
        });
    }
}

/// A flood of callers that say nothing must not keep out one that has something to say, so it pushes itself out.
async fn make_room(slots: &Arc<Semaphore>, rules: &Rules) -> Option<OwnedSemaphorePermit> {
    rules.complain(format_args!("too many callers on the control socket, at most {MAX_SESSIONS} at a time"));
    let mut slot = pin!(slots.clone().acquire_owned());
    // The first may just have said something; then it is the next one's turn.
    for _ in 0..CROWDED_TRIES {
        rules.silent.dismiss_one();
        if let Ok(slot) = timeout(CROWDED_PAUSE, &mut slot).await {
            return slot.ok();
        }
    }
    None
}
