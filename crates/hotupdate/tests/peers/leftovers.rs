//! What many handoffs leave behind in one process: nothing.
//!
//! Deliberately absent: memory; that is measured on real processes, see
//! `integration-tests/tests/campaigns/endurance.rs`.

use crate::common::{self, Folder, alone, ask, descriptors, eventually, nothing_leaked, replace_by};

/// The threads of the runtime, by their name. Those of tests come and go: the next one waits until this one
/// has ended.
fn threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let name =
        |task: &std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
    tasks.filter(|task| task.as_ref().is_ok_and(|task| name(task).starts_with("tokio-"))).count()
}

/// How many descriptors there are when what has just ended is gone: the fewest of many looks. A connection
/// that was closed, and both ends of a link, go one after the other.
async fn descriptors_at_rest() -> usize {
    let mut looks = Vec::new();
    eventually("fifty looks", async || {
        looks.push(descriptors());
        looks.iter().min().copied().filter(|_| looks.len() == 50)
    })
    .await
}

#[test]
fn thirty_handoffs() {
    alone(async {
        let folder = Folder::new();
        let (first, _) = folder.serve("v1").await;
        let (mut serving, address) = replace_by(&folder, &first, "vn").await;
        drop(first);
        let (before, threads_before) = (descriptors_at_rest().await, threads());
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
