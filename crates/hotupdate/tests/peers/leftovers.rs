//! What many handoffs leave behind in one process: nothing.
//!
//! Deliberately absent: memory; that is measured on real processes, see `integration-tests/tests/campaigns/endurance.rs`.

use crate::common::{self, Folder, alone, ask, descriptors, eventually, nothing_leaked, replace_by};

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

#[test]
fn thirty_handoffs() {
    alone(async {
        let folder = Folder::new();
        let (first, _) = folder.serve("v1").await;
        let (mut serving, address) = replace_by(&folder, &first, "vn").await;
        drop(first);
        let (before, threads_before) = (descriptors(), threads());
        for _ in 0..30 {
            (serving, _) = replace_by(&folder, &serving, "vn").await;
        }
        assert_eq!(serving.generation().0, 32);
        nothing_leaked(before).await;
        assert!(descriptors() >= before - 2, "that is not how it was: {:#?}", common::describe_descriptors());
        // The runtime keeps those of blocking work for a moment.
        let as_before = async || (threads() <= threads_before).then_some(());
        eventually(&format!("no more than {threads_before} threads, as before"), as_before).await;
        assert_eq!(ask(address).await, "vn");
        let names: Vec<_> =
            std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "{names:?}");
    });
}

#[test]
fn thirty_starts_that_were_given_up() {
    alone(async {
        let folder = Folder::new();
        let (first, address) = folder.serve("v1").await;
        drop(folder.join("broken").await);
        assert_eq!(ask(address).await, "v1");
        let before = descriptors();
        for number in 0..30 {
            let mut starting = folder.join("broken").await;
            if number % 2 == 0 {
                drop(starting.tcp("echo", address).await.unwrap());
                drop(starting.tcp("more", "127.0.0.1:0").await.unwrap());
            }
        }
        nothing_leaked(before).await;
        replace_by(&folder, &first, "v2").await;
    });
}

#[test]
fn thirty_first_starts() {
    alone(async {
        let folder = Folder::new();
        let before = descriptors();
        for _ in 0..30 {
            drop(folder.join("v1").await);
        }
        nothing_leaked(before).await;
    });
}
