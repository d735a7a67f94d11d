//! The process that `handoff -- COMMAND` starts: in its own session, with its output where the user said.
//!
//! Deliberately absent: killing it when hotctl ends. It is meant to stay.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::detach;
use crate::cli::Handoff;
use crate::exit::{Exit, Failure};
use crate::text;

/// Ourselves, even if the file was replaced meanwhile (proc_pid_exe(5)).
const OURSELVES: &str = "/proc/self/exe";

/// What the library looks for and sends along when it joins.
const ATTEMPT: &str = "HOTUPDATE_ATTEMPT";

/// The child, until it has ended.
pub(crate) struct Successor {
    child: Child,
    ended: Option<ExitStatus>,
    /// How it is recognised in a status, behind however many wrappers.
    pub(crate) attempt: String,
}

impl Successor {
    /// Starts the command; returns when it runs.
    pub(crate) fn start(handoff: &Handoff, patience: Duration) -> Result<Self, Failure> {
        let program =
            handoff.command.first().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let cannot = |error: io::Error| {
            Failure::refused(format!("{program} could not be started: {}", text::os_error(&error)))
        };
        let attempt = attempt().map_err(cannot)?;
        let (ours, theirs) = UnixStream::pair().map_err(cannot)?;
        let mut command = Command::new(OURSELVES);
        command.arg(detach::NAME).args(&handoff.command).env(ATTEMPT, &attempt);
        command.stdin(OwnedFd::from(theirs));
        if let Some(path) = &handoff.log {
            let log = open_log(path)?;
            command.stdout(log.try_clone().map_err(cannot)?).stderr(log);
        }
        let child = command.spawn().map_err(cannot)?;
        // It holds the other end of the stream.
        drop(command);
        let mut successor = Self { child, ended: None, attempt };
        match successor.runs(ours, patience) {
            Ok(()) => Ok(successor),
            Err(error) => Err(successor.not_started(error, &program)),
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().ok().flatten();
        }
        self.ended
    }

    /// Asks it to end, unless it has; true if it was asked. Only a child that was not waited for owns its pid.
    pub(crate) fn terminate(&mut self) -> bool {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        self.ended().is_none() && pid.is_some_and(|pid| kill_process(pid, Signal::TERM).is_ok())
    }

    /// The inner half says an error number, or nothing when the command runs.
    fn runs(&mut self, mut stream: UnixStream, patience: Duration) -> io::Result<()> {
        stream.set_read_timeout(Some(patience.max(Duration::from_millis(1))))?;
        let mut error = String::new();
        stream.read_to_string(&mut error)?;
        match error.parse() {
            Ok(number) => Err(io::Error::from_raw_os_error(number)),
            Err(_) => Ok(()),
        }
    }

    fn not_started(&mut self, error: io::Error, program: &str) -> Failure {
        if error.kind() == io::ErrorKind::WouldBlock {
            self.terminate();
            return Failure::new(Exit::TimedOut, format!("{program} does not start"));
        }
        let _ = self.child.wait();
        Failure::refused(format!("{program} could not be started: {}", text::os_error(&error)))
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
