//! What a handler asks of an upgrade, without any migration.
//!
//! Deliberately absent: what is no upgrade, see the unit tests of `src/ws/upgrade.rs`.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::client::{Client, frame};
use crate::server::{start, version};
use crate::within;

#[tokio::test]
async fn a_message_that_is_too_large_and_a_subprotocol() {
    let dir = tempfile::tempdir().unwrap();
    let (_hot, address) = start(&dir, version(1)).await;
    let mut client = Client::connect(address, "/echo").await;
    client.raw(&frame(0x82, &vec![0; (2 << 20) + 1])[..100]).await;
    client.expect_close(1009).await;

    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = "GET /echo HTTP/1.1\r\nHost: test\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
        Sec-WebSocket-Protocol: letters, numbers\r\n\r\n";
    // The first message comes right behind the request.
    stream.write_all(&[request.as_bytes(), &frame(0x81, b"early")].concat()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"1:1:early") {
        assert_ne!(within(stream.read_buf(&mut answer)).await.unwrap(), 0);
    }
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    assert!(answer.contains("\r\nsec-websocket-protocol: numbers\r\n"), "{answer}");
    assert!(answer.contains("\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{answer}");
}
