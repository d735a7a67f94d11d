//! Connections between a client of rustls and a server that migrates them, in memory.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]

mod cuts;
mod forger;
mod keys;
mod mischief;
mod negotiated;
mod pair;
mod provider;
mod refused;
mod streams;
mod suites;
mod tickets;
