//! `hotupdate_axum::serve` over real sockets: what clients see while one version of a server replaces
//! another.
//!
//! Deliberately absent: processes. Old and new version live in this one; killing them is for the integration
//! tests.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]

mod any_stream;
mod before_ready;
mod client;
mod deadline;
mod http1;
mod http2;
mod idle;
mod migration;
mod pipelines;
mod relayed;
mod server;
mod settings;
mod streams;
mod table;
mod tls;
mod tunnels;
mod unix;
mod websockets;
mod wrapped;
