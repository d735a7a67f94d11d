//! COMMAND: its start with the listeners, signals to it, and what it leaves behind.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process;
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt, FdMapping};
use hotupdate_proto::environment::{AGAIN, ATTEMPT, DETACH};
use hotupdate_proto::program::End;
use rustix::process::Signal;

use super::listeners::Sockets;
use super::notify::Notify;
use super::settings::Settings;
use crate::commands::detach::{self, Inner};
use crate::commands::processes::{of_session, send};

/// The first descriptor that is passed (sd_listen_fds(3), `SD_LISTEN_FDS_START`).
const FIRST: i32 = 3;

/// What speaks of this process to its service manager, and of the attempt under which it was started.
const OURS: [&str; 9] = [
    ATTEMPT,
    DETACH,
    AGAIN,
    "NOTIFY_SOCKET",
    "FDSTORE",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "SYSTEMD_EXEC_PID",
    "MAINPID",
];

/// Programs of which one that runs a script may have started another one instead of becoming it.
const SHELLS: [&str; 7] = ["sh", "dash", "bash", "ash", "busybox", "ksh", "zsh"];

/// One COMMAND, the leader of a session of its own, so that what it has started is known.
pub(super) struct Child {
    child: process::Child,
    since: Instant,
    ended: Option<End>,
    /// It was told to stop, with this signal.
    told: Option<Signal>,
}

impl Child {
    pub(super) fn start(
        command: &[OsString],
        settings: &Settings,
        sockets: &Sockets,
        notify: Option<&Notify>,
        within: Duration,
    ) -> io::Result<Self> {
        let mut arguments = vec![OsString::from(settings.stop_signal.to_string())];
        arguments.extend_from_slice(command);
        let mut command = Inner::Run.command(&arguments);
        OURS.iter().for_each(|name| _ = command.env_remove(name));
        let names = sockets.names();
        command.env("LISTEN_FDS", names.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
        if let Some(notify) = notify {
            command.env("NOTIFY_SOCKET", notify.name());
        }
        let duplicates = sockets.duplicates(settings.blocking)?.into_iter();
        let mappings = duplicates.zip(FIRST..).map(|(parent_fd, child_fd)| FdMapping { parent_fd, child_fd });
        command.fd_mappings(mappings.collect()).map_err(io::Error::other)?;
        let child = detach::start(command, within)?;
        Ok(Self { child, since: Instant::now(), ended: None, told: None })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn age(&self) -> Duration {
        self.since.elapsed()
    }

    /// How it ended, once nothing is left of it. What a program leaves behind that was told to stop is told,
    /// too: a shell without `exec` ends, and the program that it has started would accept for ever.
    pub(super) fn ended(&mut self) -> Option<End> {
        if self.ended.is_none() {
            let status = self.child.try_wait().ok().flatten()?;
            let number = |number: i32| u8::try_from(number).unwrap_or(u8::MAX);
            self.ended =
                status.code().map(number).map(End::Exited).or(status.signal().map(number).map(End::Killed));
            let told = self.told.unwrap_or(Signal::TERM);
            self.left().for_each(|pid| send(pid, told));
        }
        self.ended.filter(|_| self.told.is_none() || self.left().next().is_none())
    }

    pub(super) fn stop(&mut self, signal: Signal) {
        self.told = Some(signal);
        self.signal(signal);
    }

    pub(super) fn signal(&self, signal: Signal) {
        if self.ended.is_none() {
            send(self.pid(), signal);
        }
    }

    /// Itself, and what it has left.
    pub(super) fn kill(&self) {
        self.signal(Signal::KILL);
        self.left().for_each(|pid| send(pid, Signal::KILL));
    }

    /// What it has started, and has not put into another session. The number of a session is not used again
    /// as long as a process is in it.
    fn left(&self) -> impl Iterator<Item = u32> + use<> {
        let leader = self.pid();
        of_session(leader).filter(move |pid| *pid != leader)
    }

    /// The shell that has started the program instead of becoming it: then `LISTEN_PID` is that of the shell.
    pub(super) fn shell(&self) -> Option<String> {
        let program = fs::read_link(format!("/proc/{}/exe", self.pid())).ok()?;
        let name = program.file_name()?.to_str()?;
        let is_shell = SHELLS.contains(&name) && self.left().next().is_some();
        is_shell.then(|| name.to_owned())
    }
}
