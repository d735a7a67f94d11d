//! One member of the room: what it says and hears, here or in the next version.
//!
//! Deliberately absent: being remembered. A member that closes the page has left.

use std::process::id;
use std::sync::Arc;
use std::time::Duration;

use hotupdate_axum::ws::{Event, Message, WebSocket, close_code};
use serde::{Deserialize, Serialize};

use crate::room::{Entry, Late, Room};

/// What connections of this example are called when they move.
pub(crate) const KIND: &str = "chat";

/// The largest message, in bytes.
pub(crate) const MAX_MESSAGE: usize = 2048;

/// So many messages of one member may wait to be said. With the limits of `room.rs` all of it can move.
const MAX_PENDING: usize = 4;

/// How soon what could not be said is said again, if nothing happens in between.
const RETRY: Duration = Duration::from_millis(100);

/// So many, if it has to stay in a version that does not give numbers any more.
const MAX_STUCK: usize = 100;

const MAX_NAME: usize = 24;

/// The state that moves with a connection.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Member {
    name: String,
    /// The last message that was sent to it.
    heard: u64,
    /// What it has said, and no member has heard.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pending: Vec<String>,
    /// What was said in the old version after the next one had got the history.
    #[serde(default)]
    late: Late,
}

/// What the page is told.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Notice<'a> {
    /// The process that serves from now on.
    Served { version: &'a str, generation: &'a str, pid: u32, name: &'a str },
    /// A member said something.
    Message(&'a Entry),
}

/// This process. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub(crate) room: Arc<Room>,
    pub(crate) version: Arc<str>,
    pub(crate) generation: Arc<str>,
}

impl Member {
    pub(crate) fn new(name: &str) -> Self {
        let name: String = name.trim().chars().filter(|c| !c.is_control()).take(MAX_NAME).collect();
        let name = if name.is_empty() { "somebody".to_owned() } else { name };
        Self { name, heard: 0, pending: Vec::new(), late: Late::default() }
    }
}

impl Server {
    /// A member of the old version goes on here.
    pub(crate) async fn go_on(self, socket: WebSocket, mut member: Member) {
        self.room.wait_until_open().await;
        self.room.complete(std::mem::take(&mut member.late));
        self.serve(socket, member).await;
    }

    /// Serves a member until it leaves or moves.
    pub(crate) async fn serve(self, mut socket: WebSocket, mut member: Member) {
        let presence = self.room.enter();
        let mut changes = self.room.changes();
        let draining = socket.draining();
        let Self { room, version, generation } = &self;
        let served = Notice::Served { version, generation, pid: id(), name: &member.name };
        if tell(&mut socket, &served).await.is_err() {
            return;
        }
        loop {
            // What it said before comes first.
            let said = member.pending.iter().take_while(|text| room.say(&member.name, text)).count();
            member.pending.drain(..said);
            for entry in room.after(member.heard) {
                if tell(&mut socket, &Notice::Message(&entry)).await.is_err() {
                    return;
                }
                member.heard = entry.seq;
            }
            let listens = member.pending.len() < MAX_PENDING || draining.is_draining();
            tokio::select! {
                event = socket.recv_or_drain(), if listens => match event {
                    Event::Message(_) if member.pending.len() >= MAX_STUCK => {
                        let why = "the next version does not take this room";
                        return socket.close(close_code::AGAIN, why).await;
                    }
                    Event::Message(message) => {
                        member.pending.extend(message.to_text().map(ToOwned::to_owned));
                    }
                    Event::Draining => {
                        member.late = room.late();
                        match socket.migrate(KIND, &member).await {
                            Ok(()) => return drop(presence),
                            Err(stays) => {
                                tracing::warn!(name = member.name, why = stays.why, "a member stays");
                                socket = stays.socket;
                            }
                        }
                    }
                    _ => return,
                },
                // The room lives as long as this.
                _ = changes.changed() => {}
                () = draining.started(), if !listens => {}
                () = tokio::time::sleep(RETRY), if !member.pending.is_empty() => {}
            }
        }
    }
}

async fn tell(socket: &mut WebSocket, notice: &Notice<'_>) -> Result<(), hotupdate_axum::ws::Error> {
    // Plain data, which cannot fail to be JSON.
    let text = serde_json::to_string(notice).unwrap_or_default();
    socket.send(Message::text(text)).await
}
