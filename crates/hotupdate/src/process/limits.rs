//! How many descriptors this process may open (`RLIMIT_NOFILE`, getrlimit(2)), and how many it has open.
//!
//! Deliberately absent: a setting that leaves the limit alone. A program that needs a low one, because it or
//! what it starts uses select(2), can set it after joining: everything here looks at the limit as it is.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use hotupdate_proto::Occupancy;
use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Of so many descriptors that a process may open one is kept for clients to come.
const SHARE: u64 = 8;

/// At least so many are kept, and at most so many: connections that migrate leave them free.
const MARGIN: std::ops::RangeInclusive<u64> = 16..=256;

/// Raises the soft limit to the hard one. The soft one is low for the sake of programs that use select(2),
/// and a service is started from a shell that has it one day, and by a service manager with a higher one the
/// next.
pub(crate) fn raise() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => tracing::debug!(from = ?current, to = ?maximum, "raised the limit of open files"),
        Err(error) => tracing::warn!(%error, ?current, "the limit of open files cannot be raised"),
    }
}

/// How many descriptors this process may open; `None` if there is no limit.
pub(crate) fn most() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// How many descriptors are open.
pub(crate) fn open() -> Option<u64> {
    const OPEN: &str = "/proc/self/fd";
    // Since Linux 6.2 its size is their number (proc_pid_fd(5)).
    match fs::metadata(OPEN).ok()?.len() {
        0 => fs::read_dir(OPEN).ok()?.count().try_into().ok(),
        open => Some(open),
    }
}

/// Makes the descriptor table large at once, for so many more: it doubles otherwise while connections come,
/// and at each step every thread that opens a descriptor sleeps until the kernel has seen all processors
/// (`expand_fdtable` in `fs/file.c`), which takes some ten milliseconds.
pub(crate) fn make_room(any: impl AsFd, connections: u64) {
    let wanted = open().unwrap_or_default().saturating_add(connections).saturating_add(*MARGIN.end());
    let most = most().unwrap_or(u64::MAX);
    let number = wanted.min(most.saturating_sub(1));
    // It is closed at once, and the table stays as large as it is.
    if let Ok(number) = RawFd::try_from(number) {
        drop(fcntl_dupfd_cloexec(any, number));
    }
}

/// Whether a connection that has migrated here as this descriptor leaves enough for clients to come. The
/// kernel gives the lowest number that is free (open(2)): all that are lower are taken.
pub(crate) fn leaves_room(connection: &OwnedFd) -> bool {
    let Some(most) = most() else { return true };
    let number = u64::try_from(connection.as_raw_fd()).unwrap_or_default();
    number < most.saturating_sub(margin(most))
}

/// Whether this process can have all of that and leave enough for clients to come.
pub(crate) fn has_room_for(there: Occupancy) -> bool {
    most().is_none_or(|most| there.descriptors <= most.saturating_sub(margin(most)))
}

fn margin(most: u64) -> u64 {
    (most / SHARE).clamp(*MARGIN.start(), *MARGIN.end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_kept_for_clients_to_come() {
        let kept: Vec<_> = [40, 100, 256, 1_024, 4_096, 20_000].map(margin).into();
        assert_eq!(kept, [16, 16, 32, 128, 256, 256]);
    }

    #[test]
    fn what_is_open_is_counted() {
        let before = open().unwrap();
        let (one, other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(open().unwrap() >= 3 && before >= 3, "other tests open and close some, too");
        assert!(leaves_room(&one.into()));
        let there = |descriptors| Occupancy { connections: 0, descriptors };
        assert!(has_room_for(there(0)) && !has_room_for(there(u64::MAX)));
        make_room(&other, 100);
        make_room(&other, u64::MAX);
    }
}
