//! A process on a system where no version takes over from another one: every start is a first start, and its
//! end is that of the service. The modules have the names of those whose place they take.
//!
//! Deliberately absent: the control socket, links and systemd. Everything that a process does alone is done
//! by the same code as on Linux: its machine, its listeners, its connections, and how they drain.

pub(crate) mod control;
pub(crate) mod driver;
pub(crate) mod joining;
pub(crate) mod process;
pub(crate) mod sealed;
mod signals;

/// Why there is no handoff.
const NO_HANDOFF: &str = "a handoff needs Linux: on this system no version takes over from another one";
