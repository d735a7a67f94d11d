//! HTTP/2 connections that migrate while streams are open: new requests go to the new version at once, and
//! the open streams to their end where they began.
//!
//! Deliberately absent: what is said on the relay, frame by frame, which the tests of `hotupdate-h2` look at.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::routing::get;
use futures_util::stream;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::sync::Semaphore;

use crate::http2::Client;
use crate::server::{LONG, MIGRATING, Server, Times, until, within};

/// Requests wait for a moment only.
pub(crate) const BRIEF: Times = Times { hold: Duration::from_millis(20), ..MIGRATING };

/// Streams of so many items, each of which has to be released.
fn items(version: &'static str) -> impl FnOnce(Router<Arc<Semaphore>>) -> Router<Arc<Semaphore>> {
    let body = move |State(release): State<Arc<Semaphore>>, Path(count): Path<u64>| async move {
        Body::from_stream(stream::unfold(0, move |n| {
            let release = release.clone();
            async move {
                if n == count {
                    return None;
                }
                release.acquire().await.unwrap().forget();
                Some((Ok::<_, Infallible>(format!("{version} {n}\n")), n + 1))
            }
        }))
    };
    move |router| router.route("/items/{count}", get(body))
}

/// A stream that is being answered.
struct Items(Incoming);

impl Items {
    async fn of(client: &mut Client, count: u64) -> Self {
        Self(within(client.get(&format!("/items/{count}"))).await.unwrap().into_body())
    }

    /// The next item; `None` at the end, and what went wrong else.
    async fn next(&mut self) -> Option<hyper::Result<Bytes>> {
        loop {
            match within(self.0.frame()).await?.map(|frame| frame.into_data().unwrap()) {
                // The end may have a frame of its own.
                Ok(nothing) if nothing.is_empty() => {}
                item => return Some(item),
            }
        }
    }

    async fn ends(&mut self) {
        let end = self.next().await;
        assert!(end.is_none(), "{end:?}");
    }

    async fn brings(&mut self, server: &Server, item: &str) {
        server.release.add_permits(1);
        assert_eq!(self.next().await.unwrap().unwrap(), item);
    }
}

async fn start(times: Times) -> Server {
    Server::start_with(times, items("old")).await
}

async fn hand_off(server: &Server, times: Times) -> Server {
    server.hand_off_with(times, items("new")).await
}

#[tokio::test]
async fn a_stream_goes_on_in_the_old_version_and_a_request_is_answered_by_the_new_one() {
    let server = start(BRIEF).await;
    let mut client = Client::connect(&server).await;
    let mut items = Items::of(&mut client, 3).await;
    items.brings(&server, "old 0\n").await;
    let new = hand_off(&server, BRIEF).await;
    until(|| new.hot.connections().adopted() == 1).await;
    client.is_answered_by("new").await;
    items.brings(&server, "old 1\n").await;
    client.is_answered_by("new").await;
    items.brings(&server, "old 2\n").await;
    items.ends().await;
    let totals = server.hot.connections().totals();
    assert_eq!((totals.relayed, totals.migrated, totals.goaways.sum()), (1, 0, 0));
    assert_eq!(server.drained().await, 0);
    client.is_answered_by("new").await;
}

/// Of each version one stream is open, which is as many as there may be.
#[tokio::test]
async fn a_connection_waits_for_its_relayed_streams_before_it_goes_on_without_its_own() {
    let first = start(BRIEF).await;
    let mut client = Client::connect(&first).await;
    let mut of_first = Items::of(&mut client, 2).await;
    of_first.brings(&first, "old 0\n").await;
    let second = hand_off(&first, BRIEF).await;
    until(|| second.hot.connections().adopted() == 1).await;
    let mut of_second = Items::of(&mut client, 2).await;
    of_second.brings(&second, "new 0\n").await;
    let third = second.hand_off_with(BRIEF, items("third")).await;
    for _ in 0..10 {
        client.is_answered_by("new").await;
    }
    assert_eq!(third.hot.connections().adopted(), 0);
    of_first.brings(&first, "old 1\n").await;
    of_first.ends().await;
    until(|| third.hot.connections().adopted() == 1).await;
    let mut of_third = Items::of(&mut client, 1).await;
    of_third.brings(&third, "third 0\n").await;
    of_third.ends().await;
    of_second.brings(&second, "new 1\n").await;
    of_second.ends().await;
    for server in [first, second] {
        let totals = server.hot.connections().totals();
        assert_eq!((totals.relayed, totals.goaways.sum()), (1, 0));
        assert_eq!(server.drained().await, 0);
    }
}

#[tokio::test]
async fn at_a_rollback_a_connection_comes_back_when_its_streams_have_ended() {
    let server = start(Times { probation: LONG, ..BRIEF }).await;
    let mut client = Client::connect(&server).await;
    let mut items = Items::of(&mut client, 3).await;
    items.brings(&server, "old 0\n").await;
    let new = hand_off(&server, BRIEF).await;
    until(|| new.hot.connections().adopted() == 1).await;
    items.brings(&server, "old 1\n").await;
    server.roll_back().await;
    client.is_answered_by("new").await;
    items.brings(&server, "old 2\n").await;
    items.ends().await;
    until(|| server.hot.connections().adopted() == 1).await;
    client.is_answered_by("old").await;
    assert!(!client.requests.is_closed());
    assert_eq!(new.drained().await, 0);
}

/// The connection lives on.
#[tokio::test]
async fn a_stream_that_is_open_at_the_deadline_is_reset() {
    let server = start(Times { deadline: Duration::from_millis(500), ..BRIEF }).await;
    let mut client = Client::connect(&server).await;
    let mut items = Items::of(&mut client, 2).await;
    items.brings(&server, "old 0\n").await;
    let new = hand_off(&server, BRIEF).await;
    until(|| new.hot.connections().adopted() == 1).await;
    let error = items.next().await.unwrap().unwrap_err();
    assert!(format!("{error:?}").contains("INTERNAL_ERROR"), "{error:?}");
    assert_eq!(server.drained().await, 1, "it is counted as forced");
    client.is_answered_by("new").await;
}

#[tokio::test]
async fn the_client_of_a_stream_may_leave() {
    let server = start(BRIEF).await;
    let mut client = Client::connect(&server).await;
    let mut items = Items::of(&mut client, 2).await;
    items.brings(&server, "old 0\n").await;
    let new = hand_off(&server, BRIEF).await;
    until(|| new.hot.connections().adopted() == 1).await;
    client.connection.abort();
    drop((client, items));
    assert_eq!(server.drained().await, 0);
    until(|| new.hot.connections().rows().is_empty()).await;
}

/// It could not move, and its own process has no more time.
#[tokio::test]
async fn a_connection_whose_relayed_streams_do_not_end_gets_goaway_a_grace_before_the_deadline() {
    let first = start(BRIEF).await;
    let mut client = Client::connect(&first).await;
    let mut items = Items::of(&mut client, 2).await;
    items.brings(&first, "old 0\n").await;
    let soon = Times { deadline: Duration::from_secs(2), grace: Duration::from_secs(1), ..BRIEF };
    let second = hand_off(&first, soon).await;
    until(|| second.hot.connections().adopted() == 1).await;
    let _third = second.hand_off_with(BRIEF, crate::relayed::items("third")).await;
    until(|| second.hot.connections().totals().goaways.streams == 1).await;
    items.brings(&first, "old 1\n").await;
    items.ends().await;
    within(client.connection).await.unwrap().unwrap();
    assert_eq!((second.drained().await, first.drained().await), (0, 0));
}
