//! A server in this process, of which there can be versions.
//!
//! Deliberately absent: clients, see [`crate::client`].

use std::future::IntoFuture as _;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::routing::any;
use hotupdate::{Serving, Timing};
use hotupdate_axum::ws::{self, Event, Message, WebSocket, close_code};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::SPREAD;

/// What migrates with each socket.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Counts {
    received: u64,
    sent: u64,
    ticks: bool,
}

#[derive(Clone, Copy)]
pub(crate) struct How {
    pub(crate) version: u64,
    pub(crate) accepts: bool,
    pub(crate) probation: Duration,
}

pub(crate) fn version(version: u64) -> How {
    How { version, accepts: true, probation: Duration::ZERO }
}

pub(crate) async fn start(dir: &TempDir, how: How) -> (Serving, SocketAddr) {
    let How { version, accepts, probation } = how;
    let mut starting = hotupdate::builder(dir.path().join("control.sock"))
        .version(version.to_string())
        .stop_signals(false)
        // The folder goes at the end of a test, a moment before its services: they must not make it again.
        .timing(Timing::default().drain_spread(SPREAD).path_check(Duration::MAX))
        .probation(probation)
        .join()
        .await
        .unwrap();
    let listener = starting.tcp("http", "127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().ip().unwrap();
    let route = |ticks| {
        any(move |upgrade: ws::Upgrade| async move {
            let counts = Counts { ticks, ..Counts::default() };
            let upgrade = upgrade.protocols(["numbers"]).max_message_size(2 << 20);
            upgrade.on_upgrade(move |socket| serve(socket, counts, version))
        })
    };
    let app = Router::new()
        .route("/echo", route(false))
        .route("/ticks", route(true))
        .route("/pour", any(async |upgrade: ws::Upgrade| upgrade.on_upgrade(pour)));
    if accepts {
        let numbers = move |socket, counts| serve(socket, counts, version);
        ws::on_migrated(&mut starting, "numbers", numbers).unwrap();
        ws::on_migrated(&mut starting, "pour", stop_pouring).unwrap();
    }
    tokio::spawn(hotupdate_axum::serve(listener, app, &mut starting).into_future());
    let hot = starting.ready().await.unwrap();
    (hot, address)
}

/// Answers with the version, the number of the message, and its text; sends numbers in between.
pub(crate) async fn serve(mut socket: WebSocket, mut counts: Counts, version: u64) {
    let mut tick = tokio::time::interval(Duration::from_millis(1));
    loop {
        tokio::select! {
            event = socket.recv_or_drain() => match event {
                Event::Message(message) => {
                    counts.received += 1;
                    let text = match &message {
                        Message::Text(text) => text.to_string(),
                        other => format!("{} bytes", other.clone().into_data().len()),
                    };
                    let answer = format!("{version}:{}:{text}", counts.received);
                    if socket.send(Message::text(answer)).await.is_err() {
                        return;
                    }
                }
                Event::Draining => match socket.migrate("numbers", &counts).await {
                    Ok(()) => return,
                    Err(stays) => socket = stays.socket,
                },
                _ => return,
            },
            _ = tick.tick(), if counts.ticks => {
                counts.sent += 1;
                if socket.send(Message::text(format!("tick {}", counts.sent))).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Nothing more can be poured.
pub(crate) static FULL: Notify = Notify::const_new();

/// Sends until nothing more can be sent; the last message is half on its way when the socket migrates.
async fn pour(mut socket: WebSocket) {
    let mut sent = 1u32;
    socket.send(Message::text(format!("{:>20000}", 0))).await.unwrap();
    loop {
        let sending = socket.send(Message::text(format!("{sent:>20000}")));
        let taken = timeout(Duration::from_millis(100), sending).await;
        sent += 1;
        if taken.is_err() {
            break;
        }
    }
    FULL.notify_one();
    while let Event::Draining = socket.recv_or_drain().await {
        match socket.migrate("pour", &sent).await {
            Ok(()) => return,
            // The next version says one by one what it takes.
            Err(stays) => socket = stays.socket,
        }
    }
}

async fn stop_pouring(mut socket: WebSocket, sent: u32) {
    socket.send(Message::text(format!("{sent} in all"))).await.unwrap();
    socket.close(close_code::NORMAL, "").await;
}
