//! What is said on the links: by the other side of a handoff, and by predecessors.

use std::os::fd::OwnedFd;

use hotupdate_proto::incumbent::Event;
use hotupdate_proto::message::Released;
use hotupdate_proto::{Fault, Generation, Message, successor};

use super::Driver;
use super::links::Speaker;
use crate::link::{Heard, LinkId};

impl Driver {
    pub(super) async fn hear(&mut self, id: LinkId, heard: Heard) {
        match (self.links.speaker(id), self.machine.is_successor()) {
            (None, _) => {}
            (Some(Speaker::Peer), true) => self.hear_incumbent(heard).await,
            (Some(Speaker::Peer), false) => self.hear_successor(heard).await,
            (Some(Speaker::Predecessor(generation)), true) => self.hear_early(id, generation, heard).await,
            (Some(Speaker::Predecessor(generation)), false) => self.hear_predecessor(generation, heard).await,
        }
    }

    async fn hear_predecessor(&mut self, generation: Generation, heard: Heard) {
        let event = match heard {
            Heard::Message(message, descriptors) => {
                self.migrations.arriving = descriptors;
                self.operators.remember(generation, &message);
                self.hear_of_manager(&message);
                Event::Predecessor(generation, message)
            }
            Heard::Closed(fault) => Event::PredecessorClosed(generation, fault),
        };
        self.handle(event).await;
        // What the machine did not ask for is closed.
        self.migrations.arriving.clear();
    }

    /// The incumbent is dead, and a predecessor was asked to serve again. What else it says is heard when
    /// this process serves.
    async fn hear_early(&mut self, id: LinkId, generation: Generation, heard: Heard) {
        if let Heard::Message(Message::Serving { .. } | Message::Failed { .. }, _) = heard {
            return self.handle_successor(successor::Event::Resumed(generation)).await;
        }
        self.links.defer(id, generation, heard).await;
    }

    async fn hear_successor(&mut self, heard: Heard) {
        match heard {
            Heard::Message(message, descriptors) => {
                if let Err(what) = self.keep_rebound(&message, descriptors) {
                    return self.handle(Event::Closed(Fault::PeerMisbehaved(what))).await;
                }
                // A later version serves; the rows went to the one before it.
                if matches!(message, Message::EndProbation) && self.drain.is_draining() {
                    self.collect_rows();
                }
                self.hear_of_heir(&message);
                // From a successor whose incumbent died it is empty.
                match &message {
                    Message::Resume { history, counts, .. } if !history.is_empty() || counts.is_some() => {
                        self.operators.goes_on_from(history, counts.as_deref());
                    }
                    Message::Counted { counts } => self.operators.counts.hear(counts.clone()),
                    _ => {}
                }
                self.handle(Event::Message(message)).await;
                // What the machine did not ask for is closed.
                self.rebound = None;
            }
            Heard::Closed(fault) => {
                // After anything else it lives: it is told why, or its link is read for its end.
                if fault == Fault::PeerGone {
                    self.links.peer_is_gone();
                }
                self.handle(Event::Closed(fault)).await;
                self.end_unless_kept();
            }
        }
    }

    async fn hear_incumbent(&mut self, heard: Heard) {
        let event = match heard {
            Heard::Message(message, descriptors) => match self.keep(&message, descriptors) {
                Ok(()) => successor::Event::Message(message),
                Err(what) => successor::Event::Closed(Fault::PeerMisbehaved(what)),
            },
            Heard::Closed(fault) => successor::Event::Closed(fault),
        };
        self.handle_successor(event).await;
        self.rebound = None;
    }

    fn keep(&mut self, message: &Message, descriptors: Vec<OwnedFd>) -> Result<(), String> {
        match message {
            Message::Rebound { .. } => self.keep_rebound(message, descriptors),
            message => self.keep_final_word(message, descriptors),
        }
    }

    /// `released` brings the state of the application, what was read of links that are read here from now on,
    /// and what the incumbent remembers.
    fn keep_final_word(&mut self, message: &Message, descriptors: Vec<OwnedFd>) -> Result<(), String> {
        let Message::Released(Released { state, links, history, counts, .. }) = message else {
            return Ok(());
        };
        self.links.note_unread(links.clone());
        self.operators.goes_on_from(history, counts.as_deref());
        self.exports.keep(state.iter().cloned().zip(descriptors).collect());
        self.exports.check()
    }
}
