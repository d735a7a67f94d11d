//! Connections between a client of rustls and a server that migrates them, in memory.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]

#[path = "../common/mod.rs"]
#[allow(dead_code, reason = "what other tests need")]
mod common;
use common::{forger, pair, provider, reference};

mod cuts;
mod keys;
mod mischief;
mod negotiated;
mod refused;
mod streams;
mod suites;
mod tickets;
