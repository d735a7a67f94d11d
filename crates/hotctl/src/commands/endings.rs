//! How a handoff that was started here ends badly, in one line each.
//!
//! Deliberately absent: the good end, see [`super::change::sentence`].

use std::process::ExitStatus;
use std::time::{Duration, Instant};

use hotupdate_proto::Fault;
use hotupdate_proto::operator::{HandoffResult, LastFailure, Status};

use super::start::{Attempt, Stage};
use super::{change, ordinary, successor};
use crate::context::{NOTHING, look_until};
use crate::exit::{Exit, Failure};
use crate::text;

/// How long the second half of a story is waited for: the child's exit after the service gave the attempt up, the
/// service's words after the child ended. They come at once if they come.
const SETTLE: Duration = Duration::from_millis(500);

/// The deadline `serving` is 2 s by default; if a service has a longer one, its successor is told to end nevertheless, which
/// a service survives at every moment.
const OVER: Duration = Duration::from_secs(3);

impl Stage {
    /// For the progress line.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::WarmingUp => "warming up",
            Self::Standby => "ready",
            Self::Released => "released",
        }
    }

    fn missed(self) -> &'static str {
        match self {
            Self::Starting | Self::WarmingUp => "before it was ready",
            Self::Standby | Self::Released => "before it served",
        }
    }
}

impl Attempt<'_> {
    /// The child ended with an error. It may have served for a moment, or have left something behind.
    pub(super) fn ended(&mut self, ended: ExitStatus) -> Result<Option<Status>, Failure> {
        let status = self.settled();
        if let Some(served) = status.as_ref().filter(|status| self.serves(status)) {
            return Ok(Some(served.clone()));
        }
        let why = status.as_ref().and_then(|status| self.why(status));
        let line = self.exit_line(ended, why);
        Err(self.as_seen(Failure::refused(line), status.as_ref()))
    }

    /// The service gave the attempt up; its words are the better ones unless all it saw is that the process is gone.
    pub(super) fn failed(&mut self, failure: &LastFailure) -> Failure {
        let LastFailure { successor, reason, .. } = failure;
        let line = match self.last_words() {
            Some(ended) if !ended.success() => self.exit_line(ended, telling(reason)),
            Some(_) => format!("successor {successor} failed: {reason}"),
            None => format!("successor {successor} failed: {reason}; {} still runs", self.successor.pid()),
        };
        self.still(Failure::refused(line))
    }

    /// The service did not release the successor.
    pub(super) fn not_released(&mut self, reason: String) -> Failure {
        let line = match self.last_words() {
            Some(ended) if !ended.success() => self.exit_line(ended, telling(&reason)),
            _ => reason,
        };
        self.still(Failure::refused(line))
    }

    pub(super) fn interrupted(&self) -> Failure {
        let who = self.joined.as_ref().map_or_else(|| self.successor.pid().to_string(), ToString::to_string);
        self.still(Failure::new(Exit::Interrupted, format!("interrupted; successor {who} goes on")))
    }

    /// Ends the attempt, unless it came to a good end in this very moment.
    pub(super) fn timed_out(&mut self) -> Result<HandoffResult, Failure> {
        let mut status = self.context.glance();
        if status.as_ref().is_some_and(|status| self.under_way(status).is_some()) {
            status = self.abort();
        }
        if let Some(served) = status.as_ref().filter(|status| self.serves(status)) {
            return Ok(change::changed(served, self.before));
        }
        let line = self.late_line();
        Err(self.as_seen(Failure::new(Exit::TimedOut, line), status.as_ref()))
    }

    fn late_line(&mut self) -> String {
        let (pid, after) = (self.successor.pid(), text::duration(self.context.patience()));
        let stage = self.stage.word();
        match self.successor.terminate() {
            true => format!("successor {pid} does not serve after {after} ({stage}); it was told to end"),
            false if self.joined.is_none() => {
                format!("{pid} exited (status 0), and nobody joined in {after}")
            }
            false => format!("the successor that {pid} left behind does not serve after {after} ({stage})"),
        }
    }

    fn exit_line(&self, ended: ExitStatus, why: Option<String>) -> String {
        let (pid, how, missed) = (self.successor.pid(), successor::how(ended), self.stage.missed());
        let why = why.map_or_else(String::new, |why| format!(": {why}"));
        format!("successor {pid} {how} {missed}{why}")
    }

    /// What the service knows of a child that ended: its own words, or who was there first.
    fn why(&self, status: &Status) -> Option<String> {
        let words = self.given_up(status).and_then(|failure| telling(&failure.reason));
        let other = status.successor.as_ref().filter(|_| self.under_way(status).is_none());
        words.or_else(|| other.map(|other| format!("{} is already there ({})", other.process, other.state)))
    }

    /// The status once the service has noticed that the child ended. What it left behind is not waited for: exit code 1
    /// promises that the old version still serves.
    fn settled(&self) -> Option<Status> {
        look_until(Instant::now() + SETTLE, || self.unless_under_way()).unwrap_or_else(|| self.abort())
    }

    fn last_words(&mut self) -> Option<ExitStatus> {
        look_until(Instant::now() + SETTLE, || self.successor.ended())
    }

    /// A successor that is released cannot be called back: it serves in a moment, or misses its deadline.
    fn abort(&self) -> Option<Status> {
        let aborted = || match ordinary::call(self.context, "Abort", &NOTHING) {
            Ok(()) => Some(self.context.glance()),
            Err(_) => self.unless_under_way(),
        };
        look_until(Instant::now() + OVER, aborted).unwrap_or_else(|| self.context.glance())
    }

    /// How things are, if anybody says so, once the attempt has come to an end.
    fn unless_under_way(&self) -> Option<Option<Status>> {
        let status = self.context.glance();
        status.as_ref().is_none_or(|status| self.under_way(status).is_none()).then_some(status)
    }

    /// The service itself has just said so.
    fn still(&self, failure: Failure) -> Failure {
        failure.still(&self.before.serving.process)
    }

    fn as_seen(&self, failure: Failure, status: Option<&Status>) -> Failure {
        match status {
            Some(status) => failure.still(&status.serving.process),
            None => failure.silent(&self.before.serving.process),
        }
    }
}

/// The words of the service, unless they say no more than that the process is gone.
fn telling(reason: &str) -> Option<String> {
    (!reason.contains(&Fault::PeerGone.to_string())).then(|| reason.to_owned())
}
