//! A successor that gets no memory: from the system (`RLIMIT_AS`), or killed by the kernel (a memory cgroup).
//!
//! Deliberately absent: an incumbent without memory; Rust programs end then, and the next start is a first
//! start.

use std::fs;
use std::path::PathBuf;

use integration_tests::process::needs::{MEMORY_CGROUPS, have, memory_cgroups};
use integration_tests::steady::Steady;
use integration_tests::{Sandbox, hotctl};

use super::{fails, handoff_after, incumbent, next_attempt_works};

#[test]
fn the_successor_gets_too_little() {
    let sandbox = Sandbox::new();
    let (service, serving) = incumbent(&sandbox);
    let mut client = Steady::connect(serving.http).unwrap();
    // From not even a stack to nearly enough for the threads.
    for kib in [1 << 10, 8 << 10, 16 << 10] {
        let outcome = handoff_after(&sandbox, "v2", &format!("ulimit -v {kib}"));
        fails(&outcome, serving, &["before it was ready"]);
        assert_eq!(client.who().unwrap(), service.pid(), "it serves on");
    }
    next_attempt_works(&sandbox, serving);
}

/// A cgroup of this size, gone with this value.
struct Cgroup(PathBuf);

impl Cgroup {
    fn of_bytes(bytes: u64) -> Self {
        let (parent, file) = memory_cgroups().expect("the memory controller is there");
        let path = parent.join(format!("hotupdate-{}", std::process::id()));
        fs::create_dir(&path).expect("root may make a cgroup");
        let cgroup = Self(path);
        fs::write(cgroup.0.join(file), bytes.to_string()).expect("the memory controller is there");
        cgroup
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // What was killed in it may take a moment to be gone.
        let gone = || fs::remove_dir(&self.0).is_ok();
        for _ in 0..100 {
            if gone() {
                return;
            }
            std::thread::yield_now();
        }
    }
}

#[test]
fn the_successor_is_killed_for_its_memory() {
    if !have(&[MEMORY_CGROUPS]) {
        return;
    }
    let sandbox = Sandbox::new();
    let (service, serving) = incumbent(&sandbox);
    let mut client = Steady::connect(serving.http).unwrap();
    let cgroup = Cgroup::of_bytes(16 << 20);
    // What it eats before it starts lies in a file system in memory, and counts.
    let enter =
        format!("echo $$ > {}/cgroup.procs && x=$(head -c 64M /dev/zero | tr '\\0' x)", cgroup.0.display());
    let outcome = handoff_after(&sandbox, "v2", &enter);
    fails(&outcome, serving, &["was killed by signal 9 before it was ready"]);
    assert_eq!(client.who().unwrap(), service.pid(), "it serves on");
    let status = hotctl(&sandbox, &["status"]).expect_success();
    assert!(status.stdout.contains(&service.pid().to_string()), "{}", status.stdout);
    next_attempt_works(&sandbox, serving);
}
