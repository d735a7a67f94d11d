//! How many descriptors this process may open (`RLIMIT_NOFILE`, getrlimit(2)), and how many it has open.
//!
//! Deliberately absent: a setting that leaves the limit alone. A program that needs a low one, because it or
//! what it starts uses select(2), can set it after joining: everything here looks at the limit as it is.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

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

/// Of so many descriptors every process soon has some. The kernel begins with room for 64.
const SOON: u64 = 1_024;

/// Makes room in the descriptor table for so many connections that are about to come.
pub(crate) fn make_room(connections: u64) {
    let wanted = open().unwrap_or_default().saturating_add(connections).saturating_add(*MARGIN.end());
    enlarge(wanted.max(SOON));
}

/// Makes the descriptor table large enough for a descriptor of this number, and takes a while.
///
/// Otherwise it doubles while descriptors are opened, and at each step every thread that needs the new room
/// sleeps until the kernel has seen all processors (`expand_fdtable` in `fs/file.c`): some ten milliseconds
/// in which nothing is accepted.
fn enlarge(number: u64) {
    let number = number.min(most().unwrap_or(u64::MAX).saturating_sub(1));
    // It is closed at once, and the table stays as large as it is.
    if let (Ok(number), Ok((any, _))) = (RawFd::try_from(number), std::io::pipe()) {
        drop(fcntl_dupfd_cloexec(any, number));
    }
}

/// How large the descriptor table is, as far as it was made so here. It is made larger before it is full, in
/// a thread that has nothing else to do: the others find room in the old one meanwhile.
#[derive(Debug, Default)]
pub(crate) struct DescriptorTable(AtomicU64);

impl DescriptorTable {
    /// A descriptor was opened. The kernel gives the lowest number that is free.
    pub(crate) fn opened(&self, fd: impl AsFd) {
        let number = u64::try_from(fd.as_fd().as_raw_fd()).unwrap_or_default();
        let size = self.0.load(Relaxed);
        if let Some(larger) = larger(size, number)
            && self.0.compare_exchange(size, larger, Relaxed, Relaxed).is_ok()
        {
            tokio::task::spawn_blocking(move || enlarge(larger - 1));
        }
    }
}

/// The size that a table should have in which this number is taken, if it is to grow: before its last quarter
/// is.
fn larger(size: u64, number: u64) -> Option<u64> {
    (number >= size - size / 4).then(|| (2 * (number + 1)).next_power_of_two().max(SOON))
}

/// Room for connections that migrate here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room(u64);

impl Room {
    /// As the limit is now.
    pub(crate) fn now() -> Self {
        Self(most().map_or(u64::MAX, |most| most.saturating_sub(margin(most))))
    }

    /// Whether a connection that has migrated here as this descriptor leaves enough for clients to come. The
    /// kernel gives the lowest number that is free (open(2)): all that are lower are taken.
    pub(crate) fn holds(self, connection: &OwnedFd) -> bool {
        u64::try_from(connection.as_raw_fd()).is_ok_and(|number| number < self.0)
    }
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
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(open().unwrap() >= 3 && before >= 3, "other tests open and close some, too");
        assert!(Room::now().holds(&one.into()));
        let there = |descriptors| Occupancy { connections: 0, descriptors };
        assert!(has_room_for(there(0)) && !has_room_for(there(u64::MAX)));
        make_room(100);
        make_room(u64::MAX);
    }

    #[test]
    fn a_table_grows_before_its_last_quarter_is_taken_and_once() {
        let mut grown = Vec::new();
        let mut size = 0;
        for number in 3..10_000 {
            if let Some(larger) = larger(size, number) {
                size = larger;
                grown.push((number, larger));
            }
        }
        assert_eq!(grown, [(3, 1_024), (768, 2_048), (1_536, 4_096), (3_072, 8_192), (6_144, 16_384)]);
        assert_eq!(larger(1_024, 20_000), Some(65_536), "many came at once");
    }

    /// `FDSize` in proc_pid_status(5).
    fn size() -> u64 {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("FDSize:")).unwrap();
        line.trim().parse().unwrap()
    }

    #[tokio::test]
    async fn the_kernel_has_made_the_table_larger_before_it_is_needed() {
        raise();
        let (table, one) = (DescriptorTable::default(), fs::File::open("/").unwrap());
        table.opened(&one);
        grows_to(SOON).await;
        let high = fcntl_dupfd_cloexec(&one, 800).unwrap();
        table.opened(&high);
        grows_to(2 * SOON).await;
    }

    async fn grows_to(wanted: u64) {
        let grows = async {
            while size() < wanted {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(60), grows).await.expect("the table grows");
    }
}
