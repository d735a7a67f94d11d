//! A request is being answered: it is finished in the old version, and then its connection migrates.
//!
//! Deliberately absent: what the client still sends of it, see [`super::bodies`].

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::routing::get;
use tokio::sync::Semaphore;

use super::HEAD;
use crate::server::{MIGRATING, Server};

#[tokio::test]
async fn a_request_in_flight_is_finished_first() {
    let server = Server::start(MIGRATING).await;
    let mut client = server.client().await;
    client.ask("/held").await;
    server.is_active().await;
    let new = server.hand_off_to(MIGRATING).await;
    assert_eq!(new.client().await.get("/").await.body, "new");
    assert_eq!(new.hot.connections().adopted(), 0);
    server.release.add_permits(1);
    client.is_answered("old").await;
    server.leaves_to(&new, 1).await;
    client.is_answered_by("new").await;
}

#[tokio::test]
async fn a_pipelined_request_behind_one_in_flight_is_answered() {
    let server = Server::start(MIGRATING).await;
    let mut client = server.client().await;
    client.ask("/held").await;
    server.is_active().await;
    client.send("GET /peer HTTP/1.1\r\nHost: test\r\n\r\nGET / HT").await;
    let new = server.hand_off_to(MIGRATING).await;
    server.release.add_permits(1);
    client.is_answered("old").await;
    client.is_answered(&client.stream.local_addr().unwrap().to_string()).await;
    server.leaves_to(&new, 1).await;
    client.send("TP/1.1\r\nHost: test\r\n\r\n").await;
    client.is_answered("new").await;
}

#[tokio::test]
async fn a_response_that_its_client_reads_slowly_comes_whole() {
    const LENGTH: usize = 16 << 20;
    let big = |router: Router<Arc<Semaphore>>| router.route("/big", get(|| async { vec![b'x'; LENGTH] }));
    let server = Server::start_with(MIGRATING, big).await;
    let mut client = server.client().await;
    client.ask("/big").await;
    assert!(client.until("\r\n\r\n").await.contains("content-length: 16777216"));
    let new = server.hand_off_to(MIGRATING).await;
    // The handler is done long ago; what it said is not.
    assert_eq!(new.client().await.get("/").await.body, "new");
    assert_eq!(server.hot.connections().rows().len(), 1);
    assert_eq!(client.exactly(LENGTH).await.bytes().filter(|byte| *byte == b'x').count(), LENGTH);
    server.leaves_to(&new, 1).await;
    client.is_answered_by("new").await;
}

#[tokio::test]
async fn a_stream_whose_head_went_out_before_is_finished_first() {
    async fn pieces(State(release): State<Arc<Semaphore>>) -> Body {
        Body::from_stream(futures_util::stream::unfold((release, 0), |(release, n)| async move {
            release.acquire().await.unwrap().forget();
            (n < 3).then(|| (Ok::<_, std::io::Error>(n.to_string()), (release, n + 1)))
        }))
    }
    let server = Server::start_with(MIGRATING, |router| router.route("/pieces", get(pieces))).await;
    let mut client = server.client().await;
    client.ask("/pieces").await;
    server.release.add_permits(1);
    assert!(!client.until("\r\n\r\n").await.contains("connection"));
    assert_eq!(client.chunk().await, "0");
    let new = server.hand_off_to(MIGRATING).await;
    server.release.add_permits(3);
    assert_eq!(client.chunks().await, "12");
    server.leaves_to(&new, 1).await;
    client.is_answered_by("new").await;
}

#[tokio::test]
async fn a_head_request_has_no_body_in_the_way() {
    let server = Server::start(MIGRATING).await;
    let mut client = server.client().await;
    client.send(&format!("HEAD / HTTP/1.1\r\n{HEAD}")).await;
    assert!(client.until("\r\n\r\n").await.contains("content-length: 3"));
    let new = server.hand_off_to(MIGRATING).await;
    server.leaves_to(&new, 1).await;
    client.is_answered_by("new").await;
}
