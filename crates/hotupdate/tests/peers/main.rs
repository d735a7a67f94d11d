//! Whatever a peer does: callers, successors and incumbents that lie, hang or die, and what is left behind,
//! which is nothing.
//!
//! Descriptors are counted here, so every test runs alone ([`common::alone`]). A test that does not would
//! disturb the rest.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]

mod callers;
#[path = "../common/mod.rs"]
mod common;
mod hanging;
mod hostile;
mod impostor;
mod impostor_descriptors;
mod impostor_ready;
mod leftovers;
mod many;
mod probation;
