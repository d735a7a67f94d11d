//! The user at the other end of the control socket: whether it may do what an owner may.

use std::fs;
use std::path::Path;

use rustix::process::geteuid;
use tokio::net::UnixStream;

use crate::error::{Doing, Error, Result};

/// Whether the process at the other end may do what an owner may. Its process id says nothing: it is 0 in
/// another pid namespace, and that of another process a moment later.
pub(crate) fn may(uid: u32, allowed: &[u32]) -> bool {
    (uid == geteuid().as_raw() || uid == 0 || allowed.contains(&uid)) && is_known(uid)
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

pub(super) fn check_peer(stream: &UnixStream, path: &Path) -> Result<()> {
    let doing = || format!("connecting to the control socket {}", path.display());
    let uid = stream.peer_cred().doing(doing)?.uid();
    if may(uid, &[]) {
        return Ok(());
    }
    let unknown = if is_known(uid) { "" } else { ", or a user that our user namespace does not map" };
    Err(Error::unusable_path(
        doing(),
        format!("it belongs to uid {uid}, which is neither ours nor root's{unknown}"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_overflow_uid_is_somebody_only_where_it_is_mapped() {
        assert!(is_mapped(65534, "         0          0 4294967295"), "where the machine begins");
        assert!(!is_mapped(65534, "         0       1000          1"), "root only");
        assert!(is_mapped(65534, "0 1000 1\n1 100000 65536"), "a rootless container");
        assert!(!is_mapped(65534, ""), "nothing mapped");
    }
}
