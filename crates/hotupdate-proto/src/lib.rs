//! The conversation of a hot update: what two processes say to each other, and when.
//!
//! Deliberately absent: sockets, descriptors, clocks and the environment. A machine is a plain value;
//! time comes in as an argument and what is to be done comes out as a list of effects. `clippy.toml` in
//! this crate makes that a lint and not a promise.
//!
//! # Reading order
//!
//! 1. [`message`]: everything either side can say, on one screen
//! 2. [`incumbent`]: the side that serves when a handoff begins
//! 3. [`successor`]: the side that arrives
//! 4. [`timing`]: every named deadline, and the reason for its default

pub mod identity;
pub use identity::{Generation, Process, Versions};

pub mod message;
pub use message::{Join, Joined, Message};

pub mod inventory;
pub use inventory::{
    ConnectionRow, ConnectionState, LinkItem, ListenerItem, ListenerKind, StateItem, Summary, Totals,
};

pub mod migration;
pub use migration::{ConnectionKind, Inbound, Leaving, MigrationItem, Outbound};

pub mod frame;

pub mod incumbent;
pub use incumbent::Incumbent;

pub mod predecessor;
pub use predecessor::Predecessor;

pub mod successor;
pub use successor::Successor;

pub mod operator;

pub mod timing;
pub use timing::{Deadline, Timing};

pub mod error;
pub use error::{Fault, Refusal};

pub mod text;
pub use text::ShortText;
#[doc(hidden)]
pub use text::ShortText as SmolStr;

pub mod environment;

/// The name of the Varlink interface that every process offers on its control socket.
pub const INTERFACE: &str = "io.hotupdate";

/// The feature of processes that migrate live connections ([`migration`]). Used if both sides name it.
pub const FEATURE_MIGRATE: &str = "migrate";

/// The protocol versions that this crate speaks.
pub const VERSIONS: Versions = Versions { min: 1, max: 1 };
