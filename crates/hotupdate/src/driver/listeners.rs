//! What this process serves on: its listeners and other descriptors, and the control socket.
//!
//! Deliberately absent: accepting; the application does that, and [`crate::control`] for the control socket.

use std::io;
use std::mem;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hotupdate_proto::ListenerItem;
use hotupdate_proto::ShortText;
use hotupdate_proto::operator::ListenerStatus;
use hotupdate_proto::timing::fixed::driver::REOPEN_PAUSE;
use tokio::sync::Notify;

use super::clock::monotonic_ns;
use crate::control::{self, Control, Ownership, Upkeep};
use crate::error::{Doing, Result};
use crate::lifecycle::Lifecycle;
use crate::listeners::gate::GateControl;
use crate::resources::Resources;
use crate::settings::Settings;

pub(super) struct Listeners {
    /// Its listeners are closed when it is dropped.
    resources: Resources,
    /// Gone when this process has let go of it.
    control: Option<Control>,
    path: PathBuf,
    upkeep: Upkeep,
    /// How long between two looks whether the control socket is at its path; for ever: it is never looked at.
    path_check: Duration,
    /// When to look.
    look_at: Option<Instant>,
    /// A listener that should be open is not.
    reopen_at: Option<Instant>,
}

impl Listeners {
    pub(super) fn new(control: Control, settings: &Settings) -> Self {
        let Settings { path, users, timing, .. } = settings;
        Self {
            resources: Resources::default(),
            control: Some(control),
            upkeep: Upkeep::new(path, users.clone()),
            path: path.clone(),
            path_check: timing.path_check,
            look_at: None,
            reopen_at: None,
        }
    }

    /// What the application claimed before it became ready.
    pub(super) fn claim(&mut self, resources: Resources) {
        self.resources = resources;
    }

    // ---- opening and closing ------------------------------------------------------------------------------

    /// Opens everything that a process serves on. What cannot be opened now is tried again: no other process
    /// will do it.
    pub(super) fn open_all(&mut self) {
        let listeners = self.resources.gates.iter().map(|(gate, _)| gate.as_ref());
        let control = self.control.iter().map(|control| control.gate.as_ref() as &dyn GateControl);
        let mut failed = None;
        for gate in listeners.chain(control) {
            if let Err(error) = gate.open() {
                failed = Some((gate.name(), error));
            }
        }
        if let (Some((listener, error)), None) = (&failed, self.reopen_at) {
            tracing::error!(%listener, %error, "a listener cannot be opened; it is tried again until it can");
        }
        self.reopen_at = failed.map(|_| Instant::now() + REOPEN_PAUSE);
    }

    /// Opens the application's listeners: all of them, or none.
    pub(super) fn open(&self) -> Result<()> {
        let opened = self.resources.gates.iter().try_for_each(|(gate, _)| {
            gate.open().doing(|| format!("opening the listener {:?}", gate.name()))
        });
        if opened.is_err() {
            self.resources.gates.iter().for_each(|(gate, _)| drop(gate.park()));
        }
        opened
    }

    /// Parks everything: when this returns, nothing is accepted any more. Returns since when clients wait, in
    /// nanoseconds of `CLOCK_MONOTONIC`, or why a listener cannot be parked.
    pub(super) fn park(&mut self) -> Result<u64, String> {
        self.reopen_at = None;
        for (gate, _) in &self.resources.gates {
            gate.park()
                .map_err(|error| format!("the listener {:?} cannot be parked: {error}", gate.name()))?;
        }
        let at_ns = monotonic_ns();
        if let Some(control) = &self.control {
            let parked = control.gate.park();
            parked.map_err(|error| format!("the control socket cannot be parked: {error}"))?;
        }
        Ok(at_ns)
    }

    /// Closes everything: another process has it, or the service ends.
    pub(super) fn let_go(&mut self) {
        (self.reopen_at, self.look_at) = (None, None);
        self.resources.gates.iter().for_each(|(gate, _)| gate.close());
        self.resources.descriptors.clear();
        self.control = None;
    }

    // ---- the control socket -------------------------------------------------------------------------------

    /// This process owns it from here on: it says so in the lock, and looks after the path.
    pub(super) fn serves(&mut self) {
        if let Ok(ownership) = self.ownership() {
            control::say_running(&ownership.lock);
        }
        self.look_at = self.next_look().map(|_| Instant::now());
    }

    /// The next look comes after the interval, if this process is still the owner.
    pub(super) fn look_again(&mut self, is_owner: bool) {
        self.look_at = self.next_look().filter(|_| is_owner);
    }

    fn next_look(&self) -> Option<Instant> {
        Instant::now().checked_add(self.path_check)
    }

    pub(super) fn is_look_due(&self, now: Instant) -> bool {
        self.look_at.is_some_and(|at| now >= at)
    }

    /// Looks whether it is at its path; returns what takes its place if it is not.
    pub(super) fn look_after_path(&mut self) -> Option<Ownership> {
        self.control.as_ref()?.look(&mut self.upkeep)
    }

    /// The old listener and lock are closed, once the new ones are there.
    pub(super) fn replace_control(&mut self, control: Control) {
        self.control = Some(control);
    }

    /// The service was stopped on purpose.
    pub(super) fn say_stopped(&self) {
        if let Ok(ownership) = self.ownership() {
            control::say_stopped(&ownership.lock);
        }
    }

    /// Removes the file of the control socket: there is no process behind it from here on.
    pub(super) fn remove_control_socket(&self) {
        if let Ok(ownership) = self.ownership() {
            control::remove(&self.path, &ownership);
        }
    }

    // ---- what may have changed ----------------------------------------------------------------------------

    pub(super) fn deadline(&self) -> Option<Instant> {
        [self.reopen_at, self.look_at].into_iter().flatten().min()
    }

    pub(super) fn tick(&mut self, now: Instant) {
        if self.reopen_at.is_some_and(|at| now >= at) {
            self.open_all();
        }
    }

    /// Told when the application drops a listener.
    pub(super) fn dropped(&self) -> &Arc<Notify> {
        &self.resources.dropped
    }

    /// The application dropped listeners, which closed them. When this process will never serve again, that
    /// is how they end.
    pub(super) fn forget_dropped(&mut self, lifecycle: Lifecycle) {
        if lifecycle >= Lifecycle::Retired {
            return;
        }
        let what = match lifecycle {
            Lifecycle::Serving => "its clients are refused",
            Lifecycle::Draining => "should this process have to serve again, it cannot serve there",
            _ => "it will not be served",
        };
        for (listener, address) in self.resources.take_dropped() {
            tracing::warn!(
                listener,
                %address,
                "the application dropped this listener, or the server that had it: {what}, and the next \
                 version is not offered it"
            );
        }
    }

    // ---- what other processes are told about them --------------------------------------------------------

    /// What a successor is told.
    pub(super) fn items(&self) -> io::Result<Vec<ListenerItem>> {
        self.resources.items()
    }

    /// A duplicate for a successor.
    pub(super) fn duplicate(&self, name: &str) -> io::Result<OwnedFd> {
        if let Some((gate, _)) = self.resources.gates.iter().find(|(gate, _)| &**gate.name() == name) {
            return gate.duplicate();
        }
        let other = self.resources.descriptors.iter().find(|(item, _, _)| item.name == name);
        other.ok_or_else(|| io::Error::other(format!("no listener {name:?}")))?.1.try_clone()
    }

    /// The control socket, for a successor.
    pub(super) fn ownership(&self) -> io::Result<Ownership> {
        let control = self.control.as_ref();
        control.ok_or_else(|| io::Error::other("the control socket is gone"))?.ownership()
    }

    /// Names under which the descriptor store may have something that this process does not use.
    pub(super) fn take_stale(&mut self) -> Vec<String> {
        mem::take(&mut self.resources.stale)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = ShortText> {
        self.resources.gates.iter().map(|(gate, _)| gate.name().clone())
    }

    pub(super) fn duplicates(&self) -> impl Iterator<Item = (ShortText, io::Result<OwnedFd>)> {
        self.resources.gates.iter().map(|(gate, _)| (gate.name().clone(), gate.duplicate()))
    }

    /// What operators are told.
    pub(super) fn status(&self) -> Vec<ListenerStatus> {
        let gates = self.resources.gates.iter().map(|(gate, origin)| {
            let mut status = ListenerStatus::new(gate.name().to_string(), gate.kind(), origin.to_string());
            status.address = gate.address().to_string();
            status
        });
        let others = self.resources.descriptors.iter().map(|(item, _, origin)| {
            let mut status = ListenerStatus::new(item.name.clone(), item.kind, origin.to_string());
            status.address.clone_from(&item.address);
            status
        });
        gates.chain(others).collect()
    }
}
