//! A successor joins: from its call to the machine's answer.

use std::io;

use hotupdate_proto::incumbent::Event;
use hotupdate_proto::operator::Reply;
use hotupdate_proto::{Join, Occupancy};
use tracing::Instrument;

use super::exports::SealedState;
use super::{Driver, TaskResult};
use crate::control::replies;
use crate::link::channel::{self, Receiver};
use crate::process::limits;
use crate::settings::random_hex;

impl Driver {
    /// A successor calls. If it may come, the application is asked for its state.
    pub(super) fn join(&mut self, mut join: Join, receiver: Box<Receiver>) {
        // The name of an attempt is used once. A program that this process started has inherited it.
        if join.attempt == self.identity.attempt {
            join.attempt = None;
        }
        match self.machine.admits(&join) {
            Err(refusal) => {
                self.operators.log_refusal(&join.process, &refusal);
                self.turn_away(&receiver, replies::refused(&refusal));
            }
            Ok(()) => {
                let done = move |sealed| TaskResult::Exported { join, receiver, sealed };
                self.exports.run(&self.results.0, done);
            }
        }
    }

    /// The state is exported: puts the inventory together and asks the machine.
    pub(super) async fn offer(&mut self, join: Join, receiver: Receiver, sealed: io::Result<SealedState>) {
        // Another one came while the state was exported, or the inventory cannot be made: nothing has begun.
        if let Err(refusal) = self.machine.admits(&join) {
            return self.turn_away(&receiver, replies::refused(&refusal));
        }
        self.renewal.joined(&join);
        let inventory = sealed.and_then(|sealed| {
            self.exports.keep(sealed);
            self.inventory().messages(self.machine.incumbent())
        });
        let inventory = match inventory {
            Ok(inventory) => inventory,
            Err(error) => {
                let reason = format!("the inventory cannot be made: {error}");
                self.turn_away(&receiver, replies::unable(&reason));
                let (view, operators) = self.view();
                return operators.joining_failed(view, join, reason);
            }
        };
        // Short: it stands in every line of both logs.
        let handoff = random_hex()[..8].to_owned();
        self.links.begin(&handoff, receiver);
        let span = self.links.span();
        let occupancy = limits::open().map(|descriptors| {
            let connections = self.connections.summary().open();
            Occupancy { connections, descriptors }
        });
        self.handle(Event::Join { join, handoff, inventory, occupancy }).instrument(span).await;
    }

    fn turn_away(&self, receiver: &Receiver, reply: Reply) {
        let (stream, write) = (receiver.stream().clone(), self.settings.timing.write);
        tokio::spawn(async move {
            if let Ok(bytes) = hotupdate_proto::frame::encode(&reply) {
                let _ = channel::send(&stream, &bytes, &[], tokio::time::Instant::now() + write).await;
            }
        });
    }
}
