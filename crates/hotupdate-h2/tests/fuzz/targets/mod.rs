//! What each fuzz target checks.

pub(crate) mod bytes;
pub(crate) mod relay;
pub(crate) mod state;
