//! What a script learns from hotctl: six exit codes (and those of a COMMAND under `hold`), and one line that
//! says what went wrong and which process serves now.

use std::fmt;
use std::io;
use std::process::ExitCode;

use hotupdate_proto::Process;
use hotupdate_proto::operator::{ProcessState, ProcessStatus, Status};

/// The exit codes, the same for every command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done.
    Done,
    /// Refused, failed or rolled back: the old version still serves.
    Refused,
    /// The command line is wrong.
    Usage,
    /// No service listens on the control socket, or it is stopping.
    NotRunning,
    /// It did not happen in time.
    TimedOut,
    /// Ctrl-C.
    Interrupted,
    /// `hotctl hold` exits as its COMMAND did.
    Command(u8),
}

impl Exit {
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Refused => 1,
            Self::Usage => 2,
            Self::NotRunning => 3,
            Self::TimedOut => 4,
            // 128 + SIGINT, as a shell reports it.
            Self::Interrupted => 130,
            Self::Command(code) => code,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Which process serves after something went wrong: the first thing that an operator needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Serves {
    /// The same process as before.
    Still(Process),
    /// The new one, and what failed came after that.
    Now(Process),
    /// None for long: this process was told to stop, by another operator or a supervisor.
    Stopping(Process),
    /// It is not known: this process served before, and does not answer.
    Silent(Process),
}

/// Why a command exits with something else than 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) reason: String,
    /// In a box, because it is many times as large as all else.
    pub(crate) serves: Option<Box<Serves>>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, reason: impl Into<String>) -> Self {
        Self { exit, reason: reason.into(), serves: None }
    }

    pub(crate) fn refused(reason: impl Into<String>) -> Self {
        Self::new(Exit::Refused, reason)
    }

    /// The old version still serves.
    pub(crate) fn still(mut self, process: &Process) -> Self {
        self.serves = Some(Box::new(Serves::Still(process.clone())));
        self
    }

    /// As the service says it. The exit code of one that stops is 3, because 1 would promise that it serves.
    pub(crate) fn seen(self, status: &Status) -> Self {
        let ProcessStatus { process, state, .. } = &status.serving;
        let exit = if self.exit == Exit::Refused { Exit::NotRunning } else { self.exit };
        match state {
            ProcessState::Draining | ProcessState::Drained | ProcessState::Gone => {
                Self { exit, serves: Some(Box::new(Serves::Stopping(process.clone()))), ..self }
            }
            _ => self.still(process),
        }
    }

    /// The new version serves.
    pub(crate) fn now(mut self, process: &Process) -> Self {
        self.serves = Some(Box::new(Serves::Now(process.clone())));
        self
    }

    /// The exit code is 4, because 1 would promise that the old version serves.
    pub(crate) fn silent(self, process: &Process) -> Self {
        Self { exit: Exit::TimedOut, serves: Some(Box::new(Serves::Silent(process.clone()))), ..self }
    }

    /// Writing to stdout failed. A reader that has closed it is no failure.
    pub(crate) fn output(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::new(Exit::Done, ""),
            _ => Self::refused(format!("cannot write to stdout: {}", crate::text::os_error(error))),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { exit: _, reason, serves } = self;
        match serves.as_deref() {
            Some(Serves::Still(process)) => write!(f, "{reason}; {process} is still serving"),
            Some(Serves::Now(process)) => write!(f, "{reason}; {process} serves now"),
            Some(Serves::Stopping(process)) => write!(f, "{reason}; {process} is stopping"),
            Some(Serves::Silent(process)) => {
                write!(f, "{reason}; {process} served before, and does not answer")
            }
            None => f.write_str(reason),
        }
    }
}
