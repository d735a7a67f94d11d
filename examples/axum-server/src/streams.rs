//! Answers that go on until the client leaves, or the process drains.
//!
//! Deliberately absent: moving an event stream to the next version. It ends politely, and its client comes
//! back to it.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::Query;
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse as _, Response};
use futures_util::{StreamExt as _, stream};
use hotupdate::Starting;
use hotupdate_axum::{Draining, ws};
use serde::Deserialize;
use tokio::time::interval;

use crate::routes::pid;

/// Between two events.
const PERIOD: Duration = Duration::from_millis(100);

/// How many events are asked for.
#[derive(Debug, Deserialize)]
pub(crate) struct Count {
    count: Option<usize>,
}

/// `GET /events`: a counter, ten times a second. With `?count=N` all of them come from here, for as long as
/// that takes.
pub(crate) async fn events(draining: Draining, Query(Count { count }): Query<Count>) -> Response {
    let counter = stream::unfold((0u64, interval(PERIOD)), |(n, mut ticks)| async move {
        ticks.tick().await;
        Some((Ok::<_, Infallible>(Event::default().data(n.to_string())), (n + 1, ticks)))
    });
    match count {
        None => Sse::new(draining.take_until_draining(counter)).into_response(),
        Some(count) => Sse::new(counter.take(count)).into_response(),
    }
}

/// What the WebSockets below are called when they migrate.
const ECHO: &str = "echo";

/// `GET /ws`: a WebSocket that echoes, through any deploy; `who` is answered as `GET /` is.
pub(crate) async fn upgrade(upgrade: ws::Upgrade) -> Response {
    upgrade.on_upgrade(|socket| echo(socket, ()))
}

/// Goes on with those of the version before.
pub(crate) fn on_migrated(hot: &mut Starting) -> hotupdate::Result<()> {
    ws::on_migrated(hot, ECHO, echo)
}

async fn echo(mut socket: ws::WebSocket, (): ()) {
    loop {
        match socket.recv_or_drain().await {
            ws::Event::Message(message) => {
                let answer = match message {
                    ws::Message::Text(text) if text.as_str() == "who" => ws::Message::text(pid()),
                    message => message,
                };
                if socket.send(answer).await.is_err() {
                    return;
                }
            }
            ws::Event::Draining => match socket.migrate(ECHO, &()).await {
                Ok(()) => return,
                Err(stays) => socket = stays.socket,
            },
            _ => return,
        }
    }
}
