//! What each fuzz target checks.

#[path = "../../common/mod.rs"]
#[allow(dead_code, reason = "what other tests need")]
mod common;
mod script;

pub(crate) mod tls_moves;
pub(crate) mod tls_rustls;
pub(crate) mod tls_state;
pub(crate) mod tls_tickets;
