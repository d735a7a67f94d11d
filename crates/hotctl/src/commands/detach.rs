//! Starting a COMMAND: hotctl starts itself, leaves its session and becomes COMMAND.
//!
//! Two steps, because code between fork(2) and exec(2) is unsafe in Rust, and an extra exec is not.
//! Deliberately absent: a second fork. The process stays a child of hotctl, which so learns how it exited.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use hotupdate_proto::environment::NOT_INHERITED;
use rustix::process::{Signal, set_parent_process_death_signal};

use super::attendant;
use crate::client::SHORTEST;

/// Ourselves, even if the file was replaced meanwhile (proc_pid_exe(5)).
pub(super) const OURSELVES: &str = "/proc/self/exe";

/// The exit code of a shell for "found, but cannot be run"; the outer half prints the reason.
const CANNOT_RUN: u8 = 126;

/// The inner half, by its hidden first argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Inner {
    /// Becomes COMMAND.
    Detach,
    /// The same, and says in `LISTEN_PID` that the descriptors are for COMMAND: only here its process id is
    /// known.
    Listen,
    /// The same, and ends with hotctl: the first argument is the signal that COMMAND gets then.
    Run,
    /// Looks after COMMAND, see [`super::attendant`].
    Attend,
}

impl Inner {
    const ALL: [Self; 4] = [Self::Detach, Self::Listen, Self::Run, Self::Attend];

    pub(crate) fn named(name: &OsStr) -> Option<Self> {
        Self::ALL.into_iter().find(|inner| name == inner.name())
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Detach => "__detach",
            Self::Listen => "__listen",
            Self::Run => "__become",
            Self::Attend => "__attend",
        }
    }

    /// For [`prepare`].
    pub(super) fn command(self, command: &[OsString]) -> Command {
        let mut ourselves = Command::new(OURSELVES);
        ourselves.arg(self.name()).args(command);
        for name in NOT_INHERITED {
            ourselves.env_remove(name);
        }
        ourselves
    }

    /// Does what the inner half is for.
    pub(crate) fn run(self, arguments: impl Iterator<Item = OsString>) -> ExitCode {
        match self {
            Self::Detach | Self::Listen | Self::Run => self.become_command(arguments),
            Self::Attend => attendant::run(arguments),
        }
    }

    /// Waits for the outer half; then becomes the command in `arguments`, or writes the error number to the
    /// socket that stdin is.
    fn become_command(self, mut arguments: impl Iterator<Item = OsString>) -> ExitCode {
        // The duplicate is close-on-exec: when COMMAND runs, the outer half reads the end of the stream.
        let outer = io::stdin().as_fd().try_clone_to_owned().map(File::from);
        if self == Self::Run && end_with_hotctl(arguments.next()).is_none() {
            return ExitCode::from(CANNOT_RUN);
        }
        let Some(program) = arguments.next() else { return ExitCode::from(CANNOT_RUN) };
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null());
        if matches!(self, Self::Listen | Self::Run) {
            command.env("LISTEN_PID", std::process::id().to_string());
        }
        let Ok(mut outer) = outer else { return ExitCode::from(CANNOT_RUN) };
        let error = match rustix::process::setsid() {
            // Without a word, the outer half is gone.
            Ok(_) if outer.read_exact(&mut [0]).is_err() => return ExitCode::from(CANNOT_RUN),
            Ok(_) => command.exec(),
            Err(error) => error.into(),
        };
        let _ = write!(outer, "{}", error.raw_os_error().unwrap_or(0));
        ExitCode::from(CANNOT_RUN)
    }
}

/// The kernel sends this signal to COMMAND when the thread that has started it ends, however it does
/// (`PR_SET_PDEATHSIG`, prctl(2)). If it has ended already, the outer half does not say that COMMAND may
/// begin.
fn end_with_hotctl(signal: Option<OsString>) -> Option<()> {
    let signal = signal?.to_str()?.parse().ok().and_then(Signal::from_named_raw)?;
    set_parent_process_death_signal(Some(signal)).ok()
}

/// Starts what [`Inner::command`] made; returns when COMMAND runs.
pub(super) fn start(command: Command, timeout: Duration) -> io::Result<Child> {
    prepare(command)?.go(timeout)
}

/// A process that is about to become COMMAND, and ends if hotctl does before it says so.
pub(super) struct Prepared {
    child: Child,
    stream: UnixStream,
}

/// Starts what [`Inner::command`] made, and lets it wait.
pub(super) fn prepare(mut command: Command) -> io::Result<Prepared> {
    let (stream, theirs) = UnixStream::pair()?;
    command.stdin(OwnedFd::from(theirs));
    // The command holds the other end of the stream, and is dropped here.
    Ok(Prepared { child: command.spawn()?, stream })
}

impl Prepared {
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns when COMMAND runs.
    pub(super) fn go(self, timeout: Duration) -> io::Result<Child> {
        let Self { mut child, stream } = self;
        let error = match (&stream).write_all(b"g").and_then(|()| runs(stream, timeout)) {
            Ok(()) => return Ok(child),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
            Err(error) => error,
        };
        // It has not become COMMAND.
        let _ = child.kill();
        let _ = child.wait();
        Err(error)
    }
}

/// The inner half says an error number, or nothing when the command runs.
fn runs(mut stream: UnixStream, timeout: Duration) -> io::Result<()> {
    stream.set_read_timeout(Some(timeout.max(SHORTEST)))?;
    let mut error = String::new();
    stream.read_to_string(&mut error)?;
    match error.parse() {
        Ok(number) => Err(io::Error::from_raw_os_error(number)),
        Err(_) => Ok(()),
    }
}
