//! How far the life of a process has come, as its driver says it and its other parts watch it.

use std::collections::HashMap;

use tokio::sync::watch;

use crate::state::Arrived;

/// How far the life of this process has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Lifecycle {
    Starting,
    Serving,
    /// Another process serves; this one can still take over again.
    Draining,
    /// It will never accept again.
    Retired,
    /// Nothing is left.
    Drained,
}

/// What the driver says when this process serves.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) lifecycle: watch::Receiver<Lifecycle>,
    pub(crate) state: HashMap<String, Arrived>,
}
