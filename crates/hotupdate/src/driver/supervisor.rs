//! The supervisor of this process, systemd or a container runtime: what it is told, and the signals that it
//! sends.

use hotupdate_proto::Generation;
use hotupdate_proto::incumbent::Afterwards;

use super::listeners::Listeners;
use crate::process::signal::{Signal, Signals};
use crate::settings::{AfterDrain, Settings};
use crate::systemd::Manager;

pub(super) struct Supervisor {
    manager: Option<Manager>,
    /// The process that the manager was told to be the main one, when this one let go.
    new_main_pid: Option<u32>,
    signals: Signals,
    after_drain: AfterDrain,
    /// SIGTERM or SIGINT came.
    terminated: bool,
}

impl Supervisor {
    pub(super) fn find(settings: &Settings, signals: Signals) -> Self {
        Self {
            manager: Manager::find(settings.descriptor_store),
            new_main_pid: None,
            signals,
            after_drain: settings.after_drain,
            terminated: false,
        }
    }

    // ---- signals ------------------------------------------------------------------------------------------

    /// The next signal. Safe to cancel.
    pub(super) async fn next(&mut self) -> Signal {
        let signal = self.signals.next().await;
        self.terminated |= signal.stops();
        signal
    }

    /// The signals, when nothing is left to do.
    pub(super) fn into_signals(self) -> Signals {
        self.signals
    }

    // ---- what systemd is told -----------------------------------------------------------------------------

    /// This process serves.
    pub(super) fn ready(&self) {
        if let Some(manager) = &self.manager {
            manager.ready();
        }
    }

    /// This is the service's main process, and its listeners are the ones to keep.
    pub(super) fn established(&self, generation: Generation, listeners: &mut Listeners) {
        let Some(manager) = &self.manager else { return };
        // The manager knows best what it started itself.
        if generation != Generation::FIRST {
            manager.main_is(std::process::id());
        }
        self.keep(listeners);
    }

    /// The listeners have changed. In this order: a name may be in use again for another socket.
    pub(super) fn keep(&self, listeners: &mut Listeners) {
        let Some(manager) = &self.manager else { return };
        manager.forget(listeners.take_stale().into_iter());
        manager.keep(listeners.duplicates());
    }

    /// Another process is the service's main process from here on, or the service ends.
    pub(super) fn let_go(&mut self, afterwards: Afterwards, listeners: &Listeners) {
        let Some(manager) = &self.manager else { return };
        match afterwards {
            // Before anything here ends: systemd takes the end of the main process for the end of the
            // service.
            Afterwards::ServedBy(Some(pid)) => {
                manager.main_is(pid);
                self.new_main_pid = Some(pid);
            }
            // No process is going to accept again. (SIGTERM may be a restart, and then one is.)
            Afterwards::StoppedForGood => manager.forget(listeners.names()),
            Afterwards::ServedBy(None) | Afterwards::Stopped => {}
        }
    }

    /// The manager was told that this is the main process of the service.
    pub(super) fn is_main_process(&self, pid: u32) -> bool {
        self.manager.is_some() && self.new_main_pid == Some(pid)
    }

    /// Whether this process stays when nothing is left to do, because its supervisor would start the service
    /// again.
    pub(super) fn wants_it_to_stay(&self) -> bool {
        self.after_drain == AfterDrain::StayUntilTerm && !self.terminated
    }

    /// Resolves when systemd has everything that it was told.
    pub(super) fn told(&self) -> impl Future<Output = ()> + Send + use<> {
        let told = self.manager.as_ref().map(Manager::told);
        async move {
            if let Some(told) = told {
                told.await;
            }
        }
    }
}
