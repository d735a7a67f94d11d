//! Listeners of an event stream.
//!
//! Deliberately absent: `Last-Event-ID`. The events of the example have no history that a client could miss.

use std::time::Instant;

use super::client::{Client, within};
use super::http1::{Connection, Length};
use super::tally::{Failure, FailureClass};

/// How an event stream ended.
enum End {
    /// The last chunk came: the server wants the client to come again.
    Clean,
    /// This load is over.
    Stopped,
}

pub(super) async fn run(client: &mut Client) {
    while !client.is_stopped() {
        let Some(connection) = open(client).await else {
            tokio::time::sleep(client.pause()).await;
            continue;
        };
        match listen(client, connection).await {
            Ok(End::Clean) => client.tally.asked += 1,
            Ok(End::Stopped) => return,
            Err(failure) => client.failed_alone(failure),
        }
    }
}

/// Opens a stream, which is answered as soon as its head is there.
async fn open(client: &mut Client) -> Option<Connection> {
    let begun = Instant::now();
    client.sent();
    client.tally.connections += 1;
    match within(client.plan.patience, "GET /events", subscribe(client.address)).await {
        Ok(connection) => {
            client.answered(begun, begun.elapsed());
            Some(connection)
        }
        Err(failure) => {
            client.failed(failure);
            None
        }
    }
}

async fn subscribe(address: std::net::SocketAddr) -> Result<Connection, Failure> {
    let mut connection = Connection::open(address).await?;
    connection.send(b"GET /events HTTP/1.1\r\nHost: load\r\nAccept: text/event-stream\r\n\r\n").await?;
    let head = connection.head().await?;
    if head.status != 200
        || head.length != Length::Chunked
        || !head.content_type.starts_with("text/event-stream")
    {
        return Err(Failure::new(
            FailureClass::BadStatus,
            format!("GET /events: not an event stream: {head:?}"),
        ));
    }
    Ok(connection)
}

async fn listen(client: &mut Client, mut connection: Connection) -> Result<End, Failure> {
    let stopped = client.stopped();
    tokio::pin!(stopped);
    let mut newlines = 0;
    loop {
        let chunk = tokio::select! {
            chunk = within(client.plan.silence, "GET /events", connection.chunk()) => chunk,
            () = &mut stopped => return Ok(End::Stopped),
        };
        match chunk.map_err(in_the_stream)? {
            Some(bytes) => client.tally.events += count_events(&bytes, &mut newlines),
            None => return Ok(End::Clean),
        }
    }
}

fn in_the_stream(failure: Failure) -> Failure {
    Failure { text: format!("GET /events, after the head: {}", failure.text), ..failure }
}

/// An event ends with an empty line, which may be cut by the end of a chunk.
fn count_events(bytes: &[u8], newlines: &mut u32) -> u64 {
    let mut events = 0;
    for byte in bytes.iter().filter(|byte| **byte != b'\r') {
        *newlines = if *byte == b'\n' { *newlines + 1 } else { 0 };
        events += u64::from(*newlines == 2);
    }
    events
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_events_across_chunks() {
        let mut newlines = 0;
        assert_eq!(count_events(b"data: 1\n\ndata: 2\n", &mut newlines), 1);
        assert_eq!(count_events(b"\nid: 3\ndata: 3\r\n\r\n", &mut newlines), 2);
    }
}
