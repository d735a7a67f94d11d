//! Replace a running network service by a new version while no client notices.
//!
//! The new version is started next to the old one, by any means. It connects to the **control socket** of the
//! old process, receives its listening sockets, warms up, and tells it to stop accepting and to drain. Old
//! requests finish in the old version, new connections start in the new one.
//!
//! ```no_run
//! # async fn example() -> Result<(), hotupdate::Error> {
//! let mut hot = hotupdate::join("/run/hello/control.sock").await?; // first start, or meets the old process
//! let mut listener = hot.tcp("hello", "0.0.0.0:3000").await?;      // inherited, from systemd, or bound
//!
//! let hot = hot.ready().await?;                                    // the old process stops accepting
//! while let Some(connection) = listener.accept().await {           // until the next version takes over
//!     tokio::spawn(async move { drop(connection) });
//! }
//! hot.drained().await;                                             // earlier, clients would be cut off
//! # Ok(())
//! # }
//! ```
//!
//! For axum, and any tower service, there is the crate `hotupdate-axum`; for operators, the command `hotctl`.

// On docs.rs, each item says which feature it needs.
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

// In the order of a reader: settings, before ready, after ready.
mod config;
pub use config::{Builder, builder, join};

mod control;
pub use control::control_path;

mod settings;

mod starting;
pub use starting::Starting;

mod serving;
pub use serving::Serving;

mod tasks;
pub use tasks::TaskGuard;

// What an application holds.
mod address;
pub use address::Address;

mod listeners;
pub use listeners::{Listener, ListeningSocket, UdpSocket, UnixDatagramSocket};

pub mod connections;
pub use connections::{Connection, Connections, Drain, MigrationSlot, drain};

pub mod migration;

pub mod metrics;

#[cfg(feature = "test-util")]
pub mod testing;

pub mod guides;

mod state;
pub use state::State;

mod error;
pub use error::{Error, ErrorKind, Result};

pub use hotupdate_proto::supervision::AfterDrain;
#[doc(no_inline)]
pub use hotupdate_proto::{
    ConnectionRow, ConnectionState, Generation, ListenerKind, ShortText, Summary, Timing, Totals,
};

// How it is done: the one task that owns the state, and what it works with.
mod driver;

mod joining;
mod lifecycle;
mod link;
mod process;
mod rate_limited_log;
mod systemd;
