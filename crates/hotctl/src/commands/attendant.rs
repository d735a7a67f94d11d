//! A process beside COMMAND that outlives hotctl if hotctl is killed: it ends COMMAND then, unless that
//! serves, and reads what COMMAND still writes into hotctl's pipe, so that no write fails.
//!
//! It has nothing of the caller's open, and ends as soon as it has nothing left to do: in an ordinary handoff
//! at once. Deliberately absent: the exit status of COMMAND, which stays a child of hotctl.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, chdir, kill_process_group, pidfd_open, pidfd_send_signal, setsid,
};

use hotupdate_proto::operator::AbortParams;
use hotupdate_proto::timing::fixed::operator::{ATTENDANT, LAST_SECONDS, VERDICT};

use super::attempt::AttemptName;
use super::detach::{Inner, OURSELVES};
use super::{output, simple};
use crate::context::{Context, look_until};
use crate::exit::Exit;
use crate::report::{Color, Report};

/// What the attendant says when COMMAND may begin.
const READY: u8 = b'r';

/// What hotctl says when COMMAND serves. Without it, the end of hotctl is the end of the attempt.
const LEAVE_IT: u8 = b'l';

/// hotctl's side.
pub(super) struct Attendant {
    stream: UnixStream,
    pid: u32,
}

impl Attendant {
    /// Starts it for the process group `command`, which waits. `pipe` is the end from which output is read.
    pub(super) fn start(
        socket: &Path,
        name: &AttemptName,
        command: u32,
        pipe: Option<&OwnedFd>,
    ) -> io::Result<Self> {
        let (stream, theirs) = UnixStream::pair()?;
        let mut attendant = Command::new(OURSELVES);
        attendant.arg(Inner::Attend.name()).arg(std::path::absolute(socket)?);
        attendant.arg(&name.0).arg(command.to_string());
        let output = pipe.map_or_else(|| Ok(Stdio::null()), |pipe| pipe.try_clone().map(Stdio::from));
        attendant.stdin(OwnedFd::from(theirs)).stdout(output?).stderr(Stdio::null());
        let child = attendant.spawn()?;
        drop(attendant);
        stream.set_read_timeout(Some(ATTENDANT))?;
        let mut said = [0];
        (&stream).read_exact(&mut said)?;
        Ok(Self { stream, pid: child.id() })
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// COMMAND serves, and runs on.
    pub(super) fn leave_command(&self) {
        let _ = (&self.stream).write_all(&[LEAVE_IT]);
        let _ = self.stream.shutdown(Shutdown::Write);
    }
}

/// The inner half.
pub(super) fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    match attend(arguments) {
        Ok(()) => Exit::Done.into(),
        // There is no output to complain on; hotctl reads the end of the stream.
        Err(_) => Exit::Refused.into(),
    }
}

fn attend(arguments: impl Iterator<Item = OsString>) -> io::Result<()> {
    let [socket, name, command] = arguments.collect::<Vec<_>>().try_into().map_err(|_| invalid())?;
    let name = AttemptName(name.into_string().map_err(|_| invalid())?);
    let command: i32 = command.to_str().and_then(|pid| pid.parse().ok()).ok_or_else(invalid)?;
    let command = Group::open(Pid::from_raw(command).ok_or_else(invalid)?)?;
    // What happens to the caller's terminal or directory does not concern this process.
    setsid()?;
    chdir("/")?;
    let mut hotctl = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    hotctl.write_all(&[READY])?;
    let mut said = Vec::new();
    // An error is an end, too.
    let _ = hotctl.read_to_end(&mut said);
    if !said.contains(&LEAVE_IT) && is_over(socket.as_ref(), &name) {
        command.end()?;
    }
    output::swallow(output)
}

fn invalid() -> io::Error {
    io::ErrorKind::InvalidInput.into()
}

/// Whether the attempt has failed, now that hotctl is gone. The service aborts it by itself; one that does
/// not know how is told.
fn is_over(socket: &Path, name: &AttemptName) -> bool {
    let report = Report::new("handoff", true, Color::Never);
    let context = Context::without_interrupt(socket.to_owned(), &report, Some(VERDICT));
    let verdict = look_until(Instant::now() + VERDICT, || {
        let status = context.try_status()?;
        if name.took_over(&status) {
            return name.serves(&status).then_some(false);
        }
        if name.under_way(&status).is_some() {
            let why = AbortParams::new(Some("the operator that began the attempt has gone".to_owned()));
            let _ = simple::call(&context, "Abort", &why);
            return None;
        }
        Some(true)
    });
    // Without a service, COMMAND may be all that is left of it.
    verdict.unwrap_or(false)
}

/// COMMAND, which leads a session and a process group.
struct Group {
    leader: Pid,
    pidfd: OwnedFd,
}

impl Group {
    /// The leader is not reaped before this process has said that it is ready.
    fn open(leader: Pid) -> io::Result<Self> {
        Ok(Self { leader, pidfd: pidfd_open(leader, PidfdFlags::empty())? })
    }

    /// Ends what is left of the group. Without its leader the number may be another's.
    fn end(&self) -> io::Result<()> {
        if self.has_ended(Duration::ZERO)? {
            return Ok(());
        }
        kill_process_group(self.leader, Signal::TERM)?;
        if !self.has_ended(LAST_SECONDS)? {
            pidfd_send_signal(&self.pidfd, Signal::KILL)?;
        }
        Ok(())
    }

    fn has_ended(&self, within: Duration) -> io::Result<bool> {
        let within = Timespec { tv_sec: within.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: 0 };
        let mut leader = [PollFd::new(&self.pidfd, PollFlags::IN)];
        Ok(rustix::io::retry_on_intr(|| poll(&mut leader, Some(&within)))? > 0)
    }
}
