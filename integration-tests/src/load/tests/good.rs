//! A plain axum server without any hot update: nothing may fail.
//!
//! Deliberately absent: handoffs.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::Query;
use axum::extract::ws::{WebSocket, WebSocketUpgrade};
use axum::response::sse::{Event, Sse};
use axum::routing::{get, post};
use bytes::Bytes;

use super::super::{Kind, Load, LoadPlan, Window};
use super::{SOON, server};
use crate::process::eventually;

#[derive(serde::Deserialize)]
struct Wait {
    sleep: Option<f64>,
}

async fn who(Query(wait): Query<Wait>) -> String {
    tokio::time::sleep(Duration::from_secs_f64(wait.sleep.unwrap_or_default())).await;
    "ospid:4242\n".into()
}

async fn echo(mut socket: WebSocket) {
    while let Some(Ok(message)) = socket.recv().await {
        if socket.send(message).await.is_err() {
            return;
        }
    }
}

fn plain_server() -> SocketAddr {
    let events = || async {
        Sse::new(futures_util::stream::unfold(0, |number| async move {
            tokio::time::sleep(Duration::from_millis(5)).await;
            Some((Ok::<_, Infallible>(Event::default().data(number.to_string())), number + 1))
        }))
    };
    let app = Router::new()
        .route("/", get(who))
        .route("/version", get(|| async { "v1" }))
        .route("/events", get(events))
        .route("/ws", get(|upgrade: WebSocketUpgrade| async { upgrade.on_upgrade(echo) }))
        .route("/echo", post(|body: Bytes| async { body }));
    server::start(|listener| async move { axum::serve(listener, app).await.expect("it serves for ever") })
}

#[test]
fn every_kind_is_answered_and_nothing_fails() {
    let plan = LoadPlan { slow_takes: Duration::from_millis(50), ..LoadPlan::default() };
    let begun = std::time::Instant::now();
    let load = Load::start(plain_server(), plan);
    eventually("an answer to every kind", SOON, || load.is_warm().then_some(()));
    eventually("some hundred answers", SOON, || (load.progress().all_answered() > 500).then_some(()));
    let report = load.stop();

    report.assert_nothing_failed();
    assert_eq!(report.kinds.keys().copied().collect::<Vec<_>>(), Kind::ALL);
    assert_eq!(report.pids().keys().copied().collect::<Vec<_>>(), [4242]);
    assert_eq!(report.versions().keys().collect::<Vec<_>>(), ["v1"]);
    assert_eq!(report.sum(|tally| tally.asked + tally.closed_idle + tally.unechoed + tally.retried), 0);
    assert!(report.kinds[&Kind::Sse].events > 0, "{report}");
    assert_eq!(report.kinds[&Kind::KeepAlive].connections, 6, "{report}");
    let per_request = &report.kinds[&Kind::PerRequest];
    assert_eq!(per_request.connections, per_request.sent, "{report}");

    let always = Window { begun, ended: std::time::Instant::now() };
    let latency = report.latency(&[Kind::Slow], &[always]);
    assert_eq!((latency.during.len(), latency.outside.len()), (report.kinds[&Kind::Slow].answered, 0));
    assert!(latency.during.min() < 50_000, "the sleep that was asked for is no latency");
}

#[test]
fn a_load_that_is_dropped_ends() {
    let load = Load::start(plain_server(), LoadPlan::default());
    let progress = std::sync::Arc::clone(&load.progress);
    drop(load);
    // The last to let go of the progress is the thread of the load.
    eventually("the end of the load", SOON, || (std::sync::Arc::strong_count(&progress) == 1).then_some(()));
}
