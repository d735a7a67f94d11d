//! The lock file of a control socket: where it is, and what stands in it.
//!
//! The process that serves holds the lock (flock(2)), and its descriptor travels to the next version. What a
//! process writes there says how the service ended once the lock is free: a process that stops on purpose
//! says so before it lets go, and one that dies cannot. It can always be written, through the descriptor:
//! also by a process that may not remove its files any more, and when another process has removed them.
//!
//! Deliberately absent: reading, writing and locking.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// What stands in the lock file while a process serves, or is about to.
pub const RUNNING: &[u8] = b"running\n";

/// What the last process wrote there if it stopped on purpose. As long as [`RUNNING`], so that it can be
/// written over that on a disk that is full.
pub const STOPPED: &[u8] = b"stopped\n";

/// The lock file of the control socket at this path.
///
/// ```
/// use std::path::Path;
///
/// use hotupdate_proto::lock;
///
/// assert_eq!(lock::path(Path::new("/run/app/control.sock")), Path::new("/run/app/control.sock.lock"));
/// assert_eq!(lock::RUNNING.len(), lock::STOPPED.len());
/// ```
#[must_use]
pub fn path(socket: &Path) -> PathBuf {
    let mut name: OsString = socket.into();
    name.push(".lock");
    name.into()
}
