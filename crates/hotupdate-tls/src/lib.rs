#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

// What client and server agreed on, and what travels.
mod negotiated;
pub use negotiated::Negotiated;
mod state;
pub use state::{State, StateError};
mod block;
pub use block::MigrationBlock;

// The record layer, without I/O.
mod records;
pub use records::{Read, Records};
mod error;
pub use error::Error;
mod exporter;
mod handshake;
mod input;
mod key;
mod patience;
mod protection;
mod provider;
mod secret;
mod suite;

// A connection over a transport of tokio: rustls for the handshake, the record layer after it.
mod stream;
pub use stream::{Acceptor, NotMigrated, TlsStream};

// Sessions that resume in the next process.
mod tickets;
pub use tickets::{Tickets, TicketsError};

#[cfg(test)]
mod rfc8448;
