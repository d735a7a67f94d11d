//! Conversations that go on and on while versions come and go.
//!
//! Deliberately absent: messages that are cut on purpose, see [`crate::halves`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::client::Client;
use crate::server::{start, version};
use crate::within;

/// Numbers both ways, several at once, until told to stop; returns how many were answered, and by how many
/// versions.
async fn converse(address: SocketAddr, stop: Arc<AtomicBool>) -> (u64, usize) {
    let mut client = Client::connect(address, "/ticks").await;
    let (mut said, mut answered, mut ticks) = (0, 0, 0);
    let mut versions = vec![];
    while !stop.load(Relaxed) || answered < said {
        while said < answered + 5 && !stop.load(Relaxed) {
            said += 1;
            client.say(&format!("number {said}")).await;
        }
        let heard = client.text().await;
        match heard.strip_prefix("tick ") {
            Some(tick) => {
                ticks += 1;
                assert_eq!(tick, ticks.to_string(), "lost, doubled, or out of order");
            }
            None => {
                answered += 1;
                let (version, rest) = heard.split_once(':').unwrap();
                assert_eq!(rest, format!("{answered}:number {answered}"), "lost, doubled, or out of order");
                let version: u64 = version.parse().unwrap();
                assert!(versions.last().is_none_or(|last| *last <= version), "back from the new version");
                if versions.last() != Some(&version) {
                    versions.push(version);
                }
            }
        }
    }
    (answered, versions.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_conversations_go_on_through_fifty_handoffs() {
    const HANDOFFS: u64 = 50;
    let dir = tempfile::tempdir().unwrap();
    let (mut hot, address) = start(&dir, version(1)).await;
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..20).map(|_| tokio::spawn(converse(address, stop.clone()))).collect();
    let (mut migrated, mut forced) = (0, 0);
    for next in 2..=HANDOFFS + 1 {
        let (new, _) = start(&dir, version(next)).await;
        within(hot.drained()).await;
        migrated += hot.connections().migrated();
        forced += hot.connections().forced();
        hot = new;
    }
    stop.store(true, Relaxed);
    for client in clients {
        let (answered, versions) = within(client).await.unwrap();
        assert!(answered > HANDOFFS && versions > 10, "{answered} answers from {versions} versions");
    }
    assert_eq!(forced, 0);
    // One that connects during the first handoff may begin in the second version, or be still HTTP when it
    // migrations.
    assert!((19 * HANDOFFS..=20 * HANDOFFS).contains(&migrated), "{migrated} migrations");
}
