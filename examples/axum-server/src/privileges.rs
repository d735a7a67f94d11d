//! Another user than root, once the listeners are bound.

use nix::unistd::{Gid, Uid, geteuid, setgid, setgroups, setuid};

/// Gives up every right of root, in all threads and for good. The group has the number of the user.
pub(crate) fn drop_to(uid: u32) -> nix::Result<()> {
    // A version that this user has started.
    if geteuid() == Uid::from_raw(uid) {
        return Ok(());
    }
    setgroups(&[])?;
    setgid(Gid::from_raw(uid))?;
    setuid(Uid::from_raw(uid))
}
