//! What is said on the links: by the other side of a handoff, and by predecessors.
//!
//! Deliberately absent: what follows from it, see `driver/incumbent.rs`.

use hotupdate_proto::message::Released;
use hotupdate_proto::{ConnectionRow, Fault, Generation, Message, incumbent, successor};

use super::{Driver, MAX_DEFERRED, MAX_ROWS, Role};
use crate::connections::accepted_at;
use crate::link::{Heard, LinkId};
use crate::state;

impl Driver {
    pub(super) fn next_link_id(&mut self) -> LinkId {
        self.last_link_id += 1;
        LinkId(self.last_link_id)
    }

    pub(super) async fn hear(&mut self, id: LinkId, heard: Heard) {
        if self.peer.as_ref().is_some_and(|peer| peer.id == id) {
            return match &self.role {
                Role::Successor(_) => self.hear_incumbent(heard).await,
                _ => self.hear_successor(heard).await,
            };
        }
        let generation =
            self.predecessors.iter().find(|(_, link)| link.id == id).map(|(generation, _)| *generation);
        let Some(generation) = generation else { return };
        if let Role::Successor(_) = self.role {
            return self.defer(id, generation, heard).await;
        }
        let event = match heard {
            Heard::Message(message, descriptors) => {
                self.remember_rows(generation, &message);
                self.migrations.arriving = descriptors;
                incumbent::Event::Predecessor(generation, message)
            }
            Heard::Closed(fault) => incumbent::Event::PredecessorClosed(generation, fault),
        };
        self.incumbent(event).await;
        // What was not asked for is closed.
        self.migrations.arriving.clear();
    }

    /// The incumbent is dead, and a predecessor was asked to serve again. What else it says is heard when this process serves.
    async fn defer(&mut self, id: LinkId, generation: Generation, heard: Heard) {
        if let Heard::Message(Message::Serving { .. } | Message::Failed { .. }, _) = heard {
            return self.successor(successor::Event::Resumed(generation)).await;
        }
        self.deferred.push_back((id, heard));
        if self.deferred.len() >= MAX_DEFERRED
            && let Some(link) = self.predecessors.get_mut(&generation)
        {
            link.pause().await;
        }
    }

    pub(super) async fn hear_successor(&mut self, heard: Heard) {
        let event = match heard {
            Heard::Message(message, _) => {
                // A later version serves; the rows went to the one before it.
                if message == Message::EndProbation && self.draining {
                    self.collect_rows();
                }
                incumbent::Event::Message(message)
            }
            Heard::Closed(fault) => {
                // After anything else it lives: it is told why, or its link is read for its end.
                if fault == Fault::PeerGone {
                    self.peer = None;
                }
                incumbent::Event::Closed(fault)
            }
        };
        self.incumbent(event).await;
    }

    pub(super) async fn hear_incumbent(&mut self, heard: Heard) {
        let event = match heard {
            Heard::Message(message, descriptors) => {
                let mut wrong = None;
                if let Message::Released(Released { state, links, .. }) = &message {
                    self.unread_link_bytes = links.clone();
                    self.sealed = state.iter().cloned().zip(descriptors).collect();
                    wrong = self.sealed.iter().find_map(|(item, fd)| state::check(item, fd).err());
                }
                match wrong {
                    Some(what) => successor::Event::Closed(Fault::PeerMisbehaved(what)),
                    None => successor::Event::Message(message),
                }
            }
            Heard::Closed(fault) => successor::Event::Closed(fault),
        };
        self.successor(event).await;
    }

    pub(super) fn remember_rows(&mut self, generation: Generation, message: &Message) {
        let rows = self.rows.entry(generation).or_default();
        match message {
            Message::Connections { items } => {
                let room = MAX_ROWS.saturating_sub(rows.len());
                let known = |row: &ConnectionRow| (row.id, (accepted_at(row.age_ms), row.clone()));
                rows.extend(items.iter().take(room).map(known));
            }
            Message::Progress { closed, .. } => closed.iter().for_each(|id| drop(rows.remove(id))),
            _ => {}
        }
    }
}
