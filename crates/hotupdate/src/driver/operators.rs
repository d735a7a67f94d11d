//! Callers on the control socket: who may, what they ask, and successors that want to join.
//!
//! Deliberately absent: the form of what is said, see [`crate::control::session`].

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use hotupdate_proto::operator::Reply;
use hotupdate_proto::{Join, Refusal, incumbent, operator};
use tokio::sync::{mpsc, oneshot};

use super::incumbent::monotonic_ns;
use super::{Driver, PendingCommand, Role, SealedState, TaskResult};
use crate::control::Control;
use crate::control::Ownership;
use crate::control::replies;
use crate::control::session::{Outcome, Request};
use crate::error::{Doing, Result};
use crate::lifecycle::Lifecycle;
use crate::link::channel::{self, Receiver};
use crate::listeners::gate::GateControl;
use crate::state::Export;

/// How long between two tries to open a listener, which fails when the kernel is short of memory or of watches (epoll_ctl(2)).
const REOPEN_PAUSE: Duration = Duration::from_millis(50);

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
        match machine.command(Instant::now(), command) {
            Err(error) => drop(reply.send(Err(error))),
            Ok(effects) => {
                match waits {
                    Some(rollback) => self.pending_commands.push(PendingCommand { rollback, reply }),
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
                if let Some(end) = self.sessions.end_of_refusal() {
                    tracing::warn!(successor = %join.process, %refusal, "a successor is turned away{end}");
                }
                self.turn_away(&receiver, replies::refused(&refusal));
            }
            Ok(()) => self.export(move |sealed| TaskResult::Exported { join, receiver, sealed }),
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
    pub(super) fn export(&self, done: impl FnOnce(io::Result<SealedState>) -> TaskResult + Send + 'static) {
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

    pub(super) async fn done(&mut self, done: TaskResult) {
        match done {
            TaskResult::Exported { join, receiver, sealed } => self.offer(join, *receiver, sealed).await,
            // The attempt that it was for has ended; the accept loops run again.
            TaskResult::Finished { stop, .. } if stop != self.stops => {}
            TaskResult::Finished { mut stopped, sealed, .. } => {
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
            TaskResult::Rows(rows) if self.draining => self.send_rows(&rows),
            TaskResult::Rows(_) => {}
            TaskResult::Child { child, attempt, status } => self.child_ended(child, &attempt, status),
            TaskResult::Flushed => drop(self.lifecycle.send_replace(Lifecycle::Drained)),
        }
    }

    pub(super) fn own(&mut self, ownership: Ownership) {
        let Self { settings, sessions, .. } = self;
        let control = Control::new(ownership, &settings.path, sessions.clone(), settings.allowed.clone());
        self.control = Some(control);
    }

    /// Opens everything that a process serves on. What cannot be opened now is tried again: there is nobody else to do it.
    pub(super) fn open_all(&mut self) {
        let listeners = self.resources.gates.iter().map(|(gate, _)| gate.as_ref());
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
        for (gate, _) in &self.resources.gates {
            gate.open().doing(|| format!("opening the listener {:?}", gate.name()))?;
        }
        Ok(())
    }
}
