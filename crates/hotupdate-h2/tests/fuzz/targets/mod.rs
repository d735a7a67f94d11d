//! What each fuzz target checks.

pub(crate) mod bytes;
pub(crate) mod state;
