//! A process that stands still for longer than a deadline (SIGSTOP, a suspended machine): what has arrived
//! meanwhile counts.
//!
//! Deliberately absent: what the other side does without it
//! (`integration-tests/tests/connections/migration/hanging.rs`).

use std::sync::mpsc;
use std::time::Duration;

use crate::common::Folder;
use crate::common::lies::honest;
use crate::common::peer::{Impostor, Peer};
use hotupdate::Timing;
use serde_json::json;
use tokio::runtime::{Builder, Runtime};

/// The deadline that passes.
const RESUME: Duration = Duration::from_secs(2);

/// The only thread of the service does nothing until the returned value is dropped.
fn stands_still(service: &Runtime) -> mpsc::Sender<()> {
    let (stands, stood) = mpsc::channel();
    let (goes_on, waits) = mpsc::channel::<()>();
    service.spawn(async move {
        stands.send(()).unwrap();
        let _ = waits.recv();
    });
    stood.recv().unwrap();
    goes_on
}

#[test]
fn the_answer_of_a_predecessor_comes_before_the_deadline_that_has_passed() {
    let folder = Folder::new();
    let service = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let others = Builder::new_current_thread().enable_all().build().unwrap();
    others.block_on(async {
        let impostor = Impostor::at(&folder);
        let timing = Timing::default().resume(RESUME);
        let builder = folder.builder("v2").timing(timing);
        let serves = service.spawn(async move {
            let mut starting = builder.join().await.unwrap();
            let listener = starting.tcp("http", "127.0.0.1:0").await.unwrap();
            (starting.ready().await.unwrap(), listener)
        });
        let mut predecessor = honest(&impostor).await;
        predecessor.next_of("ready").await;
        let released = json!({
            "type": "released", "connections": {"idle": 0, "active": 0, "upgraded": 0}, "stopped_at_ns": 1,
            "state": [], "links": [],
        });
        predecessor.say(&released).await;
        let _serves = serves.await.unwrap();

        let mut operator = Peer::connect(&folder.control()).await;
        operator.say(&json!({ "method": "io.hotupdate.Rollback" })).await;
        predecessor.next_of("resume").await;
        let standstill = stands_still(&service);
        predecessor.say(&json!({ "type": "serving" })).await;
        std::thread::sleep(RESUME + RESUME / 2);
        drop(standstill);
        let reply = operator.next().await.unwrap();
        assert!(reply["error"].is_null(), "the predecessor serves, and had said so: {reply}");
    });
    service.shutdown_background();
}
