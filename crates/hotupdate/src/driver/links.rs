//! The links of this process: to the other side of a handoff, and to predecessors that drain.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use hotupdate_proto::frame::FrameError;
use hotupdate_proto::inventory::UnreadLink;
use hotupdate_proto::{Generation, LinkItem, Message};
use tokio::sync::mpsc;
use tracing::Span;

use super::text::{from_text, to_text};
use crate::link::channel::{Receiver, Sent};
use crate::link::{self, Heard, Link, LinkId};

/// What predecessors say before this process serves, after which their links are not read until it does.
const MAX_DEFERRED: usize = 256;

/// The process at the other end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speaker {
    /// The other side of the handoff: a successor has the incumbent there, and the other way round.
    Peer,
    Predecessor(Generation),
}

pub(super) struct Links {
    peer: Option<Link>,
    /// The handoff that is under way, or that this process drains after.
    span: Span,
    predecessors: HashMap<Generation, Link>,
    last_id: u64,
    sender: mpsc::Sender<(LinkId, Heard)>,
    heard: mpsc::Receiver<(LinkId, Heard)>,
    /// What was heard from predecessors before this process served.
    deferred: VecDeque<(LinkId, Heard)>,
    /// What the incumbent had read of links that belong to this process now.
    unread: Vec<UnreadLink>,
    /// How long the other side may take to read a message.
    write: Duration,
}

impl Links {
    pub(super) fn new(write: Duration) -> Self {
        // Each link holds a place while it waits for its next message.
        let (sender, heard) = mpsc::channel(256);
        Self {
            peer: None,
            span: Span::none(),
            predecessors: HashMap::new(),
            last_id: 0,
            sender,
            heard,
            deferred: VecDeque::new(),
            unread: Vec::new(),
            write,
        }
    }

    // ---- which links there are ----------------------------------------------------------------------------

    /// A handoff of this name begins with the process at the other end, whose link is read from here on.
    pub(super) fn begin(&mut self, handoff: &str, receiver: Receiver) {
        let (stream, unread) = receiver.into_rest();
        self.span = link::span(handoff);
        let (id, sender) = (self.next_id(), self.sender.clone());
        let mut peer = Link::paused(id, self.span.clone(), stream, unread, sender, self.write);
        peer.resume(None);
        self.peer = Some(peer);
    }

    /// The link to a predecessor came with the inventory; it is not read yet.
    pub(super) fn inherit(&mut self, item: &LinkItem, fd: OwnedFd) -> io::Result<()> {
        let (id, sender) = (self.next_id(), self.sender.clone());
        let link = Link::inherited(id, link::span(&item.handoff), fd, sender, self.write)?;
        self.predecessors.insert(item.generation, link);
        Ok(())
    }

    fn next_id(&mut self) -> LinkId {
        self.last_id += 1;
        LinkId(self.last_id)
    }

    /// This process serves: the incumbent, if it lives, is a predecessor now, and no handoff is under way.
    pub(super) fn serve(&mut self, incumbent: Generation, alive: &[Generation]) {
        if let Some(link) = self.peer.take() {
            self.predecessors.insert(incumbent, link);
        }
        self.predecessors.retain(|generation, _| alive.contains(generation));
        self.span = Span::none();
    }

    pub(super) fn demote(&mut self, generation: Generation) {
        self.span = Span::none();
        if let Some(link) = self.peer.take() {
            self.predecessors.insert(generation, link);
        }
    }

    pub(super) fn promote(&mut self, generation: Generation) {
        self.peer = self.predecessors.remove(&generation);
        self.span = self.peer.as_ref().map_or_else(Span::none, |peer| peer.span.clone());
    }

    pub(super) fn has_peer(&self) -> bool {
        self.peer.is_some()
    }

    pub(super) fn has(&self, generation: Generation) -> bool {
        self.predecessors.contains_key(&generation)
    }

    /// The handoff is over.
    pub(super) fn close(&mut self) {
        self.peer = None;
        self.span = Span::none();
    }

    /// The process at the other end is gone. Its handoff goes on to be the one that is spoken of.
    pub(super) fn peer_is_gone(&mut self) {
        self.peer = None;
    }

    pub(super) fn forget(&mut self, generation: Generation) {
        self.predecessors.remove(&generation);
    }

    pub(super) fn forget_predecessors(&mut self) {
        self.predecessors.clear();
    }

    // ---- speaking -----------------------------------------------------------------------------------------

    pub(super) fn send(&self, message: &Message, descriptors: Vec<Sent>) {
        if let Some(peer) = &self.peer {
            peer.send(message, descriptors);
        }
    }

    /// As [`Links::send`], in a form of its own.
    pub(super) fn send_encoded(
        &self,
        message: &'static str,
        encoded: Result<Vec<u8>, FrameError>,
        descriptors: Vec<Sent>,
    ) {
        if let Some(peer) = &self.peer {
            peer.send_encoded(message, encoded, descriptors);
        }
    }

    pub(super) fn send_to(&self, generation: Generation, message: &Message, descriptors: Vec<Sent>) {
        if let Some(link) = self.predecessors.get(&generation) {
            link.send(message, descriptors);
        }
    }

    pub(super) fn send_to_predecessors(&self, message: &Message) {
        self.predecessors.values().for_each(|link| link.send(message, Vec::new()));
    }

    /// The reply to `Join`, which has a form of its own.
    pub(super) fn reply(&self, bytes: Vec<u8>) {
        if let Some(peer) = &self.peer {
            peer.send_bytes(bytes);
        }
    }

    /// Resolves when the other side of the handoff has everything that was said to it, or never will.
    pub(super) fn flushed(&self) -> impl Future<Output = ()> + Send + use<> {
        let flushed = self.peer.as_ref().map(Link::flushed);
        async move {
            if let Some(flushed) = flushed {
                flushed.await;
            }
        }
    }

    // ---- hearing ------------------------------------------------------------------------------------------

    /// What is heard next. Safe to cancel.
    pub(super) async fn next(&mut self) -> (LinkId, Heard) {
        match self.heard.recv().await {
            Some(heard) => heard,
            // The sender is here, so that it never ends.
            None => std::future::pending().await,
        }
    }

    /// What still comes means nothing any more, and is read all the same: it may come for as long as the
    /// application goes on. A process that got this link before it heard that this one has drained asks
    /// whether anything migrates, and would wait for the answer.
    pub(super) async fn hear_nothing_more(mut self) {
        loop {
            if let (_, Heard::Message(Message::Quiesce, _)) = self.next().await {
                self.send(&Message::Quiesced, Vec::new());
            }
        }
    }

    pub(super) fn next_deferred(&mut self) -> Option<(LinkId, Heard)> {
        self.deferred.pop_front()
    }

    pub(super) fn speaker(&self, id: LinkId) -> Option<Speaker> {
        if self.peer.as_ref().is_some_and(|peer| peer.id == id) {
            return Some(Speaker::Peer);
        }
        let mut predecessors = self.predecessors.iter();
        predecessors.find(|(_, link)| link.id == id).map(|(generation, _)| Speaker::Predecessor(*generation))
    }

    /// What is logged about this link carries the name of its handoff.
    pub(super) fn span_of(&self, id: LinkId) -> Span {
        let mut links = self.peer.iter().chain(self.predecessors.values());
        links.find(|link| link.id == id).map_or_else(Span::none, |link| link.span.clone())
    }

    pub(super) fn span(&self) -> Span {
        self.span.clone()
    }

    /// A predecessor said something that has to wait until this process serves.
    pub(super) async fn defer(&mut self, id: LinkId, generation: Generation, heard: Heard) {
        self.deferred.push_back((id, heard));
        if self.deferred.len() >= MAX_DEFERRED
            && let Some(link) = self.predecessors.get_mut(&generation)
        {
            link.pause().await;
        }
    }

    /// The incumbent had read so much of the links that came with the inventory.
    pub(super) fn note_unread(&mut self, unread: Vec<UnreadLink>) {
        self.unread = unread;
    }

    /// Reads the links that came with the inventory.
    pub(super) fn read_inherited(&mut self) {
        let unread = std::mem::take(&mut self.unread);
        self.read_predecessors(&unread);
    }

    /// Reads the links to predecessors from here on; from those that another process read meanwhile, after
    /// these bytes.
    pub(super) fn read_predecessors(&mut self, unread: &[UnreadLink]) {
        for (generation, link) in &mut self.predecessors {
            let rest = unread.iter().find(|rest| rest.generation == *generation);
            link.resume(rest.map(|rest| from_text(&rest.unread)));
        }
    }

    pub(super) fn read(&mut self, generation: Generation) {
        if let Some(link) = self.predecessors.get_mut(&generation) {
            link.resume(None);
        }
    }

    /// Stops reading predecessors, so that another process can; returns what was read and is no whole
    /// message.
    pub(super) async fn pause_predecessors(&mut self) -> Vec<UnreadLink> {
        let mut links = Vec::with_capacity(self.predecessors.len());
        for (generation, link) in &mut self.predecessors {
            links.push(UnreadLink { generation: *generation, unread: to_text(&link.pause().await) });
        }
        links
    }

    /// A predecessor may end between the inventory and this; then the successor gets the end of a link, and
    /// sees that.
    pub(super) fn duplicate(&self, generation: Generation) -> io::Result<OwnedFd> {
        if let Some(link) = self.predecessors.get(&generation) {
            return link.duplicate();
        }
        let (ended, _) = UnixStream::pair()?;
        ended.set_nonblocking(true)?;
        Ok(ended.into())
    }
}
