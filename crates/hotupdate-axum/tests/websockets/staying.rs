//! Sockets that do not migrate: the next version does not accept them, or it has died.
//!
//! Deliberately absent: messages that are too large to migrate half, see [`crate::halves`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::client::{Client, frame};
use crate::server::{How, start, version};
use crate::{SOON, SPREAD, within};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sockets_that_the_next_version_does_not_accept_are_told_to_reconnect_within_the_window() {
    let dir = tempfile::tempdir().unwrap();
    let (old, address) = start(&dir, version(1)).await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = Client::connect(address, "/echo").await;
        client.begin(b"").await;
        clients.push(client);
    }
    let (_new, _) = start(&dir, How { accepts: false, ..version(2) }).await;
    let began = Instant::now();
    let farewells: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            tokio::spawn(async move {
                client.expect_close(1012).await;
                began.elapsed()
            })
        })
        .collect();
    let mut times = Vec::new();
    for farewell in farewells {
        times.push(farewell.await.unwrap());
    }
    times.sort_unstable();
    within(old.drained()).await;
    assert_eq!((old.connections().forced(), old.connections().migrated()), (0, 0));
    // A second more, in which the next version could still have said that it takes them.
    assert!(times[19] < SPREAD + Duration::from_secs(2), "{times:?}");
    assert!(times[19] - times[0] > SPREAD / 2, "all at once: {times:?}");
}

#[test]
fn a_successor_that_dies_before_it_has_them_changes_nothing() {
    let runtime =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (living, doomed) = (runtime(), runtime());
    living.block_on(async move {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let (old, address) = start(&dir, How { probation: SOON, ..version(1) }).await;
        let half = frame(0x81, b"half");
        let mut client = Client::connect(address, "/echo").await;
        client.begin(&half[..3]).await;
        // It becomes ready, accepts no WebSockets, and dies.
        let control = dir.path().join("control.sock");
        let successor = doomed.spawn(async move {
            let mut starting = hotupdate::builder(control).stop_signals(false).join().await.unwrap();
            let listener = starting.tcp("http", "127.0.0.1:0").await.unwrap();
            (starting.ready().await.unwrap(), listener)
        });
        let served = successor.await.unwrap();
        within(old.drain().started()).await;
        doomed.shutdown_background();
        within(old.drain().ended()).await;
        drop(served);
        client.raw(&half[3..]).await;
        assert_eq!(client.text().await, "1:2:half");
        // And the next attempt works.
        let (_new, _) = start(&dir, version(3)).await;
        client.say("again").await;
        let answer = client.text().await;
        assert!(answer.ends_with(":3:again"), "{answer}");
        while !client.socket_is_served_by(3).await {}
    });
}

impl Client {
    async fn socket_is_served_by(&mut self, version: u64) -> bool {
        self.say("who?").await;
        self.text().await.starts_with(&format!("{version}:"))
    }
}
