//! What a successor gets: the messages of the inventory, and the descriptors that ride on them.
//!
//! Deliberately absent: sending; the machine sends batch by batch.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use hotupdate_proto::incumbent::Event;
use hotupdate_proto::message::MAX_DESCRIPTORS;
use hotupdate_proto::{Generation, Join, Message, Refusal};

use tracing::Instrument;

use super::{Driver, Role, SealedState};
use crate::control::replies;
use crate::lifecycle::Lifecycle;
use crate::link::channel::Receiver;
use crate::link::{self, Link};
use crate::settings::random_hex;

impl Driver {
    /// The state is exported: puts the inventory together and asks the machine.
    pub(super) async fn offer(&mut self, join: Join, receiver: Receiver, sealed: io::Result<SealedState>) {
        let admitted = match &self.role {
            Role::Incumbent(machine) => machine.admits(&join),
            _ => Err(Refusal::NotServing),
        };
        // Somebody else came while the state was exported, or the inventory cannot be made: nothing has begun.
        if let Err(refusal) = admitted {
            return self.turn_away(&receiver, replies::refused(&refusal));
        }
        let inventory = sealed.and_then(|sealed| {
            self.sealed = sealed;
            self.inventory()
        });
        let inventory = match inventory {
            Ok(inventory) => inventory,
            Err(error) => {
                let reason = format!("the inventory cannot be made: {error}");
                self.turn_away(&receiver, replies::unable(&reason));
                return self.joining_failed(join, reason);
            }
        };
        let (stream, rest) = receiver.into_rest();
        // Short: it stands in every line of both logs.
        let handoff = random_hex()[..8].to_owned();
        self.span = link::span(&handoff);
        let (id, heard) = (self.next_link_id(), self.heard.0.clone());
        let mut link = Link::paused(id, self.span.clone(), stream, rest, heard, self.settings.timing.write);
        link.resume(None);
        self.peer = Some(link);
        let span = self.span.clone();
        self.incumbent(Event::Join { join, handoff, inventory }).instrument(span).await;
    }

    fn inventory(&self) -> io::Result<Vec<Message>> {
        let mut messages = Vec::new();
        for items in self.resources.items()?.chunks(MAX_DESCRIPTORS) {
            messages.push(Message::Listeners { batch: 0, items: items.to_vec() });
        }
        let state: Vec<_> = self.sealed.iter().map(|(item, _)| item.clone()).collect();
        for items in state.chunks(MAX_DESCRIPTORS) {
            messages.push(Message::State { batch: 0, items: items.to_vec() });
        }
        if let Role::Incumbent(machine) = &self.role {
            let links: Vec<_> = machine
                .predecessors()
                .iter()
                .filter(|predecessor| self.predecessors.contains_key(&predecessor.generation))
                .map(|predecessor| predecessor.item(Instant::now()))
                .collect();
            for items in links.chunks(MAX_DESCRIPTORS) {
                messages.push(Message::Links { batch: 0, items: items.to_vec() });
            }
        }
        messages.push(Message::Control { batch: 0 });
        for (message, number) in messages.iter_mut().zip(1..) {
            match message {
                Message::Listeners { batch, .. }
                | Message::State { batch, .. }
                | Message::Links { batch, .. }
                | Message::Control { batch } => *batch = number,
                _ => {}
            }
        }
        Ok(messages)
    }

    /// The application dropped listeners, which closed them. When this process will never serve again, that is how they end.
    pub(super) fn forget_dropped_listeners(&mut self) {
        let lifecycle = *self.lifecycle.borrow();
        if lifecycle >= Lifecycle::Retired {
            return;
        }
        let what = match lifecycle {
            Lifecycle::Serving => "its clients are refused",
            Lifecycle::Draining => "should this process have to serve again, it cannot serve there",
            _ => "it will not be served",
        };
        for (listener, address) in self.resources.take_dropped() {
            tracing::warn!(listener, %address, "the application dropped this listener: {what}, and the next version is not offered it");
        }
        // As long as another process may serve them, the store keeps them.
        if lifecycle == Lifecycle::Serving {
            self.confirm_main_process();
        }
    }

    /// The descriptors that a message owns, in the order of its items.
    pub(super) fn attach(&self, message: &Message) -> io::Result<Vec<OwnedFd>> {
        match message {
            Message::Listeners { items, .. } => items.iter().map(|item| self.listener(&item.name)).collect(),
            Message::State { items, .. } => items.iter().map(|item| self.state(&item.name)).collect(),
            Message::Released(released) => released.state.iter().map(|item| self.state(&item.name)).collect(),
            Message::Links { items, .. } => items.iter().map(|item| self.link_to(item.generation)).collect(),
            Message::Control { .. } => {
                let control =
                    self.control.as_ref().ok_or_else(|| io::Error::other("the control socket is gone"))?;
                let ownership = control.ownership()?;
                Ok(vec![ownership.listener, ownership.lock])
            }
            _ => Ok(Vec::new()),
        }
    }

    /// A predecessor may end between the inventory and this; then the successor gets the end of a link, and sees that.
    fn link_to(&self, generation: Generation) -> io::Result<OwnedFd> {
        if let Some(link) = self.predecessors.get(&generation) {
            return link.duplicate();
        }
        let (ended, _) = UnixStream::pair()?;
        ended.set_nonblocking(true)?;
        Ok(ended.into())
    }

    fn listener(&self, name: &str) -> io::Result<OwnedFd> {
        if let Some((gate, _)) = self.resources.gates.iter().find(|(gate, _)| &**gate.name() == name) {
            return gate.duplicate();
        }
        let other = self.resources.descriptors.iter().find(|(item, _, _)| item.name == name);
        other.ok_or_else(|| io::Error::other(format!("no listener {name:?}")))?.1.try_clone()
    }

    fn state(&self, name: &str) -> io::Result<OwnedFd> {
        let sealed = self.sealed.iter().find(|(item, _)| item.name == name);
        sealed.ok_or_else(|| io::Error::other(format!("no state {name:?}")))?.1.try_clone()
    }
}
