//! What a service runs in: listeners from systemd, namespaces and users, the limits of the machine, clients
//! of other projects, and a reader of the README; and the table of all waits.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]

mod cleaners;
mod limits;
mod mistakes;
mod namespaces;
mod readme;
mod systemd;
mod users;
mod varlink;
mod waits;
