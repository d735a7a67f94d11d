//! `hotctl` as an operator uses it, against a service whose answers a test decides.
//!
//! Deliberately absent: real services, see `integration-tests`.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]

mod attempt;
mod exit_codes;
mod generate;
mod handoff;
mod install_units;
mod probe;
mod support;
mod view;
mod watch;
