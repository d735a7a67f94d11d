//! The limit of open files is reached (`RLIMIT_NOFILE`): a client that connects waits, and the log says why.
//!
//! Deliberately absent: handoffs meanwhile, see `integration-tests/tests/environment/limits/descriptors.rs`.

use std::fs;
use std::time::Instant;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use crate::common::eventually;
use crate::common::peer::{Peer, status};
use crate::stage::{Client, Stage};

fn limit_descriptors(pid: u32, limit: Option<u64>) {
    let new = Rlimit { current: limit, maximum: getrlimit(Resource::Nofile).maximum };
    prlimit(Some(Pid::from_raw(pid.cast_signed()).unwrap()), Resource::Nofile, new).unwrap();
}

/// The limit is about their numbers: those below it that are free may still be used.
fn allow_few_descriptors(pid: u32) {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u64>().ok());
    limit_descriptors(pid, numbers.max().map(|last| last + 1));
}

#[tokio::test]
async fn clients_and_callers_wait_until_there_are_descriptors_again() {
    let stage = Stage::new();
    let mut first = stage.start(&[]);
    let serving = stage.serves(1).await;
    let begun = Instant::now();
    allow_few_descriptors(first.pid());
    let mut clients = Vec::new();
    let wait = "cannot accept; connections wait in the backlog";
    eventually("nothing is left for clients", async || {
        clients.push(Client::connect(serving.address).await);
        stage.log().contains(wait).then_some(())
    })
    .await;
    stage.logs(&[wait, "Too many open files"]).await;

    // Some are held back for those who want to know why.
    assert_eq!(status(&stage.control()).await["serving"]["process"]["pid"], first.pid());
    let mut callers = Vec::new();
    let crowded = "callers on the control socket cannot be accepted";
    eventually("nothing is left of those", async || {
        callers.push(Peer::connect(&stage.control()).await);
        stage.log().contains(crowded).then_some(())
    })
    .await;

    limit_descriptors(first.pid(), getrlimit(Resource::Nofile).maximum);
    for client in &mut clients {
        assert_eq!(client.ask().await, first.pid(), "a client that waited is served");
    }
    drop((clients, callers));
    assert_eq!(status(&stage.control()).await["serving"]["process"]["pid"], first.pid());
    // Whenever one is free, a client takes it, and it is over again.
    for line in [wait, crowded] {
        let lines = stage.log().matches(line).count();
        assert!(lines as f64 <= begun.elapsed().as_secs_f64() + 1.0, "{}", stage.log());
    }
    stage.sighup(serving).await;
    first.drains(0).await;
}
