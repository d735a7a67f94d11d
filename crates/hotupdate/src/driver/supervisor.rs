//! The supervisor of this process, systemd or a container runtime: what it is told, and the signals that it
//! sends.

use std::collections::HashSet;
use std::io;
use std::process::{Child, ExitStatus};

use hotupdate_proto::Generation;
use hotupdate_proto::incumbent::Afterwards;
use tokio::sync::mpsc;

use super::TaskResult;
use super::listeners::Listeners;
use crate::error::Result;
use crate::process::signal::{Signal, Signals};
use crate::process::spawn::{self, Program};
use crate::settings::{AfterDrain, Settings, random_hex};
use crate::systemd::Manager;

pub(super) struct Supervisor {
    manager: Option<Manager>,
    /// The process that the manager was told to be the main one, when this one let go.
    new_main_pid: Option<u32>,
    signals: Option<Signals>,
    /// What a signal starts.
    program: Option<Program>,
    /// Successors that were started here and have not joined yet, by the names of their attempts.
    expected: HashSet<String>,
    after_drain: AfterDrain,
    /// SIGTERM or SIGINT came.
    terminated: bool,
}

impl Supervisor {
    pub(super) fn find(settings: &Settings) -> Self {
        Self {
            manager: Manager::find(settings.descriptor_store),
            new_main_pid: None,
            signals: None,
            program: settings.program(),
            expected: HashSet::new(),
            after_drain: settings.after_drain,
            terminated: false,
        }
    }

    // ---- signals ------------------------------------------------------------------------------------------

    pub(super) fn listen(&mut self, settings: &Settings) -> Result<()> {
        self.signals = Some(Signals::install(settings)?);
        Ok(())
    }

    /// The next signal. Safe to cancel.
    pub(super) async fn next(&mut self) -> Signal {
        let signal = Signals::next(self.signals.as_mut()).await;
        self.terminated |= signal == Signal::Stop;
        signal
    }

    /// Starts the program of this process anew; its end is told in time.
    pub(super) fn start_successor(&mut self, results: &mpsc::Sender<TaskResult>) {
        let Some(program) = &self.program else { return };
        let path = program.path().display().to_string();
        let attempt = random_hex();
        match program.start(&attempt) {
            Err(error) => {
                tracing::error!(path, %error, "the successor cannot be started; this process serves on")
            }
            Ok(child) => {
                tracing::info!(path, pid = child.id(), "started a successor");
                self.expected.insert(attempt.clone());
                let results = results.clone();
                tokio::spawn(async move {
                    let status = spawn::ended(&child).await;
                    let _ = results.send(TaskResult::Child { child, attempt, status }).await;
                });
            }
        }
    }

    /// A successor joins: from here on the machine tells what becomes of it.
    pub(super) fn joined(&mut self, attempt: Option<&str>) {
        if let Some(attempt) = attempt {
            self.expected.remove(attempt);
        }
    }

    /// A successor that was started here has ended.
    pub(super) fn child_ended(
        &mut self,
        mut child: Child,
        attempt: &str,
        status: io::Result<ExitStatus>,
        serves: bool,
    ) {
        let never_joined = self.expected.remove(attempt);
        let pid = child.id();
        let failed = status.as_ref().is_ok_and(|status| !status.success());
        let how = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        if failed && self.is_main_process(pid) {
            // systemd hears of the end of a process as its parent, which it is when this one is gone: no
            // process waits for it before.
            return tracing::error!(
                pid,
                how,
                "the new version has ended; systemd learns it when this process has drained"
            );
        }
        // It fails if the application waits for all of its children; then that one is done.
        let _ = child.try_wait();
        if never_joined && serves {
            tracing::error!(pid, how, "the successor ended before it served; this process serves on");
        }
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
    fn is_main_process(&self, pid: u32) -> bool {
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
