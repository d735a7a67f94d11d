//! `hotctl handoff -- COMMAND`: starts the new version and follows it until it serves or fails.
//!
//! The attempt belongs to this process: if it ends before the release, whatever ends it, the attempt does,
//! too.

use std::time::Instant;

use hotupdate_proto::Process;
use hotupdate_proto::operator::{HandoffResult, ProcessState, Status};

use super::attempt::{AttemptName, Claim};
use super::owner::{Lock, Owner};
use super::successor::Successor;
use super::{change, output};
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
    pub(super) name: AttemptName,
    pub(super) successor: Successor,
    pub(super) stage: Stage,
    /// The process that joined with our attempt id.
    pub(super) joined: Option<Process>,
    /// The child exited with status 0, as a wrapper may that leaves the successor behind.
    pub(super) forked: bool,
    progress: &'a Progress,
    release: Release,
    claim: Claim<'a>,
    /// Of the version that serves. That one may have no time to tell that it stops.
    lock: Option<Lock>,
}

/// Starts the command and waits until it serves.
pub(super) fn run(
    context: &Context<'_>,
    handoff: &Handoff,
    before: &Status,
    progress: &Progress,
    until: Instant,
) -> Result<HandoffResult, Failure> {
    context.catch_termination()?;
    let name = AttemptName::new().map_err(|error| Failure::refused(format!("no random number: {error}")))?;
    // The stream is opened first, so that nothing is missed.
    let stream = StatusStream::new(context);
    let claim = Claim::new(context, name.clone());
    progress.at(Stage::Starting.word());
    let left = until.saturating_duration_since(Instant::now());
    let successor = Successor::start(handoff, &context.socket, &name, left)
        .map_err(|failure| failure.still(&before.serving.process))?;
    let (stage, release) = (Stage::Starting, Release::NotAsked);
    let mut attempt = Attempt {
        context,
        before,
        name,
        successor,
        stage,
        joined: None,
        forked: false,
        progress,
        release,
        claim,
        lock: Owner::of(&context.socket).lock(),
    };
    let changed = attempt.follow(stream, until)?;
    attempt.successor.leave();
    let (is_relayed, pid) = (attempt.successor.is_relayed(), attempt.successor.pid());
    // What it has said until now comes first.
    drop(attempt);
    if is_relayed {
        let elsewhere = output::elsewhere();
        context
            .report
            .say(format!("the output of {pid} goes to {elsewhere} from here on; --log FILE keeps it"));
    }
    Ok(changed)
}

impl Attempt<'_> {
    fn follow(&mut self, mut stream: StatusStream<'_>, until: Instant) -> Result<HandoffResult, Failure> {
        loop {
            self.claim.keep();
            match stream.next() {
                Some(status) if self.name.serves(&status) => {
                    return Ok(change::changed(&status, self.before));
                }
                Some(status) => self.look_at(&status)?,
                None if self.lock.as_ref().is_some_and(Lock::is_stopped) => return Err(self.stopped()),
                None => {}
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

    fn look_at(&mut self, status: &Status) -> Result<(), Failure> {
        if let Some(failure) = self.name.given_up(status) {
            return Err(self.failed(failure, status));
        }
        let Some(ours) = self.name.under_way(status) else { return Ok(()) };
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
            Some(ended) if ended.success() && self.successor.has_left_processes() => self.forked = true,
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
