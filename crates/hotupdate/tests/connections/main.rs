//! What clients meet: listeners, datagram sockets, and connections, which are counted, migrate, or are closed
//! at a deadline.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]

#[path = "../common/mod.rs"]
mod common;
mod counts;
mod datagrams;
mod dropped;
mod forced_log;
mod hesitant;
mod listeners;
mod migration;
