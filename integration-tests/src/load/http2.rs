//! HTTP/2 with prior knowledge, some streams at a time on one connection.
//!
//! Deliberately absent: repeating a refused stream. The protocol allows it (RFC 9113 section 8.7) and so it
//! is no failure, but it is counted.

use std::convert::Infallible;
use std::error::Error;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::client::{Client, within};
use super::tally::{Failure, FailureClass};

/// Streams at a time: one that lingers, so that a GOAWAY finds it open, and the two questions.
const STREAMS: [(&str, Duration); 3] = [
    ("/?sleep=0.02", Duration::from_millis(20)),
    ("/?sleep=0", Duration::ZERO),
    ("/version", Duration::ZERO),
];

/// After the last stream a connection that is told to go ends by itself within this time.
const FAREWELL: Duration = Duration::from_secs(2);

type Body = Empty<Bytes>;

/// A connection and the task that moves its frames.
struct Connection {
    sender: SendRequest<Body>,
    task: JoinHandle<hyper::Result<()>>,
}

/// What became of one stream.
enum Stream {
    Answered { took: Duration, body: String },
    Refused,
    Failed(Failure),
}

pub(super) async fn run(client: &mut Client) {
    let mut slot: Option<Connection> = None;
    while !client.is_stopped() {
        if let Some(connection) = slot.take_if(|connection| connection.sender.is_closed()) {
            count_end(client, connection).await;
        }
        if slot.is_none() {
            client.tally.connections += 1;
            match within(client.plan.patience, "open an HTTP/2 connection", open(client.address)).await {
                Ok(connection) => slot = Some(connection),
                Err(failure) => client.failed_alone(failure),
            }
        }
        if let Some(connection) = &slot {
            some_streams(client, connection).await;
        }
        tokio::time::sleep(client.pause()).await;
    }
}

async fn open(address: SocketAddr) -> Result<Connection, Failure> {
    let stream = TcpStream::connect(address).await.map_err(|error| Failure::io("connect", &error))?;
    stream.set_nodelay(true).map_err(|error| Failure::io("TCP_NODELAY", &error))?;
    let (sender, connection) = http2::handshake::<_, _, Body>(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .map_err(|error| to_failure("HTTP/2 handshake", &error))?;
    Ok(Connection { sender, task: tokio::spawn(connection) })
}

async fn some_streams(client: &mut Client, connection: &Connection) {
    let begun = Instant::now();
    let patience = client.plan.patience;
    let streams = STREAMS.iter().map(|(path, sleep)| one(connection.sender.clone(), path, *sleep, patience));
    for stream in join_all(streams).await {
        client.sent();
        match stream {
            Stream::Answered { took, body } => {
                client.answered(begun, took);
                match crate::client::parse_pid(&body) {
                    Ok(pid) => client.served_by_pid(pid),
                    Err(_) => client.served_by_version(body.trim()),
                }
            }
            Stream::Refused => client.tally.retried += 1,
            Stream::Failed(failure) => client.failed(failure),
        }
    }
}

async fn one(
    mut sender: SendRequest<Body>,
    path: &'static str,
    sleep: Duration,
    patience: Duration,
) -> Stream {
    let begun = Instant::now();
    let exchange = async { Ok::<_, Infallible>(ask(&mut sender, path).await) };
    let Ok(Ok(outcome)) = tokio::time::timeout(patience + sleep, exchange).await else {
        return Stream::Failed(Failure::new(
            FailureClass::Timeout,
            format!("{path} on HTTP/2: nothing in time"),
        ));
    };
    match outcome {
        Ok((StatusCode::OK, body)) => Stream::Answered { took: begun.elapsed().saturating_sub(sleep), body },
        Ok((status, _)) => {
            Stream::Failed(Failure::new(FailureClass::BadStatus, format!("{path} on HTTP/2: {status}")))
        }
        Err(error) if is_unprocessed(&error) => Stream::Refused,
        Err(error) => Stream::Failed(to_failure(path, &error)),
    }
}

async fn ask(sender: &mut SendRequest<Body>, path: &str) -> hyper::Result<(StatusCode, String)> {
    let request =
        Request::get(format!("http://load{path}")).body(Empty::new()).expect("a path is a good address");
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

/// The connection takes no more requests: counts whether the server had said so.
async fn count_end(client: &mut Client, connection: Connection) {
    let Connection { sender, task } = connection;
    drop(sender);
    match tokio::time::timeout(FAREWELL, task).await {
        Ok(Ok(Ok(()))) => client.tally.asked += 1,
        Ok(Ok(Err(error))) if says_goodbye(&error) => client.tally.asked += 1,
        Ok(Ok(Err(_))) => client.tally.closed_idle += 1,
        Ok(Err(_)) | Err(_) => {
            client.failed_alone(Failure::new(
                FailureClass::Timeout,
                "an HTTP/2 connection that was told to go stays",
            ));
        }
    }
}

/// Whether the server promises that it has not touched this stream (RFC 9113 sections 6.8 and 8.7), or the
/// request never left this process.
fn is_unprocessed(error: &hyper::Error) -> bool {
    let refused = behind(error).is_some_and(|error| error.reason() == Some(h2::Reason::REFUSED_STREAM));
    error.is_canceled() || refused || says_goodbye(error)
}

/// A GOAWAY without a complaint. For a stream it means that its number is above the last one that will be
/// processed.
fn says_goodbye(error: &hyper::Error) -> bool {
    behind(error).is_some_and(|error| {
        error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR)
    })
}

fn behind(error: &hyper::Error) -> Option<&h2::Error> {
    error.source()?.downcast_ref()
}

fn to_failure(doing: &str, error: &hyper::Error) -> Failure {
    let io = behind(error).and_then(h2::Error::get_io).or_else(|| error.source()?.downcast_ref());
    match io {
        Some(io) => Failure::io(&format!("{doing} on HTTP/2"), io),
        None => {
            let why = error.source().map(|source| format!(": {source}")).unwrap_or_default();
            Failure::new(FailureClass::Other, format!("{doing} on HTTP/2: {error}{why}"))
        }
    }
}
