//! Users and their rights: at the other end of the control socket, and to its files.
//!
//! The kernel says which user a caller is (`SO_PEERCRED`, unix(7)), and that decides. What the files let a
//! user do only keeps callers away.

use std::fmt::Display;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{Uid, chown, fchown};
use rustix::process::geteuid;
use tokio::net::UnixStream;

use crate::error::{Doing, Error, Result};

/// What a caller may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Right {
    /// Ask, and command.
    Operate,
    /// Take the service over, too.
    Succeed,
}

/// The users that the application named, beside its own and root.
#[derive(Clone, Debug, Default)]
pub(crate) struct Users {
    /// They may operate.
    pub(crate) operators: Vec<u32>,
    /// They may take over, too.
    pub(crate) successors: Vec<u32>,
    /// This process takes over from theirs.
    pub(crate) predecessors: Vec<u32>,
    /// The user that this process becomes.
    pub(crate) runs_as: Option<u32>,
}

impl Users {
    /// What a caller may do, if anything. Its process id says nothing: it is 0 in another pid namespace, and
    /// that of another process a moment later.
    pub(crate) fn right_of(&self, uid: u32) -> Option<Right> {
        let right = match uid {
            uid if self.is_ours(uid) || self.successors.contains(&uid) => Right::Succeed,
            uid if self.operators.contains(&uid) => Right::Operate,
            _ => return None,
        };
        is_known(uid).then_some(right)
    }

    /// Whether no harm is expected of what is made in a directory of that user.
    pub(super) fn trusts_files_of(&self, uid: u32) -> bool {
        self.is_ours(uid) || self.trusts(uid)
    }

    /// Whether this process takes over from one of that user.
    pub(super) fn trusts(&self, uid: u32) -> bool {
        (self.is_ours(uid) || self.predecessors.contains(&uid)) && is_known(uid)
    }

    /// Whether a user of another number than our own has a right, who has to be able to connect.
    pub(super) fn has_others(&self) -> bool {
        !self.operators.is_empty() || !self.successors.is_empty()
    }

    /// The user that this process becomes, if it is not that user yet.
    fn becomes(&self) -> Option<Uid> {
        self.runs_as.map(Uid::from_raw).filter(|uid| *uid != geteuid())
    }

    /// Our own user, now or later, or root.
    fn is_ours(&self, uid: u32) -> bool {
        uid == geteuid().as_raw() || uid == 0 || self.runs_as == Some(uid)
    }
}

/// Users that our user namespace does not map all look alike: like the overflow uid (user_namespaces(7)). It
/// names no user, unless it is mapped itself.
pub(crate) fn is_known(uid: u32) -> bool {
    let overflow = fs::read_to_string("/proc/sys/kernel/overflowuid").ok();
    let overflow = overflow.and_then(|text| text.trim().parse().ok()).unwrap_or(65534);
    if uid != overflow {
        return true;
    }
    // Without /proc nothing can be known of namespaces.
    fs::read_to_string("/proc/self/uid_map").map_or(true, |map| is_mapped(uid, &map))
}

/// `map` has lines of: first uid inside, first uid outside, how many.
fn is_mapped(uid: u32, map: &str) -> bool {
    map.lines().any(|line| {
        let numbers: Vec<u64> = line.split_whitespace().filter_map(|number| number.parse().ok()).collect();
        matches!(numbers[..], [first, _, count] if (first..first + count).contains(&u64::from(uid)))
    })
}

/// Gives the lock of this control socket to the user that this process becomes.
///
/// The directory is ours or root's, so no other user can have put a link to another file there.
pub(super) fn give(lock: &OwnedFd, path: &Path, users: &Users) -> Result<()> {
    let Some(uid) = users.becomes() else { return Ok(()) };
    fchown(lock, Some(uid), None)
        .doing(|| format!("giving the lock of the control socket {} to uid {uid}", path.display()))
}

/// Gives the socket to the user that this process becomes, and lets every user connect if further users were
/// named. Where it is, is as safe as for its lock.
///
/// # Errors
/// As chown(2) and chmod(2).
pub(super) fn share(socket: &Path, users: &Users) -> io::Result<()> {
    if let Some(uid) = users.becomes() {
        chown(socket, Some(uid), None)
            .map_err(|error| io::Error::other(format!("giving it to uid {uid}: {error}")))?;
    }
    if users.has_others() {
        fs::set_permissions(socket, fs::Permissions::from_mode(0o666))?;
    }
    Ok(())
}

/// Why the kernel refuses, with what can be seen of the file, and what helps.
pub(super) fn denied(file: &Path, error: &dyn Display, remedy: &str) -> String {
    let us = geteuid().as_raw();
    let whose = way_to(file).map_or_else(String::new, |(what, there)| {
        format!(
            "{} belongs to uid {} (mode {:04o}), and ",
            what.display(),
            there.uid(),
            there.mode() & 0o7777
        )
    });
    format!("{error}: {whose}this process runs as uid {us}; {remedy}")
}

/// How far this process comes on its way to a file, from the root: the file itself, or the directory that it
/// may not enter.
fn way_to(file: &Path) -> Option<(&Path, fs::Metadata)> {
    let mut parts: Vec<_> = file.ancestors().filter(|part| !part.as_os_str().is_empty()).collect();
    parts.reverse();
    parts.into_iter().map_while(|part| Some((part, fs::metadata(part).ok()?))).last()
}

pub(super) fn check_peer(stream: &UnixStream, path: &Path, users: &Users) -> Result<()> {
    let doing = || format!("connecting to the control socket {}", path.display());
    let uid = stream.peer_cred().doing(doing)?.uid();
    if users.trusts(uid) {
        return Ok(());
    }
    let why = match is_known(uid) {
        true => "; a version that takes over from another user names it (`allow_predecessor_uid`)",
        false => ", or a user that our user namespace does not map",
    };
    let what = format!("it belongs to uid {uid}, which is neither ours nor root's{why}");
    Err(Error::unusable_path(doing(), what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_user_has_the_right_that_was_said_and_no_other() {
        let ours = geteuid().as_raw();
        let [operator, successor, predecessor, later, other] = [1, 2, 3, 4, 5].map(|nth| ours + nth);
        let users = Users {
            operators: vec![operator],
            successors: vec![successor],
            predecessors: vec![predecessor],
            runs_as: Some(later),
        };
        let right = |uid| users.right_of(uid);
        assert_eq!([ours, 0, later, successor].map(right), [Some(Right::Succeed); 4]);
        assert_eq!([operator, predecessor, other].map(right), [Some(Right::Operate), None, None]);
        let trusted = [ours, 0, later, predecessor, operator, successor, other].map(|uid| users.trusts(uid));
        assert_eq!(trusted, [true, true, true, true, false, false, false]);
        assert!(users.has_others() && !Users { operators: vec![], successors: vec![], ..users }.has_others());
    }

    #[test]
    fn the_overflow_uid_is_somebody_only_where_it_is_mapped() {
        assert!(is_mapped(65534, "         0          0 4294967295"), "where the machine begins");
        assert!(!is_mapped(65534, "         0       1000          1"), "root only");
        assert!(is_mapped(65534, "0 1000 1\n1 100000 65536"), "a rootless container");
        assert!(!is_mapped(65534, ""), "nothing mapped");
    }
}
