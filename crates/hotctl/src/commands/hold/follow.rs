//! Which version serves, at every moment: what the service says on its `Monitor` stream, whichever process
//! has the control socket.
//!
//! Deliberately absent: asking again while a stream is silent, as `hotctl watch` does. A process that hands
//! off ends its streams.

use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::time::Instant;
use std::{io, thread};

use hotupdate_proto::operator::{Monitored, PastEvent, ProcessState, Status};
use hotupdate_proto::timing::fixed::hold::{CONNECT, LOOK_AGAIN, SILENCE};
use hotupdate_proto::{INTERFACE, Process};

use super::KeeperEvent;
use crate::client::{CallError, Client};
use crate::context::NOTHING;

/// The version that serves.
pub(super) struct Serving {
    pub(super) process: Process,
    /// In a line for people: it serves, or how it came to serve if no handoff is the reason.
    pub(super) how: String,
}

impl Serving {
    /// `None` if no version serves at the moment.
    pub(super) fn of(status: Status) -> Option<Self> {
        let Status { serving, history, .. } = status;
        if serving.state != ProcessState::Serving {
            return None;
        }
        let process = serving.process;
        // It remembers what happened before a later handoff, too; then the words are about other versions.
        let is_about_it = |event: &PastEvent| {
            matches!(&*event.kind, "took_over" | "rolled_back" | "stepped_in")
                && event.text.contains(&process.to_string())
        };
        let event = history.into_iter().next().filter(is_about_it);
        let how = event.map_or_else(|| format!("{process} serves"), |event| event.text);
        Some(Self { process, how })
    }
}

/// Sends [`KeeperEvent::Serves`] whenever a version says that it serves.
pub(super) fn start(socket: PathBuf, sender: Sender<KeeperEvent>) -> io::Result<()> {
    let follow = move || {
        loop {
            // A stream that said something ended with a handoff: the next process is there at once.
            if !matches!(follow(&socket, &sender), Ok(true)) {
                thread::sleep(LOOK_AGAIN);
            }
        }
    };
    thread::Builder::new().spawn(follow).map(drop)
}

/// Until the stream ends; true if it said something.
fn follow(socket: &Path, sender: &Sender<KeeperEvent>) -> Result<bool, CallError> {
    let mut client = Client::connect(socket, CONNECT)?;
    client.send(&format!("{INTERFACE}.Monitor"), &NOTHING, true)?;
    let mut has_spoken = false;
    loop {
        match client.receive::<Monitored>(Instant::now() + SILENCE) {
            Ok(Some((Monitored { status, .. }, more))) => {
                has_spoken = true;
                if let Some(serving) = Serving::of(status) {
                    let _ = sender.send(KeeperEvent::Serves(serving));
                }
                if !more {
                    return Ok(true);
                }
            }
            Ok(None) => {}
            Err(CallError::Closed { .. }) => return Ok(has_spoken),
            Err(error) => return Err(error),
        }
    }
}
