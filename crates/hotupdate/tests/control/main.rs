//! The control socket: its path, its rights, what callers can do to the log; and that the threat model names
//! tests.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]

mod attempt;
#[path = "../common/mod.rs"]
mod common;
mod control_socket;
mod log_injection;
mod path;
mod removed;
mod threat_model;
