//! This process as the kernel and its parent see it: where it runs, its limits and signals, how its program
//! is started anew, and what it waits for at the end.

pub(crate) mod heir;
pub(crate) mod identity;
pub(crate) mod limits;
pub(crate) mod output;
pub(crate) mod place;
pub(crate) mod signal;
pub(crate) mod sockets;
pub(crate) mod spawn;
pub(crate) mod terminal;
pub(crate) mod watched;

use std::io;

use crate::error::{Doing, Result};

impl<T> Doing<T> for rustix::io::Result<T> {
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T> {
        self.map_err(io::Error::from).doing(doing)
    }
}
