//! This process as the kernel and its parent see it: its limits and signals, and how its program is started anew.

pub(crate) mod limits;
pub(crate) mod output;
pub(crate) mod signal;
pub(crate) mod spawn;
pub(crate) mod terminal;
