//! `hotctl handoff -- COMMAND`: starts the new version and follows it until it serves or fails.
//!
//! The successor is recognised by the attempt id with which it joins, and not by its pid: the child that was
//! started may be a wrapper that has exited by then.

use std::time::Instant;

use hotupdate_proto::Process;
use hotupdate_proto::operator::{HandoffResult, LastFailure, ProcessState, ProcessStatus, Status};

use super::change;
use super::successor::Successor;
use crate::cli::Handoff;
use crate::client::{CallError, Client};
use crate::context::{Context, NOTHING, TICK};
use crate::exit::Failure;
use crate::progress::Progress;
use crate::status_stream::StatusStream;

/// How far the attempt is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Starting,
    WarmingUp,
    Standby,
    Released,
}

/// What became of the call that releases the successor.
enum Release {
    NotAsked,
    Asked(Client),
    Answered,
}

/// One attempt to replace the version that serves.
pub(super) struct Attempt<'a> {
    pub(super) context: &'a Context<'a>,
    pub(super) before: &'a Status,
    pub(super) successor: Successor,
    pub(super) stage: Stage,
    /// The process that joined with our attempt id.
    pub(super) joined: Option<Process>,
    /// The child exited with status 0, as a wrapper may that leaves the successor behind.
    pub(super) forked: bool,
    progress: &'a Progress,
    release: Release,
}

/// Starts the command and waits until it serves.
pub(super) fn run(
    context: &Context<'_>,
    handoff: &Handoff,
    before: &Status,
    progress: &Progress,
    until: Instant,
) -> Result<HandoffResult, Failure> {
    // The stream is opened first, so that nothing is missed.
    let stream = StatusStream::new(context);
    progress.at(Stage::Starting.word());
    let successor = Successor::start(handoff, until.saturating_duration_since(Instant::now()))
        .map_err(|failure| failure.still(&before.serving.process))?;
    let (stage, release) = (Stage::Starting, Release::NotAsked);
    Attempt { context, before, successor, stage, joined: None, forked: false, progress, release }
        .follow(stream, until)
}

impl Attempt<'_> {
    fn follow(mut self, mut stream: StatusStream<'_>, until: Instant) -> Result<HandoffResult, Failure> {
        loop {
            if let Some(status) = stream.next() {
                if self.serves(&status) {
                    return Ok(change::changed(&status, self.before));
                }
                self.look_at(&status)?;
            }
            self.look_at_release()?;
            if let Some(served) = self.look_at_child()? {
                return Ok(change::changed(&served, self.before));
            }
            if self.context.interrupted() {
                return Err(self.interrupted());
            }
            if Instant::now() >= until {
                return self.timed_out();
            }
        }
    }

    /// It serves. That it owns the control socket is not enough: it does so a little earlier.
    pub(super) fn serves(&self, status: &Status) -> bool {
        self.is_ours(status.serving.attempt.as_ref()) && status.serving.state == ProcessState::Serving
    }

    /// It has joined, and the handoff is not over.
    pub(super) fn under_way<'s>(&self, status: &'s Status) -> Option<&'s ProcessStatus> {
        status.successor.as_ref().filter(|successor| self.is_ours(successor.attempt.as_ref()))
    }

    /// The service gave it up.
    pub(super) fn given_up<'s>(&self, status: &'s Status) -> Option<&'s LastFailure> {
        status.last_failure.as_ref().filter(|failure| self.is_ours(failure.attempt.as_ref()))
    }

    fn is_ours(&self, attempt: Option<&String>) -> bool {
        attempt == Some(&self.successor.attempt)
    }

    fn look_at(&mut self, status: &Status) -> Result<(), Failure> {
        if let Some(failure) = self.given_up(status) {
            return Err(self.failed(failure));
        }
        let Some(ours) = self.under_way(status) else { return Ok(()) };
        self.joined = Some(ours.process.clone());
        match (ours.state, &self.release) {
            (ProcessState::Standby, Release::NotAsked) => self.ask_for_release(),
            (ProcessState::Starting, Release::NotAsked) => self.reached(Stage::WarmingUp),
            _ => {}
        }
        Ok(())
    }

    fn reached(&mut self, stage: Stage) {
        self.stage = stage;
        self.progress.at(stage.word());
    }

    /// The reply comes when the successor serves, so the status is followed meanwhile.
    fn ask_for_release(&mut self) {
        self.reached(Stage::Standby);
        if let Ok(client) = self.context.open("Handoff", &NOTHING, false, self.context.answer_timeout()) {
            self.release = Release::Asked(client);
            self.reached(Stage::Released);
        }
    }

    fn look_at_release(&mut self) -> Result<(), Failure> {
        let Release::Asked(client) = &mut self.release else { return Ok(()) };
        match client.receive::<HandoffResult>(Instant::now() + TICK / 10) {
            Ok(None) => {}
            // Which process serves is read from the status, as in every other case.
            Ok(Some(_)) => self.release = Release::Answered,
            Err(CallError::Refused { name, reason }) if is_final(&name) => {
                return Err(self.not_released(reason));
            }
            // Another operator released it, or the service was busy: the next status tells.
            Err(_) => self.release = Release::NotAsked,
        }
        Ok(())
    }

    /// After the exit of the child: the status in which the successor serves nevertheless, or why it does
    /// not.
    fn look_at_child(&mut self) -> Result<Option<Status>, Failure> {
        match self.successor.ended() {
            Some(ended) if ended.success() => self.forked = true,
            Some(ended) => return self.ended(ended),
            None => {}
        }
        Ok(None)
    }
}

/// Errors of `Handoff` after which another call cannot succeed.
fn is_final(name: &str) -> bool {
    matches!(name, "Failed" | "NotAllowed" | "PermissionDenied" | "MethodNotFound" | "MethodNotImplemented")
}
