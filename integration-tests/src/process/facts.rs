//! What the kernel says of a process: `/proc/<pid>`, see proc(5).
//!
//! Deliberately absent: processes from outside. Facts are read of processes that a sandbox started.

use std::fs;
use std::time::Duration;

/// What a process holds and has used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Open descriptors.
    pub fds: usize,
    /// Threads.
    pub threads: usize,
    /// Resident memory (`VmRSS`), in KiB.
    pub rss_kib: u64,
    /// What of it no file is behind, which is heaps and stacks (`RssAnon`), in KiB.
    pub heap_kib: u64,
    /// The id of its session.
    pub session: u32,
    /// Processor time used so far, user and system.
    pub cpu: Duration,
}

impl Facts {
    /// Reads them; `None` if there is no such process, or only its corpse.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields = after_name(&stat);
        let number = |field: usize| -> Option<u64> { fields.get(field - 3)?.parse().ok() };
        let ticks = number(14)?.checked_add(number(15)?)?;
        Some(Self {
            fds: fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count(),
            threads: fs::read_dir(format!("/proc/{pid}/task")).ok()?.count(),
            rss_kib: resident(pid, "VmRSS:")?,
            heap_kib: resident(pid, "RssAnon:")?,
            session: u32::try_from(number(6)?).ok()?,
            cpu: Duration::from_secs(ticks) / u32::try_from(rustix::param::clock_ticks_per_second()).ok()?,
        })
    }
}

/// The children of its main thread: none if it does not run any more.
#[must_use]
pub fn children(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// How often all of its threads went to sleep, so far; `None` if there is no such process.
pub(super) fn sleeps(pid: u32) -> Option<u64> {
    let of = |task: fs::DirEntry| -> Option<u64> {
        let status = fs::read_to_string(task.path().join("status")).ok()?;
        status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?.trim().parse().ok()
    };
    fs::read_dir(format!("/proc/{pid}/task")).ok()?.map(|task| of(task.ok()?)).sum()
}

/// Whether the process runs, which a zombie does not.
pub(super) fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    after_name(&stat).first().is_some_and(|state| !matches!(*state, "Z" | "X"))
}

/// Whether a signal has stopped every thread of the process.
pub(super) fn is_frozen(pid: u32) -> bool {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    tasks.flatten().all(|task| {
        let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        after_name(&stat).first() == Some(&"T")
    })
}

/// The fields of `/proc/<pid>/stat` from the third on: the second is a name that may hold spaces and
/// brackets.
fn after_name(stat: &str) -> Vec<&str> {
    stat.rsplit_once(')').map(|(_, fields)| fields.split_whitespace().collect()).unwrap_or_default()
}

fn resident(pid: u32, what: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(what))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_this_process() {
        let facts = Facts::of(std::process::id()).expect("this process is alive");
        assert!(facts.fds >= 3 && facts.threads >= 2 && facts.rss_kib > 100, "{facts:?}");
        assert!(is_alive(std::process::id()));
    }

    #[test]
    fn knows_nothing_of_nobody() {
        let nobody = u32::MAX;
        assert_eq!(Facts::of(nobody), None);
        assert!(!is_alive(nobody));
    }
}
