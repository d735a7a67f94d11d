//! What the service manager has to know, and when.
//!
//! Deliberately absent: how it is told, see [`crate::systemd`].

use std::mem;

use hotupdate_proto::Generation;

use super::{Driver, Role};
use crate::lifecycle::Lifecycle;

impl Driver {
    /// Nobody can take this process's place back: it is the service's main process, and its listeners are the ones to keep.
    /// As long as somebody can, everything stays as that one had it.
    pub(super) fn confirm_main_process(&mut self) {
        let (Some(manager), Role::Incumbent(machine)) = (&self.manager, &self.role) else { return };
        if machine.predecessors().iter().any(|predecessor| predecessor.probation) {
            return;
        }
        // The manager knows best what it started itself.
        if self.generation != Generation::FIRST {
            manager.main_is(std::process::id());
        }
        // In this order: a name may be in use again for another socket.
        manager.forget(mem::take(&mut self.resources.stale).into_iter());
        manager.keep(self.resources.gates.iter().map(|(gate, _)| (gate.name().clone(), gate.duplicate())));
    }

    /// The main process of the service is somebody else from here on, or the service ends.
    pub(super) fn pass_on_main_process(&self) {
        let Some(manager) = &self.manager else { return };
        match self.new_main_pid {
            // Before anything of ours ends: systemd takes the end of the main process for the end of the service.
            Some(new_main_pid) if !self.stopping => manager.main_is(new_main_pid),
            // Nobody is going to accept again. (SIGTERM may be a restart, and then somebody is.)
            _ if self.for_good => {
                manager.forget(self.resources.gates.iter().map(|(gate, _)| gate.name().to_string()))
            }
            _ => {}
        }
    }

    /// The manager was told that this is the main process of the service, and not we any more.
    pub(super) fn is_main_process(&self, pid: u32) -> bool {
        self.manager.is_some()
            && self.new_main_pid == Some(pid)
            && *self.lifecycle.borrow() >= Lifecycle::Retired
    }
}
