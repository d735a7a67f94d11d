//! What the successor's machine is told, and what it wants done.

use crate::error::{Fault, Refusal};
use crate::inventory::SocketFile;
use crate::message::{Generation, Joined, Message, Ready, Released};
use crate::predecessor::Predecessor;

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// The incumbent answered the call `Join`.
    Replied(Result<Joined, Refusal>),
    /// The incumbent said something on the link.
    Message(Message),
    /// The link is closed ([`Fault::PeerGone`]: end-of-file, even in the middle of a message, `EPIPE` or
    /// `ECONNRESET`), or cannot be understood or written to (any other fault).
    Closed(Fault),
    /// A predecessor whose link is read ([`Effect::Read`]) said that it serves. What else comes over its link
    /// is for later, when this process serves.
    Resumed(Generation),
    /// Something went wrong in the application, which is not warm yet and may go on.
    Trouble(String),
    /// The application is warm ([`Effect::Complete`] came before).
    Ready(Ready),
    /// The accept loops run ([`Effect::Open`] is done).
    Opened {
        /// The time in which no process accepted, in nanoseconds, if it is known.
        gap_ns: Option<u64>,
    },
    /// The application does not want to any more.
    GiveUp(String),
    /// Time has passed. What has arrived comes before it: after a pause of the whole machine everything is
    /// due, and a death must not look like a delay.
    Tick,
}

/// What is to be done, in this order. Exhaustive on purpose: a driver has to perform every one of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Say this to the incumbent.
    Send(Message),
    /// Say this to a predecessor.
    SendTo(Generation, Message),
    /// Read this predecessor's link: it may say that it serves.
    Read(Generation),
    /// Close the link, after what was said on it; nothing that arrives on it is an event any more.
    Close,
    /// The whole inventory is here: the application can claim, bind and warm up.
    Complete(Joined),
    /// The control socket was made again: what came with the message takes the place of what the inventory
    /// brought.
    Rebound(SocketFile),
    /// The incumbent died before the inventory was complete: drop it, and start as a first start would.
    StartOver,
    /// Run the accept loops; then [`Event::Opened`]. Without a message the incumbent is dead.
    Open(Option<Released>),
    /// This process serves; go on as an [`crate::Incumbent`] with these predecessors.
    Serve(Served),
    /// The attempt is over: nothing is accepted, and what was received is closed.
    Fail(Fault),
}

/// What a process knows when it has become the one that serves.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Served {
    /// The answer to `Join`.
    pub joined: Joined,
    /// The generations before this one that are left, newest first.
    pub predecessors: Vec<Predecessor>,
    /// The time in which no process accepted, in nanoseconds.
    pub gap_ns: Option<u64>,
}
