//! Taking from a process what it needs, while it runs: descriptors (`RLIMIT_NOFILE`, prlimit(2)).
//!
//! Deliberately absent: memory, which cannot be taken away from a process that has it.

use std::collections::BTreeSet;
use std::fs;

use rustix::process::{Resource, Rlimit, getrlimit, prlimit};

use super::sandbox::to_pid;
use super::service::Service;

impl Service<'_> {
    /// Lets the process open so many descriptors more than it has now.
    ///
    /// # Panics
    ///
    /// If it does not run any more.
    #[track_caller]
    pub fn allow_descriptors(&self, more: usize) {
        let open = self.descriptors();
        // The limit is about their numbers: those below it that are free may be used.
        let limit = (0..).filter(|number| !open.contains(number)).nth(more).expect("numbers do not end");
        self.limit_descriptors(Some(limit));
    }

    /// Lets it open as many as the system allows.
    ///
    /// # Panics
    ///
    /// If it does not run any more.
    #[track_caller]
    pub fn allow_all_descriptors(&self) {
        self.limit_descriptors(getrlimit(Resource::Nofile).maximum);
    }

    fn limit_descriptors(&self, limit: Option<u64>) {
        let new = Rlimit { current: limit, maximum: getrlimit(Resource::Nofile).maximum };
        prlimit(Some(to_pid(self.pid())), Resource::Nofile, new).expect("the limit can be set");
    }

    fn descriptors(&self) -> BTreeSet<u64> {
        let entries = fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("the process runs");
        entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
    }
}
