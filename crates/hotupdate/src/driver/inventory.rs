//! What a successor gets: the messages of the inventory, and the descriptors that ride on them.
//!
//! Deliberately absent: sending; the machine sends batch by batch.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Instant;

use hotupdate_proto::message::MAX_DESCRIPTORS;
use hotupdate_proto::{Incumbent, Message};

use super::exports::Exports;
use super::links::Links;
use super::listeners::Listeners;

/// The parts of a driver that are passed on.
#[derive(Clone, Copy)]
pub(super) struct Inventory<'a> {
    pub(super) listeners: &'a Listeners,
    pub(super) exports: &'a Exports,
    pub(super) links: &'a Links,
}

impl Inventory<'_> {
    /// All of it, in batches.
    pub(super) fn messages(&self, machine: Option<&Incumbent>) -> io::Result<Vec<Message>> {
        let mut messages = Vec::new();
        for items in self.listeners.items()?.chunks(MAX_DESCRIPTORS) {
            messages.push(Message::Listeners { batch: 0, items: items.to_vec() });
        }
        for items in self.exports.items().chunks(MAX_DESCRIPTORS) {
            messages.push(Message::State { batch: 0, items: items.to_vec() });
        }
        let predecessors = machine.map(Incumbent::predecessors).unwrap_or_default();
        let links: Vec<_> = predecessors
            .iter()
            .filter(|predecessor| self.links.has(predecessor.generation))
            .map(|predecessor| predecessor.item(Instant::now()))
            .collect();
        for items in links.chunks(MAX_DESCRIPTORS) {
            messages.push(Message::Links { batch: 0, items: items.to_vec() });
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

    /// The descriptors that a message owns, in the order of its items.
    pub(super) fn attach(&self, message: &Message) -> io::Result<Vec<OwnedFd>> {
        let Self { listeners, exports, links } = self;
        match message {
            Message::Listeners { items, .. } => {
                items.iter().map(|item| listeners.duplicate(&item.name)).collect()
            }
            Message::State { items, .. } => items.iter().map(|item| exports.duplicate(&item.name)).collect(),
            Message::Released(released) => {
                released.state.iter().map(|item| exports.duplicate(&item.name)).collect()
            }
            Message::Links { items, .. } => {
                items.iter().map(|item| links.duplicate(item.generation)).collect()
            }
            Message::Control { .. } | Message::Rebound { .. } => {
                let ownership = listeners.ownership()?;
                Ok(vec![ownership.listener, ownership.lock])
            }
            _ => Ok(Vec::new()),
        }
    }
}
