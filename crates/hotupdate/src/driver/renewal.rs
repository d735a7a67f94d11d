//! A signal asks for a new version: whether one is started, and what becomes of it until it joins.
//!
//! Deliberately absent: the handoff. From its `Join` on, the new process is a successor like any other.

use std::io;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use hotupdate_proto::incumbent::Report;
use hotupdate_proto::operator::ProcessState;
use hotupdate_proto::{Incumbent, Join, Process};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::signal::unix::SignalKind;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{Driver, TaskResult};
use crate::process::signal;
use crate::process::spawn::{self, Fingerprint, Program, Started};
use crate::process::terminal::{self, Terminal};
use crate::settings::{Settings, random_hex};

/// A successor that was started here and has not joined yet.
struct Expected {
    attempt: String,
    pid: u32,
    since: Instant,
}

/// A version that served and gave the service back, or died.
struct Rejected {
    process: Process,
    /// What was installed at that moment.
    installed: Option<Fingerprint>,
}

pub(super) struct Renewal {
    /// What the signal starts, if there is such a signal.
    program: Option<Program>,
    signal: Option<SignalKind>,
    terminal: Terminal,
    /// SIGHUP came, and it is not known yet if the terminal closes.
    is_looking: bool,
    expected: Option<Expected>,
    /// The process that stands between this one and a successor, until that serves.
    between: Option<Pid>,
    /// The process that this one has handed the service to.
    heir: Option<Process>,
    rejected: Option<Rejected>,
}

impl Renewal {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            program: settings.successor_signal.and_then(|_| Program::of_this_process()),
            signal: settings.successor_signal,
            terminal: Terminal::of_this_process(),
            is_looking: false,
            expected: None,
            between: None,
            heir: None,
            rejected: None,
        }
    }

    /// A successor joins: from here on the machine tells what becomes of it.
    pub(super) fn joined(&mut self, join: &Join) {
        let is_it = |expected: &mut Expected| join.attempt.as_deref() == Some(&expected.attempt);
        if let Some(Expected { pid, .. }) = self.expected.take_if(is_it) {
            self.between = as_pid(pid).filter(|_| pid != join.process.pid);
        }
    }

    /// Which process this one hands the service to.
    pub(super) fn remember(&mut self, report: &Report) {
        match report {
            Report::Served { peer, .. } => {
                self.heir = Some(peer.process.clone());
                // The process that adopts orphans is its parent from here on. It has nothing to say.
                if let Some(between) = self.between.take() {
                    let _ = kill_process(between, Signal::KILL);
                }
            }
            Report::RolledBack(_, process) => self.heir = Some(process.clone()),
            _ => {}
        }
    }

    /// It serves again: what took over from it is not started once more by a signal.
    pub(super) fn serves_again(&mut self) {
        let installed = self.program.as_ref().and_then(Program::fingerprint);
        self.rejected = self.heir.take().map(|process| Rejected { process, installed });
    }

    /// Whether the signal may only mean that the terminal closes. If that is not known yet, it is told in
    /// time.
    fn is_of_terminal(&mut self, within: Duration, results: &mpsc::Sender<TaskResult>) -> bool {
        if self.signal != Some(SignalKind::hangup()) || !matches!(self.terminal, Terminal::Open) {
            return self.terminal.has_just_closed(within);
        }
        if !std::mem::replace(&mut self.is_looking, true) {
            let results = results.clone();
            tokio::spawn(async move {
                let closed = terminal::closes(within).await;
                let _ = results.send(TaskResult::Hangup { closed }).await;
            });
        }
        true
    }

    /// Why no successor is started now.
    fn obstacle(&self, machine: Option<&Incumbent>) -> Option<String> {
        let Some(machine) = machine else { return Some("this process does not serve yet".to_owned()) };
        if machine.process_state() != ProcessState::Serving {
            let to = self.heir.as_ref().map(|heir| format!("; it handed over to {heir}"));
            return Some(format!("this process does not serve any more{}", to.unwrap_or_default()));
        }
        if let Some((peer, state)) = machine.successor() {
            return Some(format!("the successor {} is there already ({state})", peer.process));
        }
        if let Some(Expected { pid, since, .. }) = &self.expected {
            let since = since.elapsed().as_secs();
            return Some(format!("the successor {pid} was started {since} s ago and has not joined yet"));
        }
        let (Rejected { process, installed }, program) = (self.rejected.as_ref()?, self.program.as_ref()?);
        // What this process runs itself has served well.
        let is_untried = program.is_ours() || program.fingerprint() != *installed;
        let path = program.path().display();
        (!is_untried).then(|| {
            format!(
                "{process} served and was taken back, and {path} has not changed since; install another \
                 version, or start this one all the same with `hotctl handoff -- {path} …`"
            )
        })
    }

    /// The successor that was started for this attempt, if it has not joined. From here on it is not waited
    /// for.
    fn give_up(&mut self, attempt: &str) -> Option<Expected> {
        self.expected.take_if(|expected| expected.attempt == attempt)
    }
}

impl Driver {
    /// The signal for a new version came.
    pub(super) fn renew(&mut self) {
        if !self.renewal.is_of_terminal(self.settings.timing.terminal, &self.results.0) {
            self.start_anew();
        }
    }

    /// SIGHUP came, and now it is known what it meant.
    pub(super) fn hung_up(&mut self, closed: bool) {
        self.renewal.is_looking = false;
        if !closed {
            return self.start_anew();
        }
        self.renewal.terminal = Terminal::Closed(Instant::now());
        tracing::warn!("SIGHUP is ignored: it says that the terminal of this process has closed");
    }

    fn start_anew(&mut self) {
        let Some(signal) = self.renewal.signal.map(signal::name) else { return };
        if let Some(why) = self.renewal.obstacle(self.machine.incumbent()) {
            return tracing::warn!("{signal} is ignored: {why}");
        }
        let Some(program) = &self.renewal.program else {
            return tracing::warn!("{signal} is ignored: it is not known how this process was started");
        };
        let (path, attempt) = (program.path().display().to_string(), random_hex());
        let Started { child, moved } = match program.start(&attempt, self.supervisor.has_main_process()) {
            Ok(started) => started,
            Err(error) => {
                tracing::error!(path, %error, "the successor cannot be started; this process serves on");
                let (view, operators) = self.view();
                return operators.not_started(view, None, attempt, format!("cannot start {path}: {error}"));
            }
        };
        if let Some(error) = moved {
            let directory = program.directory().display().to_string();
            tracing::warn!(
                directory,
                %error,
                "the working directory of this process cannot be entered any more; the successor starts in /"
            );
        }
        let (pid, since) = (child.id(), Instant::now());
        tracing::info!(path, pid, "started a successor");
        self.renewal.expected = Some(Expected { attempt: attempt.clone(), pid, since });
        tokio::spawn(follow(child, attempt, self.settings.timing.lease, self.results.0.clone()));
    }

    /// A successor that was started here has been there for as long as a lease lasts.
    pub(super) fn child_is_late(&mut self, attempt: String) {
        let Some(Expected { pid, .. }) = self.renewal.give_up(&attempt) else { return };
        let lease = self.settings.timing.lease;
        tracing::error!(pid, ?lease, "the successor has not joined and is killed; this process serves on");
        // It cannot be another process: none has waited for this one. It leads a session, or has not come so
        // far.
        if let Some(leader) = as_pid(pid)
            && kill_process_group(leader, Signal::KILL).is_err()
        {
            let _ = kill_process(leader, Signal::KILL);
        }
        let (view, operators) = self.view();
        operators.not_started(view, Some(pid), attempt, format!("it did not join in {lease:?}"));
    }

    /// A successor that was started here has ended.
    pub(super) fn child_ended(&mut self, mut child: Child, attempt: String, status: io::Result<ExitStatus>) {
        let never_joined = self.renewal.give_up(&attempt).is_some();
        let pid = child.id();
        let how = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        self.renewal.between.take_if(|between| as_pid(pid) == Some(*between));
        // It fails if the application waits for all of its children; then that one is done.
        let _ = child.try_wait();
        if never_joined {
            let machine = self.machine.incumbent();
            let serves = machine.is_some_and(|machine| machine.process_state() == ProcessState::Serving);
            let who = if serves { "; this process serves on" } else { "" };
            tracing::error!(pid, how, "the successor ended before it joined{who}");
            let (view, operators) = self.view();
            operators.not_started(view, Some(pid), attempt, format!("it ended before it joined ({how})"));
        }
    }
}

fn as_pid(pid: u32) -> Option<Pid> {
    Pid::from_raw(pid.try_into().ok()?)
}

/// Tells how a successor ended that was started here; and before that, if it has been there for so long that
/// it should have joined.
async fn follow(child: Child, attempt: String, lease: Duration, results: mpsc::Sender<TaskResult>) {
    let status = match timeout(lease, spawn::ended(&child)).await {
        Ok(status) => status,
        Err(_) => {
            let _ = results.send(TaskResult::ChildIsLate { attempt: attempt.clone() }).await;
            spawn::ended(&child).await
        }
    };
    let _ = results.send(TaskResult::Child { child, attempt, status }).await;
}
