//! This process as the kernel and its parent see it: where it runs, its limits and signals, how its program
//! is started anew, and what it waits for at the end.

pub(crate) mod heir;
pub(crate) mod limits;
pub(crate) mod output;
pub(crate) mod place;
pub(crate) mod signal;
pub(crate) mod spawn;
pub(crate) mod terminal;
pub(crate) mod watched;
