//! A service in a process of its own: signals, the successor that one of them starts, and what systemd hears
//! and passes.
//!
//! Deliberately absent: a real systemd, see `integration-tests/tests/supervisors`, and the programs of
//! operators.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]

#[path = "../common/mod.rs"]
mod common;
mod inherits;
mod manager;
mod releases;
mod service;
mod shortage;
mod sighup;
mod sigterm;
mod sockets;
mod stage;
mod terminal;
mod testing;
