//! The control socket of this process: looking after its path, and what becomes of it when it was made again.
//!
//! Deliberately absent: which processes are told of it; the machine says that.

use std::os::fd::OwnedFd;

use hotupdate_proto::incumbent::Event;
use hotupdate_proto::operator::ProcessState;
use hotupdate_proto::{Incumbent, Message};

use super::Driver;
use super::machine::Role;
use crate::control::{self, Control, Ownership};

impl Driver {
    /// Looks whether the control socket and its lock are at their path, and makes them again where it can.
    pub(super) async fn look_after_path(&mut self) {
        let (is_owner, may_rebind) = match &self.machine.role {
            Role::First => (true, true),
            Role::Incumbent(machine) => (serves(machine), machine.may_rebind()),
            Role::Successor(_) | Role::Failed => (false, false),
        };
        self.listeners.look_again(is_owner);
        let Some(made) = may_rebind.then(|| self.listeners.look_after_path()).flatten() else { return };
        let file = made.file;
        self.replace_control(made);
        self.listeners.open_all();
        let generation = self.identity.generation;
        let (view, operators) = self.view();
        operators.notify(view, "rebound", generation, "the control socket was made again".to_owned());
        self.handle(Event::Rebound(file)).await;
    }

    /// The control socket that the process at the other end has made again.
    pub(super) fn keep_rebound(
        &mut self,
        message: &Message,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), String> {
        let Message::Rebound { file } = message else { return Ok(()) };
        let [listener, lock] =
            <[OwnedFd; 2]>::try_from(descriptors).map_err(|_| "two descriptors were due")?;
        let ownership = Ownership { listener, lock, file: *file };
        control::check_kinds(&ownership)?;
        self.rebound = Some(ownership);
        Ok(())
    }

    pub(super) fn take_rebound(&mut self) {
        if let Some(ownership) = self.rebound.take() {
            self.replace_control(ownership);
        }
    }

    /// Callers that have been accepted stay.
    fn replace_control(&mut self, ownership: Ownership) {
        let Self { settings, operators, listeners, .. } = self;
        let sessions = operators.sessions();
        listeners.replace_control(Control::new(ownership, &settings.path, sessions, settings.users.clone()));
    }
}

fn serves(machine: &Incumbent) -> bool {
    machine.process_state() == ProcessState::Serving
}
