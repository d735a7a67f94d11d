//! hold as process 1 of a container: it passes signals on that would reach no process otherwise, and ends
//! last, because the kernel kills everything in the container when process 1 ends (pid_namespaces(7)).
//!
//! Deliberately absent: processes that were started in the container by other means than hold and
//! `hotctl handoff` (`podman exec --detach`). They are no children of process 1, so only the version that
//! serves is waited for.

use std::process;

use hotupdate_proto::Process;
use rustix::process::{Signal, WaitId, WaitIdOptions, waitid};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2};

use super::{Keeper, KeeperEvent};
use crate::commands::processes::{children, send};
use crate::context::TICK;

/// The signals that a version of the service may know. For process 1 the kernel ignores what it has no
/// handler for.
pub(super) const PASSED_ON: [i32; 4] = [SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2];

/// Whether this is process 1 of a container.
pub(super) fn is_hold() -> bool {
    process::id() == 1
}

/// Whether the process is in another container: there it is process 1, which is hold here.
pub(super) fn is_elsewhere(process: &Process) -> bool {
    is_hold() && process.pid == process::id()
}

impl Keeper<'_> {
    /// To the version that serves; to COMMAND as long as none does.
    pub(super) fn pass_on_to_one(&mut self, signal: i32) {
        let Some(signal) = Signal::from_named_raw(signal) else { return };
        let serving = self.who_serves().map(|serving| serving.process);
        if serving.as_ref().is_some_and(is_elsewhere) {
            return;
        }
        if let Some(pid) = serving.map(|process| process.pid).or(self.child) {
            self.tell("signal", &format!("signal {} goes to {pid}", signal.as_raw()));
            send(pid, signal);
        }
    }

    /// Returns when hold is the last process of the container, or has no child left at least. What is left
    /// are versions that drain, and helpers that a version has left behind, which are told to end. They have
    /// as long as whatever stops the container gives them.
    pub(super) fn end_the_rest(&mut self) {
        let is_version = |pid: &u32| self.child == Some(*pid) || self.here.contains(pid);
        children().filter(|pid| !is_version(pid)).for_each(|pid| send(pid, Signal::TERM));
        while self.has_children() || self.is_any_here() {
            match self.events.recv_timeout(TICK) {
                Ok(KeeperEvent::Stop(SIGINT)) => children().for_each(|pid| send(pid, Signal::INT)),
                Ok(KeeperEvent::Other(signal)) => self.pass_on_to_one(signal),
                _ => {}
            }
        }
    }

    fn has_children(&mut self) -> bool {
        self.reap();
        waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT).is_ok()
    }
}
