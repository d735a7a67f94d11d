//! COMMAND: its start with the sockets, its stop, and its exit.

use std::io;
use std::os::fd::OwnedFd;
use std::process::{Child, ExitStatus};
use std::thread;
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use hotupdate_proto::environment::ATTEMPT;
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::SIGINT;
use socket2::Socket;

use super::{Keeper, KeeperEvent};
use crate::commands::detach::{self, Inner};
use crate::commands::{simple, successor};
use crate::exit::Exit;

/// The first descriptor that is passed (sd_listen_fds(3), `SD_LISTEN_FDS_START`).
const FIRST: i32 = 3;

/// How long COMMAND may take from fork(2) to exec(2).
const START: Duration = Duration::from_secs(10);

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
        let child = detach::start(command, START)?;
        self.child = Some(child.id());
        self.last = self.child;
        self.ended = None;
        self.await_end(child)
    }

    fn await_end(&self, mut child: Child) -> io::Result<()> {
        let sender = self.sender.clone();
        thread::Builder::new().spawn(move || {
            let status = child.wait();
            let _ = sender.send(KeeperEvent::Ended(child.id(), status));
        })?;
        Ok(())
    }

    pub(super) fn note_end(&mut self, pid: u32, status: io::Result<ExitStatus>) {
        if self.child == Some(pid) {
            self.child = None;
            self.ended = status.ok();
        }
    }

    /// To COMMAND, and to the version that serves in its place.
    pub(super) fn pass_on(&mut self, signal: i32) {
        let (name, signal) =
            if signal == SIGINT { ("SIGINT", Signal::INT) } else { ("SIGTERM", Signal::TERM) };
        let again = std::mem::replace(&mut self.stopping, true);
        if let Some(pid) = self.child {
            self.tell("stopping", &format!("{name} goes to {pid}"));
            if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                let _ = kill_process(pid, signal);
            }
        }
        // Through its control socket, since its process id may mean nothing here.
        if let Some(process) = self.who_serves().filter(|process| self.child != Some(process.pid) && !again) {
            self.tell("stopping", &format!("{name}: {process} is told to stop"));
            if let Err(failure) = simple::call(&self.context, "Stop", &simple::within(None)) {
                self.tell("stopping", &failure.to_string());
            }
        }
    }

    pub(super) fn last_exit(&self) -> Exit {
        self.ended.map_or(Exit::Done, |ended| Exit::Command(successor::code(ended)))
    }

    pub(super) fn not_started(&self, error: &io::Error) -> String {
        let program = self.program();
        format!("{program} could not be started: {}", successor::why(&program, error))
    }

    pub(super) fn program(&self) -> String {
        self.hold.command.first().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }
}
