//! Another user than root, once the listeners are bound.

/// Gives up every right of root, in all threads and for good. The group has the number of the user.
#[cfg(target_os = "linux")]
pub(crate) fn drop_to(uid: u32) -> anyhow::Result<()> {
    use nix::unistd::{Gid, Uid, geteuid, setgid, setgroups, setuid};

    // A version that this user has started.
    if geteuid() == Uid::from_raw(uid) {
        return Ok(());
    }
    setgroups(&[])?;
    setgid(Gid::from_raw(uid))?;
    Ok(setuid(Uid::from_raw(uid))?)
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn drop_to(_uid: u32) -> anyhow::Result<()> {
    anyhow::bail!("this example can do that on Linux alone")
}
