//! Settings of HTTP/1.1 and HTTP/2 reach the protocol.

use std::future::IntoFuture as _;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use hotupdate::Serving;
use hotupdate_axum::Serve;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::client::Client;
use crate::http2::silent;
use crate::server::{MIGRATING, builder, until, within};

async fn start(dir: &TempDir, set: impl FnOnce(Serve) -> Serve) -> (Serving, SocketAddr) {
    let mut hot = builder(dir, MIGRATING).join().await.unwrap();
    let listener = hot.tcp("http", "127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().ip().unwrap();
    let app = Router::new().route("/", get(|| async { "answer" }));
    tokio::spawn(set(hotupdate_axum::serve(listener, app, &mut hot)).into_future());
    (hot.ready().await.unwrap(), address)
}

async fn status(address: SocketAddr, headers: &str) -> String {
    let mut client = Client::connect(address).await;
    client.send(&format!("GET / HTTP/1.1\r\nHost: test\r\n{headers}\r\n")).await;
    client.answer().await.head.lines().next().unwrap().to_owned()
}

#[tokio::test]
async fn of_http1() {
    let dir = tempfile::tempdir().unwrap();
    let (_hot, address) = start(&dir, |server| {
        server.http1(|http1| {
            http1.max_headers(3).max_header_size(300).max_buffer_size(1).title_case_headers(true)
        })
    })
    .await;
    assert_eq!(status(address, "").await, "HTTP/1.1 200 OK");
    let too_large = "HTTP/1.1 431 Request Header Fields Too Large";
    assert_eq!(status(address, "A: a\r\nB: b\r\nC: c\r\n").await, too_large);
    assert_eq!(status(address, &format!("A: {}\r\n", "a".repeat(300))).await, too_large);
    let mut client = Client::connect(address).await;
    client.ask("/").await;
    assert!(client.until("\r\n\r\n").await.contains("\r\nContent-Length: 6"));
}

#[tokio::test]
async fn of_http2() {
    let dir = tempfile::tempdir().unwrap();
    let (_hot, address) = start(&dir, |server| {
        server.http2(|http2| {
            http2
                .max_concurrent_streams(7)
                .initial_stream_window_size(u32::MAX)
                .initial_connection_window_size(u32::MAX)
                .max_frame_size(1)
                .max_header_list_size(5000)
                .max_send_buffer_size(usize::MAX)
                .keep_alive(Duration::from_millis(50), Duration::from_millis(50))
        })
    })
    .await;
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    // SETTINGS: its length, its type, flags and the stream; then pairs (RFC 9113, section 6.5).
    let mut header = [0; 9];
    within(client.read_exact(&mut header)).await.unwrap();
    assert_eq!((header[0], header[1], header[3]), (0, 0, 4));
    let mut payload = vec![0; header[2].into()];
    within(client.read_exact(&mut payload)).await.unwrap();
    let setting = |id: u16| {
        let pair = payload.chunks(6).find(|pair| pair[..2] == id.to_be_bytes())?;
        Some(u32::from_be_bytes(pair[2..].try_into().unwrap()))
    };
    let (streams, window, header_list) = (setting(3), setting(4), setting(6));
    assert_eq!((streams, window, header_list), (Some(7), Some((1 << 31) - 1), Some(5000)));
    assert_eq!(setting(5).unwrap_or(1 << 14), 1 << 14, "the smallest frame that the protocol allows");
    // A client that does not answer PING (type 6) is closed.
    let mut rest = Vec::new();
    within(client.read_to_end(&mut rest)).await.unwrap();
    assert!(rest.windows(6).any(|bytes| bytes == [0, 0, 8, 6, 0, 0]), "no PING in {rest:?}");
}

/// A connection that has arrived and rests would not notice that its client has vanished.
#[tokio::test]
async fn a_client_that_has_moved_is_pinged() {
    let dir = tempfile::tempdir().unwrap();
    let (_old, address) = start(&dir, |server| server).await;
    let mut client = silent(address).await;
    let often = Duration::from_millis(50);
    let (new, _) = start(&dir, |server| server.http2(|http2| http2.keep_alive(often, often))).await;
    until(|| new.connections().adopted() == 1).await;
    let mut ping = [0; 9];
    within(client.read_exact(&mut ping)).await.unwrap();
    assert_eq!(ping, [0, 0, 8, 6, 0, 0, 0, 0, 0]);
    within(client.read_to_end(&mut Vec::new())).await.unwrap();
}
