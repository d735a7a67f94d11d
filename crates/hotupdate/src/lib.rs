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

//!
//! # Other systems than Linux
//!
//! On macOS, Windows and whatever else tokio knows a service builds and runs, so that it can be developed
//! there, with the same types. Every start is a first start: [`join`] makes no control socket, listeners are
//! bound, [`Starting::ready`] serves at once. SIGTERM and SIGINT (Ctrl-C, and the end of the console or of
//! the system on Windows) stop politely, with hooks, drain and deadlines as on Linux. What is missing:
//!
//! | on every other system | |
//! |---|---|
//! | a handoff | an error that says so: for a process that was started as the next version ([`ErrorKind::Refused`]), for one whose address is taken ([`ErrorKind::Local`]), and a line in the log for [`Builder::successor_signal`] |
//! | control socket, `hotctl`, systemd, users, [`Starting::import`], [`Starting::stored_state`] | there is none, and nothing is imported or stored |
//! | migration | no connection is asked for its state; `migrate` says that it stays |
//! | the limit of open files | is left as it is |
//! | `testing` | is for Linux |
//!
//! | on Windows | |
//! |---|---|
//! | Unix sockets | [`Starting::unix`] and [`Starting::unix_datagram`] fail |
//! | `AsFd`, `BorrowedFd`, `OwnedFd` | are `AsSocket`, `BorrowedSocket`, `OwnedSocket` |
//! | [`SignalKind`] | has the names, and no such signal comes |
//!
//! What other Unixes have (`SCM_RIGHTS`, flock(2), the credentials of a peer) would be enough for a handoff.
//! They lack a memfd with seals for the state, the number of a socket (`SO_COOKIE`) by which a descriptor is
//! recognised, and `/proc`. With `RUSTFLAGS="--cfg hotupdate_portable"` a build on Linux is as on another
//! system, for tests.

// What only a handoff uses, and what only Unix converts, is compiled everywhere: what is shared has no
// conditions.
#![cfg_attr(
    not(all(target_os = "linux", not(hotupdate_portable))),
    allow(
        dead_code,
        unused_imports,
        clippy::useless_conversion,
        reason = "there is no handoff on this system"
    )
)]
// On docs.rs, each item says which feature it needs.
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

// In the order of a reader: settings, before ready, after ready.
mod config;
pub use config::{Builder, builder, join};

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

#[cfg(all(feature = "test-util", target_os = "linux", not(hotupdate_portable)))]
pub mod testing;

pub mod guides;

mod state;
pub use state::{State, StoredState};

mod error;
pub use error::{Error, ErrorKind, Result};

pub use hotupdate_proto::supervision::AfterDrain;
#[doc(no_inline)]
pub use hotupdate_proto::{
    ConnectionRow, ConnectionState, Generation, GoAways, ListenerKind, ShortText, Summary, Timing, Totals,
};

/// What [`Builder::successor_signal`] takes.
pub use platform::SignalKind;

// What both kinds of driver work with.
mod application;
mod draining;
mod lifecycle;
mod platform;
mod rate_limited_log;
mod resources;

// How it is done: the one task that owns the state, and what it works with.
#[cfg(all(target_os = "linux", not(hotupdate_portable)))]
mod control;
#[cfg(all(target_os = "linux", not(hotupdate_portable)))]
mod driver;
#[cfg(all(target_os = "linux", not(hotupdate_portable)))]
mod joining;
#[cfg(all(target_os = "linux", not(hotupdate_portable)))]
mod link;
#[cfg(all(target_os = "linux", not(hotupdate_portable)))]
mod process;
#[cfg(all(target_os = "linux", not(hotupdate_portable)))]
mod sealed;
#[cfg(all(target_os = "linux", not(hotupdate_portable)))]
mod systemd;

// The same where no version takes over from another one.
#[cfg(not(all(target_os = "linux", not(hotupdate_portable))))]
mod portable;
#[cfg(not(all(target_os = "linux", not(hotupdate_portable))))]
use portable::{control, driver, joining, process, sealed};
