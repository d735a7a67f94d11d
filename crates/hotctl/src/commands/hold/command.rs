//! COMMAND and the versions after it: the start with the sockets, the stop, and the exit.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use command_fds::{CommandFdExt, FdMapping};
use hotupdate_proto::Process;
use hotupdate_proto::environment::ATTEMPT;
use hotupdate_proto::timing::fixed::operator::EXEC;
use rustix::process::{Signal, WaitOptions, wait};
use signal_hook::consts::SIGINT;
use socket2::Socket;

use super::{Keeper, first_process, supervisor};
use crate::commands::detach::{self, Inner};
use crate::commands::processes::send;
use crate::commands::{simple, successor};
use crate::exit::Exit;

/// The first descriptor that is passed (sd_listen_fds(3), `SD_LISTEN_FDS_START`).
const FIRST: i32 = 3;

impl Keeper<'_> {
    pub(super) fn start(&mut self) -> io::Result<()> {
        let mut command = Inner::Listen.command(&self.hold.command);
        let names: Vec<_> = self.hold.listen.iter().map(|spec| spec.name.as_str()).collect();
        command.env("LISTEN_FDS", names.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
        // These speak of hold itself: its own supervisor, and the attempt under which it was started.
        command.env_remove("NOTIFY_SOCKET").env_remove("FDSTORE").env_remove(ATTEMPT);
        let duplicate = |(socket, child_fd): (&Socket, i32)| {
            Ok(FdMapping { parent_fd: OwnedFd::from(socket.try_clone()?), child_fd })
        };
        let mappings = self.sockets.iter().zip(FIRST..).map(duplicate).collect::<io::Result<Vec<_>>>()?;
        command.fd_mappings(mappings).map_err(io::Error::other)?;
        let child = detach::start(command, EXEC)?;
        self.child = Some(child.id());
        self.ended = None;
        Ok(())
    }

    /// Reaps the children that have exited. Other processes than versions of the service are
    /// orphans, which process 1 gets.
    pub(super) fn reap(&mut self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let pid = pid.as_raw_pid().unsigned_abs();
            let is_command = self.child == Some(pid);
            if is_command {
                self.child = None;
            }
            if is_command || self.serving.as_ref().is_some_and(|serving| serving.pid == pid) {
                self.ended = Some((pid, ExitStatus::from_raw(status.as_raw())));
            }
        }
    }

    /// To the version that serves, through its control socket, since its process id may mean nothing here; to
    /// COMMAND if it has never served. A version that drains is not told, because a service manager sends a
    /// signal to hold and to all versions; but to Ctrl-C that comes again COMMAND itself has to listen.
    pub(super) fn pass_on(&mut self, signal: i32) {
        let (name, signal) =
            if signal == SIGINT { ("SIGINT", Signal::INT) } else { ("SIGTERM", Signal::TERM) };
        let again = std::mem::replace(&mut self.stopping, true);
        supervisor::stopping();
        let is_version = self.child.is_some_and(|pid| self.here.contains(&pid));
        if again && signal == Signal::INT || !is_version && self.serving_now().is_none() {
            self.send_to_command(name, signal);
        } else if !again {
            self.stop(name);
        }
    }

    /// Unless it is in another container, which does not end with this one.
    fn stop(&mut self, why: &str) {
        let Some(process) = self.serving_now().filter(|process| !first_process::is_elsewhere(process)) else {
            return;
        };
        self.tell("stopping", &format!("{why}: {process} is told to stop"));
        if let Err(failure) = simple::call(&self.context, "Stop", &simple::within(None)) {
            self.tell("stopping", &failure.to_string());
        }
    }

    fn serving_now(&mut self) -> Option<Process> {
        let serving = self.who_serves()?;
        let process = serving.process.clone();
        self.note_serving(serving);
        Some(process)
    }

    fn send_to_command(&self, name: &str, signal: Signal) {
        if let Some(pid) = self.child {
            self.tell("stopping", &format!("{name} goes to {pid}"));
            send(pid, signal);
        }
    }

    pub(super) fn last_exit(&self) -> Exit {
        self.ended.map_or(Exit::Done, |(_, ended)| Exit::Command(successor::code(ended)))
    }

    pub(super) fn not_started(&self, error: &io::Error) -> String {
        let program = self.program();
        format!("{program} could not be started: {}", successor::why(&program, error))
    }

    pub(super) fn program(&self) -> String {
        self.hold.command.first().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }
}
