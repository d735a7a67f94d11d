//! The conversation of a hot update: what two processes say to each other, and when.
//!
//! A program that wants to be updated without losing a connection uses the crate `hotupdate`, which performs
//! what the machines of this crate decide. Use this crate to read the control socket in another program, or
//! to drive the machines with other I/O.
//!
//! ```text
//! operator             successor                                incumbent
//!    |                     | Join --------------------------------->|  serves
//!    |                     |<------------ Joined · the inventory+fds|
//!    |                     |   warms up                             |  serves on
//!    |                     | ready -------------------------------->|
//!    | Handoff (if it stands by) ---------------------------------->|
//!    |                     |<-------------------------- released+fds|  has stopped to accept
//!    |             accepts | serving ------------------------------>|  parks its listeners, drains
//!    |                     |                                        |
//!    |             serving process                             predecessor
//!    |                     |<------- prepare+fds · commit · progress|  its connections migrate or end
//!    |                     |<---------------------- let_go · drained|  and it exits
//! ```
//!
//! What is said in which form, with an example of each message, is written for other languages in
//! [`protocol`].
//!
//! # Calling order
//!
//! 1. A first start makes an [`Incumbent`] with [`Incumbent::first`]. A process that finds one makes a
//!    [`Successor`] with [`Successor::join`], which becomes an [`Incumbent`] when it serves.
//! 2. Whatever happens is an event: give it to `handle`, with the time. A [`frame::Decoder`] cuts what
//!    arrives on a link into messages.
//! 3. Perform the effects that come back, in their order.
//! 4. Ask for the `deadline`, and call `handle` with a `Tick` when it has passed.
//! 5. Give what operators command to [`Incumbent::command`].
//!
//! Deliberately absent: sockets, descriptors, clocks and the environment. A machine is a plain value; time
//! comes in as an argument and what is to be done comes out as a list of effects, so that a checker can play
//! every order of events. `clippy.toml` in this crate enforces it.

// What is said: names and numbers first, then everything on a link.
pub mod identity;
pub use identity::{Generation, Process, Versions, default_name};

pub mod message;
pub use message::{Join, Joined, Message};

pub mod inventory;
pub use inventory::{
    ConnectionRow, ConnectionState, GoAways, LinkItem, ListenerItem, ListenerKind, Occupancy, SocketFile,
    StateItem, Summary, Totals,
};

// When it is said: a machine for each side, and what they count for each other.
pub mod incumbent;
pub use incumbent::Incumbent;

pub mod successor;
pub use successor::Successor;

pub mod predecessor;
pub use predecessor::Predecessor;

pub mod migration;
pub use migration::{ConnectionKind, Inbound, Leaving, MigrationItem, Outbound};

pub mod counts;

pub mod supervision;
pub use supervision::Supervision;

pub mod program;
pub use program::Program;

// Every named deadline with the reason for its default, and why an attempt ends.
pub mod timing;
pub use timing::{Deadline, ProgramTiming, Timing};

pub mod error;
pub use error::{Fault, Refusal};

// What operators ask and are told.
pub mod operator;

// How all of it is written, and what is agreed on outside of the conversation.
pub mod frame;

pub mod text;
pub use text::ShortText;

pub mod environment;

pub mod lock;

#[doc = include_str!("../PROTOCOL.md")]
pub mod protocol {}

/// The name of the Varlink interface that every process offers on its control socket.
pub const INTERFACE: &str = "io.hotupdate";

/// The feature of processes that migrate live connections ([`migration`]). Used if both sides name it.
pub const FEATURE_MIGRATE: &str = "migrate";

/// The feature of processes that tell each other which process serves ([`Message::Serves`]) and which is the
/// main one of a service manager ([`Message::Main`]). Used if both sides name it.
pub const FEATURE_SUPERVISION: &str = "supervision";

/// The feature of a process that says, or hears, what went wrong in an application that is not ready yet
/// ([`Message::Trouble`]).
pub const FEATURE_TROUBLE: &str = "trouble";

/// The feature of processes that understand that the control socket was made again
/// ([`Message::Rebound`]). Said to those that name it.
pub const FEATURE_REBIND: &str = "rebind";

/// The feature of processes that understand what was counted of the service so far ([`Message::Counted`]).
/// Said to those that name it.
pub const FEATURE_COUNTS: &str = "counts";

/// The protocol versions that this crate speaks.
pub const VERSIONS: Versions = Versions { min: 1, max: 1 };
