//! The process that `handoff -- COMMAND` starts: in its own session, with its output where the user said. It
//! outlives hotctl.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ExitStatus};
use std::time::Duration;

use hotupdate_proto::environment::ATTEMPT;
use rustix::process::{Pid, Signal, kill_process};

use super::detach::{self, Inner};
use crate::cli::Handoff;
use crate::exit::{Exit, Failure};
use crate::text;

/// The child.
pub(crate) struct Successor {
    child: Child,
    ended: Option<ExitStatus>,
    /// How it is recognised in a status, also if wrappers started it.
    pub(crate) attempt: String,
}

impl Successor {
    /// Starts the command; returns when it runs.
    pub(crate) fn start(handoff: &Handoff, timeout: Duration) -> Result<Self, Failure> {
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
        let attempt = attempt().map_err(cannot)?;
        let mut command = Inner::Detach.command(&handoff.command);
        command.env(ATTEMPT, &attempt);
        if let Some(path) = &handoff.log {
            let log = open_log(path)?;
            command.stdout(log.try_clone().map_err(cannot)?).stderr(log);
        }
        let child = detach::start(command, timeout).map_err(cannot)?;
        Ok(Self { child, ended: None, attempt })
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

    /// Sends SIGTERM, unless it has exited; true if it was sent. Only a child that was not waited for owns
    /// its pid.
    pub(crate) fn terminate(&mut self) -> bool {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        self.ended().is_none() && pid.is_some_and(|pid| kill_process(pid, Signal::TERM).is_ok())
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

/// 128 random bits in hexadecimal.
fn attempt() -> io::Result<String> {
    let mut bytes = [0_u8; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
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
