//! The process that `handoff -- COMMAND` starts: in its own session, with its output where the user said.
//! When it serves, it outlives hotctl.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ExitStatus};
use std::time::Duration;

use hotupdate_proto::environment::ATTEMPT;
use rustix::process::{
    Pid, Signal, WaitOptions, getpid, kill_process, kill_process_group, set_child_subreaper, waitpid,
};

use super::attempt::AttemptName;
use super::attendant::Attendant;
use super::detach::{self, Inner};
use super::output::Relay;
use super::processes;
use crate::cli::Handoff;
use crate::exit::{Exit, Failure};
use crate::text;

/// The child.
pub(crate) struct Successor {
    child: Child,
    ended: Option<ExitStatus>,
    attendant: Attendant,
    relay: Option<Relay>,
}

impl Successor {
    /// Starts the command; returns when it runs.
    pub(crate) fn start(
        handoff: &Handoff,
        socket: &Path,
        name: &AttemptName,
        timeout: Duration,
    ) -> Result<Self, Failure> {
        let program =
            handoff.command.first().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let cannot = |error: io::Error| {
            if error.kind() == io::ErrorKind::TimedOut {
                let after = text::duration(timeout);
                return Failure::new(
                    Exit::TimedOut,
                    format!("timed out after {after}: {program} has not started"),
                );
            }
            Failure::refused(format!("{program} could not be started: {}", why(&program, &error)))
        };
        let mut command = Inner::Detach.command(&handoff.command);
        command.env(ATTEMPT, &name.0);
        let relay = match &handoff.log {
            Some(path) => {
                let log = open_log(path)?;
                command.stdout(log.try_clone().map_err(cannot)?).stderr(log);
                None
            }
            None => Relay::for_command(&mut command).map_err(cannot)?,
        };
        // What COMMAND leaves behind when it exits becomes a child of this process.
        set_child_subreaper(Some(getpid())).map_err(|error| cannot(error.into()))?;
        let prepared = detach::prepare(command).map_err(cannot)?;
        let pipe = relay.as_ref().map(Relay::reader);
        let attendant = Attendant::start(socket, name, prepared.pid(), pipe)
            .map_err(|error| Failure::refused(format!("cannot look after {program}: {error}")))?;
        let child = prepared.go(timeout).map_err(cannot)?;
        Ok(Self { child, ended: None, attendant, relay })
    }

    /// It serves, and runs on without hotctl.
    pub(crate) fn leave(&self) {
        self.attendant.leave_command();
    }

    /// Whether its output comes through hotctl.
    pub(crate) fn is_relayed(&self) -> bool {
        self.relay.is_some()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it exited, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().ok().flatten();
        }
        self.ended
    }

    /// Whether a process is left that it has started, now that it has exited: one that runs in the background
    /// may still join. What was started by another program, such as a container, is not seen.
    pub(crate) fn has_left_processes(&self) -> bool {
        // A kernel that cannot say it leaves it open. What it lists of children may lack some while others come
        // and go (proc_tid_children(5)), so all processes are looked at before none is left.
        let is_left = |pid: u32| pid != self.attendant.pid() && processes::is_running(pid);
        self.left().is_none_or(|left| !left.is_empty()) || processes::children().any(is_left)
    }

    /// Sends SIGTERM to it, or to what it has left behind; true if it was sent. Only a child that was not
    /// waited for owns its pid.
    pub(crate) fn terminate(&mut self) -> bool {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        let is_there = self.ended().is_none();
        let left = self.left().unwrap_or_default();
        let left = left.into_iter().filter(|left| Some(*left) != pid);
        let sent = left.filter(|left| kill_process(*left, Signal::TERM).is_ok()).count();
        let group = is_there && pid.is_some_and(|pid| kill_process_group(pid, Signal::TERM).is_ok());
        group || sent > 0
    }

    /// The children of this process, but for the attendant; those that have exited are reaped.
    fn left(&self) -> Option<Vec<Pid>> {
        let tasks = std::fs::read_dir("/proc/self/task").ok()?;
        let mut left = Vec::new();
        for task in tasks.flatten() {
            let children = std::fs::read_to_string(task.path().join("children")).ok()?;
            let children = children.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?));
            let attendant = i32::try_from(self.attendant.pid()).ok().and_then(Pid::from_raw);
            left.extend(children.filter(|pid| Some(*pid) != attendant));
        }
        // The child itself is waited for elsewhere, and so has no status here.
        let own = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        left.retain(|pid| Some(*pid) == own || matches!(waitpid(Some(*pid), WaitOptions::NOHANG), Ok(None)));
        Some(left)
    }
}

/// `exited (status 101)`, `was killed by signal 9`
pub(crate) fn how(ended: ExitStatus) -> String {
    match (ended.code(), ended.signal()) {
        (Some(code), _) => format!("exited (status {code})"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

/// The exit code, as a shell reports it.
pub(crate) fn code(ended: ExitStatus) -> u8 {
    let code = ended.code().or_else(|| ended.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

/// Logs may hold secrets: only the owner may read a new one. An existing one keeps its rights.
fn open_log(path: &Path) -> Result<File, Failure> {
    let log = OpenOptions::new().append(true).create(true).mode(0o600).open(path);
    log.map_err(|error| {
        Failure::refused(format!("cannot open {}: {}", path.display(), text::os_error(&error)))
    })
}

/// What execve(2) says of a program is also what it says of the interpreter, or the dynamic loader, that the
/// program names.
pub(crate) fn why(program: &str, error: &io::Error) -> String {
    let why = text::os_error(error);
    match error.kind() {
        io::ErrorKind::NotFound if program.contains('/') && Path::new(program).exists() => {
            format!("{why}: its interpreter or loader is missing")
        }
        _ => why,
    }
}
