//! One version after the other: from joining to drained, back again, and with the first version of the
//! protocol.
//!
//! Deliberately absent: the death of a process; that takes real processes, see `integration-tests`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]

mod basics;
#[path = "../common/mod.rs"]
mod common;
mod exclusive;
mod life;
mod log;
mod skew;
mod standstill;
mod starting;
mod state;
mod tasks;
mod undrain;
