//! Why a handoff that was started here failed, in one line each.

use std::process::ExitStatus;
use std::time::Instant;

use hotupdate_proto::Fault;
use hotupdate_proto::operator::{AbortParams, HandoffResult, LastFailure, Status};
use hotupdate_proto::timing::fixed::operator::{ABORT_TIMEOUT, SETTLE};

use super::start::{Attempt, Stage};
use super::{change, simple, successor};
use crate::context::{Interrupt, look_until};
use crate::exit::{Exit, Failure};
use crate::text;

impl Stage {
    /// For the progress line.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::WarmingUp => "warming up",
            Self::Standby => "in standby",
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
    /// The child exited with an error. It may have served for a moment, or have left a process behind.
    pub(super) fn ended(&mut self, ended: ExitStatus) -> Result<Option<Status>, Failure> {
        let status = self.settled();
        if let Some(served) = status.as_ref().filter(|status| self.name.serves(status)) {
            return Ok(Some(served.clone()));
        }
        let why = status.as_ref().and_then(|status| self.why(status));
        // A program that has put itself into the background is followed; one that a daemon starts is not.
        let nothing = || "no successor has joined, and nothing that it started is left".to_owned();
        let why = why.or_else(|| (ended.success() && self.joined.is_none()).then(nothing));
        let line = self.exit_line(ended, why);
        Err(self.as_seen(Failure::refused(line), status.as_ref()))
    }

    /// The service gave the attempt up. Its reason is printed, unless that is only that the process has
    /// exited.
    pub(super) fn failed(&mut self, failure: &LastFailure, status: &Status) -> Failure {
        let LastFailure { successor, reason, .. } = failure;
        let line = match self.last_words() {
            Some(ended) if !ended.success() => self.exit_line(ended, telling(reason)),
            Some(_) => format!("successor {successor} failed: {reason}"),
            None => {
                self.successor.terminate();
                format!("successor {successor} failed: {reason}; {} was sent SIGTERM", self.successor.pid())
            }
        };
        Failure::refused(line).seen(status)
    }

    /// Another operator, or a supervisor, has stopped the service, and it told of this attempt no more.
    pub(super) fn stopped(&mut self) -> Failure {
        let (before, pid) = (&self.before.serving.process, self.successor.pid());
        let mut line = format!("{before} was stopped meanwhile, and no process serves");
        if self.successor.terminate() {
            line = format!("{line}; successor {pid} was sent SIGTERM");
        }
        Failure::new(Exit::NotRunning, line)
    }

    /// The service did not release the successor.
    pub(super) fn not_released(&mut self, reason: String) -> Failure {
        let line = match self.last_words() {
            Some(ended) if !ended.success() => self.exit_line(ended, telling(&reason)),
            _ => reason,
        };
        self.successor.terminate();
        self.as_seen(Failure::refused(line), self.context.try_status().as_ref())
    }

    /// The operator does not want it any more. Once it is released, it is not undone.
    pub(super) fn interrupted(&mut self) -> Failure {
        let how = self.context.interrupt().map_or("was interrupted", Interrupt::what_happened);
        let status = self.end(&format!("`hotctl handoff` {how}"));
        if let Some(served) = status.as_ref().filter(|status| self.name.serves(status)) {
            let line = "interrupted, after the successor was released";
            return Failure::new(Exit::Interrupted, line).now(&served.serving.process);
        }
        let who = self.joined.as_ref().map_or_else(|| self.successor.pid().to_string(), ToString::to_string);
        let sent =
            if self.successor.terminate() { format!("; {who} was sent SIGTERM") } else { String::new() };
        let failure = Failure::new(Exit::Interrupted, format!("interrupted, and the attempt with it{sent}"));
        match status {
            Some(status) => failure.seen(&status),
            None => failure,
        }
    }

    /// Aborts the attempt, unless the successor serves by now.
    pub(super) fn timed_out(&mut self) -> Result<HandoffResult, Failure> {
        let after = text::duration(self.context.change_timeout());
        let status = self.end(&format!("`hotctl handoff` timed out after {after}"));
        if let Some(served) = status.as_ref().filter(|status| self.name.serves(status)) {
            return Ok(change::changed(served, self.before));
        }
        let line = self.late_line();
        Err(self.as_seen(Failure::new(Exit::TimedOut, line), status.as_ref()))
    }

    /// The status after the end of the attempt.
    fn end(&self, why: &str) -> Option<Status> {
        let status = self.context.try_status();
        let is_under_way = status.as_ref().is_some_and(|status| self.name.under_way(status).is_some());
        if is_under_way { self.abort(why) } else { status }
    }

    fn late_line(&mut self) -> String {
        let (pid, after) = (self.successor.pid(), text::duration(self.context.change_timeout()));
        let stage = self.stage.word();
        match self.successor.terminate() {
            true if !self.forked => {
                format!("timed out after {after}: successor {pid} is {stage}, and was sent SIGTERM")
            }
            true => {
                format!("timed out after {after}: what {pid} left behind is {stage}, and was sent SIGTERM")
            }
            // It has ended with the attempt.
            false if self.joined.is_some() => format!("timed out after {after}: successor {pid} was {stage}"),
            false => format!("timed out after {after}: {pid} exited (status 0), and no successor joined"),
        }
    }

    fn exit_line(&self, ended: ExitStatus, why: Option<String>) -> String {
        let (pid, how, missed) = (self.successor.pid(), successor::how(ended), self.stage.missed());
        let why = why.map_or_else(String::new, |why| format!(": {why}"));
        format!("successor {pid} {how} {missed}{why}")
    }

    /// What the service knows of a child that exited: its reason, or the successor that was there first.
    fn why(&self, status: &Status) -> Option<String> {
        let words = self.name.given_up(status).and_then(|failure| telling(&failure.reason));
        let other = status.successor.as_ref().filter(|_| self.name.under_way(status).is_none());
        words.or_else(|| other.map(|other| format!("{} is already there ({})", other.process, other.state)))
    }

    /// The status once the service has noticed that the child exited. A process that the child left behind is
    /// aborted: exit code 1 promises that the old version still serves.
    fn settled(&self) -> Option<Status> {
        look_until(Instant::now() + SETTLE, || self.unless_under_way()).unwrap_or_else(|| {
            self.abort("what `hotctl handoff` started has exited, and left this process behind")
        })
    }

    fn last_words(&mut self) -> Option<ExitStatus> {
        look_until(Instant::now() + SETTLE, || self.successor.ended())
    }

    /// A successor that has been released cannot be aborted: it serves in a moment, or misses its deadline.
    fn abort(&self, why: &str) -> Option<Status> {
        let why = AbortParams::new(Some(why.to_owned()));
        let aborted = || match simple::call(self.context, "Abort", &why) {
            Ok(()) => Some(self.context.try_status()),
            Err(_) => self.unless_under_way(),
        };
        look_until(Instant::now() + ABORT_TIMEOUT, aborted).unwrap_or_else(|| self.context.try_status())
    }

    /// The status, if the service answers, once the attempt has ended.
    fn unless_under_way(&self) -> Option<Option<Status>> {
        let status = self.context.try_status();
        status.as_ref().is_none_or(|status| self.name.under_way(status).is_none()).then_some(status)
    }

    fn as_seen(&self, failure: Failure, status: Option<&Status>) -> Failure {
        match status {
            Some(status) => failure.seen(status),
            None => failure.silent(&self.before.serving.process),
        }
    }
}

/// The reason that the service gives, unless it is only that the process has exited.
fn telling(reason: &str) -> Option<String> {
    if reason.contains(&Fault::PeerGone.to_string()) {
        return None;
    }
    // The process that exited is named already.
    let words = Fault::PeerFailed(String::new()).to_string();
    Some(reason.strip_prefix(&words).unwrap_or(reason).to_owned())
}
