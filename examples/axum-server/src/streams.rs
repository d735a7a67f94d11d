//! Answers that go on until the client leaves, or the process drains.
//!
//! Deliberately absent: moving them to the next version; they end politely, and their clients come back to it.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::response::Response;
use axum::response::sse::{Event, Sse};
use futures_util::{Stream, stream};
use hotupdate_axum::Draining;
use tokio::time::{interval, timeout};

/// Between two events.
const PERIOD: Duration = Duration::from_millis(100);

/// How long a WebSocket client may take to answer a close frame.
const FAREWELL: Duration = Duration::from_secs(1);

/// `GET /events`: a counter, ten times a second.
pub(crate) async fn events(draining: Draining) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let counter = stream::unfold((0u64, interval(PERIOD)), |(n, mut ticks)| async move {
        ticks.tick().await;
        Some((Ok(Event::default().data(n.to_string())), (n + 1, ticks)))
    });
    Sse::new(draining.end(counter))
}

/// `GET /ws`: a WebSocket that echoes.
pub(crate) async fn upgrade(upgrade: WebSocketUpgrade, draining: Draining) -> Response {
    upgrade.on_upgrade(|socket| echo(socket, draining))
}

async fn echo(mut socket: WebSocket, draining: Draining) {
    loop {
        tokio::select! {
            message = socket.recv() => match message {
                Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => {
                    if socket.send(message).await.is_err() {
                        return;
                    }
                }
                // Pings and close frames are answered below this.
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return,
            },
            // Each at its own turn, so that not all clients come back in the same instant.
            () = draining.turn() => return say_goodbye(socket).await,
        }
    }
}

/// RFC 6455, section 7.1.1: the server closes after the client has answered.
async fn say_goodbye(mut socket: WebSocket) {
    let restart = CloseFrame { code: close_code::RESTART, reason: "a new version serves".into() };
    if socket.send(Message::Close(Some(restart))).await.is_ok() {
        let answered = async { while let Some(Ok(_)) = socket.recv().await {} };
        // A client that does not answer is left alone.
        let _ = timeout(FAREWELL, answered).await;
    }
}
