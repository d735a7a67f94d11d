//! What the service manager has to know, and when.
//!
//! Deliberately absent: how it is told, see [`crate::systemd`].

use std::mem;

use hotupdate_proto::Generation;
use hotupdate_proto::incumbent::Afterwards;

use super::Driver;

impl Driver {
    /// Nobody can take this process's place back: it is the service's main process, and its listeners are the ones to keep.
    /// As long as somebody can, everything stays as that one had it.
    pub(super) fn confirm_main_process(&mut self) {
        let Some(manager) = &self.manager else { return };
        // The manager knows best what it started itself.
        if self.generation != Generation::FIRST {
            manager.main_is(std::process::id());
        }
        // In this order: a name may be in use again for another socket.
        manager.forget(mem::take(&mut self.resources.stale).into_iter());
        manager.keep(self.resources.gates.iter().map(|(gate, _)| (gate.name().clone(), gate.duplicate())));
    }

    /// The main process of the service is somebody else from here on, or the service ends.
    pub(super) fn pass_on_main_process(&mut self, afterwards: Afterwards) {
        let Some(manager) = &self.manager else { return };
        match afterwards {
            // Before anything of ours ends: systemd takes the end of the main process for the end of the service.
            Afterwards::ServedBy(Some(pid)) => {
                manager.main_is(pid);
                self.new_main_pid = Some(pid);
            }
            // Nobody is going to accept again. (SIGTERM may be a restart, and then somebody is.)
            Afterwards::StoppedForGood => {
                manager.forget(self.resources.gates.iter().map(|(gate, _)| gate.name().to_string()))
            }
            Afterwards::ServedBy(None) | Afterwards::Stopped => {}
        }
    }

    /// The manager was told that this is the main process of the service, and not we any more.
    pub(super) fn is_main_process(&self, pid: u32) -> bool {
        self.manager.is_some() && self.new_main_pid == Some(pid)
    }
}
