//! The migration comes in the middle of something: a message, a close frame, what a slow client takes.
//!
//! Deliberately absent: sockets that cannot migrate, see [`crate::staying`].

use std::time::Duration;

use tokio_tungstenite::tungstenite::Message;

use crate::client::{Client, frame};
use crate::server::{FULL, start, version};
use crate::within;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_cut_at_every_byte_by_the_migration() {
    let fragmented =
        [frame(0x01, b"frag"), frame(0x89, b"ping"), frame(0x00, b"men"), frame(0x80, b"ted")].concat();
    let bytes = [fragmented, frame(0x81, b"single")].concat();
    let dir = tempfile::tempdir().unwrap();
    let (old, address) = start(&dir, version(1)).await;
    let mut clients = Vec::new();
    for cut in 0..=bytes.len() {
        let mut client = Client::connect(address, "/echo").await;
        client.begin(&bytes[..cut]).await;
        clients.push(client);
    }
    let (_new, _) = start(&dir, version(2)).await;
    within(old.drained()).await;
    for (cut, client) in clients.iter_mut().enumerate() {
        client.raw(&bytes[cut..]).await;
        assert_eq!(client.hear().await, Message::Pong("ping".into()), "cut at {cut}");
        let (fragmented, single) = (client.text().await, client.text().await);
        assert!(fragmented.ends_with(":2:fragmented"), "cut at {cut}: {fragmented}");
        assert!(single.ends_with(":3:single"), "cut at {cut}: {single}");
        if cut < bytes.len() {
            assert!(single.starts_with('2'), "cut at {cut}: {single}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_messages_half_received() {
    let dir = tempfile::tempdir().unwrap();
    let (old, address) = start(&dir, version(1)).await;
    // What fits migrates half; of what does not, the old version awaits the rest.
    let (small, large) = (frame(0x82, &[7; 80 << 10]), frame(0x82, &[7; 1 << 20]));
    let (mut migrates, mut waits) =
        (Client::connect(address, "/echo").await, Client::connect(address, "/echo").await);
    migrates.begin(&small[..small.len() / 2]).await;
    waits.begin(&large[..large.len() / 2]).await;
    let (new, _) = start(&dir, version(2)).await;
    let peer = migrates.socket.get_ref().local_addr().unwrap().to_string();
    within(async {
        while !new.connections().rows().iter().any(|row| row.peer == peer) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    migrates.raw(&small[small.len() / 2..]).await;
    assert_eq!(migrates.text().await, format!("2:2:{} bytes", 80 << 10));
    waits.raw(&large[large.len() / 2..]).await;
    let answer = waits.text().await;
    assert!(answer.ends_with(&format!(":2:{} bytes", 1 << 20)), "{answer}");
    within(old.drained()).await;
    assert_eq!(old.connections().forced(), 0);
    waits.say("next").await;
    assert_eq!(waits.text().await, "2:3:next");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_slow_client_has_not_taken_is_sent_by_the_next_version() {
    let dir = tempfile::tempdir().unwrap();
    let (old, address) = start(&dir, version(1)).await;
    let mut client = Client::connect(address, "/pour").await;
    assert_eq!(client.text().await, format!("{:>20000}", 0));
    within(FULL.notified()).await;
    let (_new, _) = start(&dir, version(2)).await;
    within(old.drained()).await;
    assert_eq!(old.connections().migrated(), 1);
    let mut heard = 1;
    loop {
        let text = client.text().await;
        if let Some(all) = text.strip_suffix(" in all") {
            assert_eq!(all, heard.to_string());
            break;
        }
        assert_eq!(text, format!("{heard:>20000}"));
        heard += 1;
    }
    client.expect_close(1000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_close_frame_cut_at_every_byte_is_answered() {
    let goodbye = frame(0x88, &[&1000u16.to_be_bytes()[..], b"bye"].concat());
    let dir = tempfile::tempdir().unwrap();
    let (old, address) = start(&dir, version(1)).await;
    let mut clients = Vec::new();
    for cut in 0..=goodbye.len() {
        let mut client = Client::connect(address, "/echo").await;
        client.begin(&goodbye[..cut]).await;
        clients.push(client);
    }
    let (_new, _) = start(&dir, version(2)).await;
    for (cut, client) in clients.iter_mut().enumerate() {
        client.raw(&goodbye[cut..]).await;
        client.expect_close(1000).await;
    }
    within(old.drained()).await;
    assert_eq!(old.connections().forced(), 0);
}
