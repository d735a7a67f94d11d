//! What only one process may do, and tasks that keep a process alive.

use crate::common::{Folder, SOON, ask};
use std::time::Duration;
use tokio::time::timeout;

#[tokio::test]
async fn one_process_at_a_time_is_serving_and_both_are_told() {
    let folder = Folder::new();
    let (first, _) = folder.serve("v1").await;
    assert!(first.is_serving());
    assert!(timeout(SOON, first.wait_until_serving()).await.unwrap());
    let ends = tokio::spawn(first.wait_until_not_serving());
    let (second, address) = folder.serve("v2").await;
    timeout(SOON, ends).await.unwrap().unwrap();
    assert!(!first.is_serving() && second.is_serving());
    assert!(!timeout(SOON, first.wait_until_serving()).await.unwrap(), "it never will again");
    assert_eq!(ask(address).await, "v2");
}

#[tokio::test]
async fn a_process_with_a_task_is_not_drained() {
    let folder = Folder::new();
    let (first, _) = folder.serve("v1").await;
    let guards = ["report", "mail"].map(|name| first.task_guard(name));
    let (_second, _) = folder.serve("v2").await;
    timeout(SOON, first.retired()).await.unwrap();
    for guard in guards {
        assert!(timeout(Duration::ZERO, first.drained()).await.is_err());
        drop(guard);
    }
    timeout(SOON, first.drained()).await.unwrap();
}
