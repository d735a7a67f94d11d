//! HTTP/2 with prior knowledge: GOAWAY, streams in flight, clients that do not answer.
//!
//! Deliberately absent: WebSockets over HTTP/2.

use std::time::Instant;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::server::{BRISK, PATIENT, SHORT, Server, until, within};

struct Client {
    requests: SendRequest<Empty<Bytes>>,
    connection: JoinHandle<hyper::Result<()>>,
}

impl Client {
    async fn connect(server: &Server) -> Self {
        let stream = TcpStream::connect(server.address).await.unwrap();
        let (requests, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        Self { requests, connection: tokio::spawn(connection) }
    }

    fn get(&mut self, path: &str) -> impl Future<Output = hyper::Result<Response<Incoming>>> + use<> {
        let request = Request::get(format!("http://test{path}")).body(Empty::new()).unwrap();
        self.requests.send_request(request)
    }
}

async fn text(response: Response<Incoming>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

#[tokio::test]
async fn a_stream_in_flight_is_finished_after_goaway() {
    let server = Server::start(PATIENT).await;
    let mut client = Client::connect(&server).await;
    assert_eq!(text(within(client.get("/")).await.unwrap()).await, "old");
    assert_eq!(server.hot.connections().rows()[0].protocol, "h2");
    let held = tokio::spawn(client.get("/held"));
    until(|| server.hot.connections().summary().active == 1).await;

    let _new = server.hand_off().await;
    // The client learns of GOAWAY and takes no new request for this connection, as a pool has to know.
    until(|| client.requests.is_closed() || server.hot.connections().rows()[0].requests == 2).await;
    server.release.add_permits(1);
    let answer = within(held).await.unwrap().unwrap();
    assert!(!answer.headers().contains_key("connection"));
    assert_eq!(text(answer).await, "old");
    within(client.connection).await.unwrap().unwrap();
    assert!(client.requests.is_closed());
    assert_eq!(server.drained().await, 0);
}

#[tokio::test]
async fn an_idle_connection_ends_at_once() {
    let server = Server::start(PATIENT).await;
    let mut client = Client::connect(&server).await;
    within(client.get("/")).await.unwrap().into_body().collect().await.unwrap();
    let _new = server.hand_off().await;
    within(client.connection).await.unwrap().unwrap();
    assert_eq!(server.drained().await, 0);
}

#[tokio::test]
async fn a_client_that_does_not_answer_goaway_is_closed_after_the_grace() {
    let server = Server::start(BRISK).await;
    let mut client = TcpStream::connect(server.address).await.unwrap();
    // The preface and empty SETTINGS (RFC 9113, section 3.4), then nothing more.
    client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    until(|| server.hot.connections().rows().first().is_some_and(|row| row.protocol == "h2")).await;
    let began = Instant::now();
    let _new = server.hand_off().await;
    let mut all = Vec::new();
    within(client.read_to_end(&mut all)).await.unwrap();
    assert!(began.elapsed() >= SHORT);
    assert!(all.windows(4).any(|window| window == [0, 0, 8, 7]), "no GOAWAY in {all:?}");
    drop(client);
    assert_eq!(server.drained().await, 0);
}
