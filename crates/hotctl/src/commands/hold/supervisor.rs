//! What the service manager that started hold is told (sd_notify(3)), so that hold can be the main process of
//! a unit with `Type=notify`: hold is ready as soon as a version serves.
//!
//! Deliberately absent: versions of the service. COMMAND does not get `NOTIFY_SOCKET`, so that each unit has
//! one main process, which is hold.

use std::process;

use sd_notify::NotifyState::{self, MainPid, Ready, Status, Stopping};

use super::first_process;

/// A version serves.
pub(super) fn ready() {
    // A later version that `ExecReload=` has started may have said that it is the main process. The process
    // id of a container's process 1 means nothing to the manager outside.
    if first_process::is_hold() {
        tell(&[Ready]);
    } else {
        tell(&[Ready, MainPid(process::id())]);
    }
}

/// hold was told to stop.
pub(super) fn stopping() {
    tell(&[Stopping]);
}

/// For people.
pub(super) fn status(text: &str) {
    tell(&[Status(text)]);
}

fn tell(words: &[NotifyState<'_>]) {
    // Without a manager nothing happens; a manager that has gone is no reason to close the sockets.
    let _ = sd_notify::notify(words);
}
