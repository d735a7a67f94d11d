//! Connections that the application has put something around: a cipher that hides every byte, in place of
//! TLS.

use std::future::IntoFuture as _;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::Router;
use axum::extract::ConnectInfo;
use axum::routing::{any, get};
use bytes::Bytes;
use hotupdate::{Connection, Serving};
use hotupdate_axum::ws;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::server::{BRISK, MIGRATING, Times, builder, until, within};

/// Every byte is another one on its way.
struct Cipher<T>(T);

const KEY: u8 = 0x5A;

impl<T: AsyncRead + Unpin> AsyncRead for Cipher<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.0).poll_read(cx, buf))?;
        buf.filled_mut()[before..].iter_mut().for_each(|byte| *byte ^= KEY);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Cipher<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let bytes: Vec<_> = buf.iter().map(|byte| byte ^ KEY).collect();
        Pin::new(&mut self.0).poll_write(cx, &bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

static RELEASE: Notify = Notify::const_new();

async fn start(dir: &TempDir, times: Times) -> (Serving, SocketAddr, JoinHandle<()>) {
    let mut hot = builder(dir, times).join().await.unwrap();
    let mut listener = hot.tcp("secret", "127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().ip().unwrap();
    let upgrade = any(async |upgrade: ws::Upgrade| upgrade.on_upgrade(async |_| ()));
    let app = Router::new()
        .route("/", get(|ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { peer.to_string() }))
        .route("/held", get(|| async { RELEASE.notified().await }))
        .route("/ws", upgrade);
    // So that the version before would give it connections, if they could migrate.
    hot.on_migrated_bytes("http/1.1", None, |_| Some(Box::new(drop::<Connection>))).unwrap();
    let hot = hot.ready().await.unwrap();
    let process = hot.clone();
    let serving = tokio::spawn(async move {
        while let Some(connection) = listener.accept().await {
            let activity = connection.activity();
            let served = hotupdate_axum::serve_connection(Cipher(connection), activity, app.clone());
            tokio::spawn(served.connect_info().into_future());
        }
        process.drained().await;
    });
    (hot, address, serving)
}

async fn connect(address: SocketAddr) -> Cipher<TcpStream> {
    Cipher(TcpStream::connect(address).await.unwrap())
}

async fn ask(client: &mut Cipher<TcpStream>, path: &str) -> String {
    client.write_all(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let own = client.0.local_addr().unwrap().to_string();
    while !answer.ends_with(own.as_bytes()) {
        assert_ne!(within(client.read_buf(&mut answer)).await.unwrap(), 0, "the connection ended");
    }
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn http1_is_told_to_close_and_idle_clients_are_closed_after_the_grace() {
    let dir = tempfile::tempdir().unwrap();
    let (old, address, serving) = start(&dir, Times { migrates: true, ..BRISK }).await;
    let (mut asks, mut idle) = (connect(address).await, connect(address).await);
    for client in [&mut asks, &mut idle] {
        let answer = ask(client, "/").await;
        assert!(
            answer.starts_with("HTTP/1.1 200 OK\r\n") && !answer.contains("connection: close"),
            "{answer}"
        );
    }
    assert_eq!(old.connections().rows()[0].protocol, "http/1.1");
    let (new, ..) = start(&dir, MIGRATING).await;
    within(old.drain().started()).await;
    let answer = ask(&mut asks, "/").await;
    assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
    for mut client in [asks, idle] {
        assert_eq!(within(client.read(&mut [0])).await.unwrap(), 0);
    }
    within(serving).await.unwrap();
    let connections = old.connections();
    assert_eq!((connections.requests(), connections.closed(), connections.forced()), (3, 2, 0));
    assert_eq!((connections.migrated(), new.connections().adopted()), (0, 0));
}

#[tokio::test]
async fn http2_gets_goaway_and_finishes_its_streams() {
    let dir = tempfile::tempdir().unwrap();
    let (old, address, serving) = start(&dir, MIGRATING).await;
    let io = TokioIo::new(connect(address).await);
    let (mut requests, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    let connection = tokio::spawn(connection);
    let held = Request::get("http://test/held").body(Empty::<Bytes>::new()).unwrap();
    let held = tokio::spawn(requests.send_request(held));
    until(|| old.connections().summary().active == 1).await;
    let _new = start(&dir, MIGRATING).await;
    within(old.drain().started()).await;
    RELEASE.notify_one();
    let answer = within(held).await.unwrap().unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    answer.into_body().collect().await.unwrap();
    within(connection).await.unwrap().unwrap();
    within(serving).await.unwrap();
    assert_eq!((old.connections().closed(), old.connections().forced()), (1, 0));
}

#[tokio::test]
async fn websockets_that_could_not_migrate_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (_hot, address, _) = start(&dir, MIGRATING).await;
    let refused = tokio_tungstenite::client_async("ws://test/ws", connect(address).await);
    match within(refused).await {
        Err(tokio_tungstenite::tungstenite::Error::Http(response)) => assert_eq!(response.status(), 426),
        other => panic!("{:?}", other.map(drop)),
    }
}
