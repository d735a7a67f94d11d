//! A client and a server in memory, and a client that says what it likes.

pub(crate) mod forger;
pub(crate) mod pair;
pub(crate) mod provider;
pub(crate) mod reference;
