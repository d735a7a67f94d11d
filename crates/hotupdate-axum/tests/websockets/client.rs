//! A client that can send half of something.
//!
//! Deliberately absent: masks that hide something.

use std::net::SocketAddr;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::within;

pub(crate) struct Client {
    pub(crate) socket: WebSocketStream<TcpStream>,
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr, path: &str) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (socket, _) =
            within(tokio_tungstenite::client_async(format!("ws://test{path}"), stream)).await.unwrap();
        Self { socket }
    }

    pub(crate) async fn say(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.unwrap();
    }

    pub(crate) async fn raw(&mut self, bytes: &[u8]) {
        self.socket.get_mut().write_all(bytes).await.unwrap();
    }

    pub(crate) async fn hear(&mut self) -> Message {
        within(self.socket.next()).await.expect("the connection ended").expect("the connection failed")
    }

    pub(crate) async fn text(&mut self) -> String {
        match self.hear().await {
            Message::Text(text) => text.to_string(),
            other => panic!("{other:?} instead of a text"),
        }
    }

    /// Sends the beginning of something in one piece with a message, so that the server has read both when it
    /// answers.
    pub(crate) async fn begin(&mut self, beginning: &[u8]) {
        self.raw(&[&frame(0x81, b"first"), beginning].concat()).await;
        let answer = self.text().await;
        assert!(answer.ends_with(":1:first"), "{answer}");
    }

    pub(crate) async fn expect_close(&mut self, code: u16) {
        match self.hear().await {
            Message::Close(Some(close)) => assert_eq!(u16::from(close.code), code, "{close:?}"),
            other => panic!("{other:?} instead of a close frame"),
        }
        // Sends the answer, if it is due; then the server closes.
        assert!(within(self.socket.next()).await.is_none_or(|rest| rest.is_err()));
        let mut rest = Vec::new();
        within(self.socket.get_mut().read_to_end(&mut rest)).await.unwrap();
        assert_eq!(rest, b"");
    }
}

/// A frame with a mask of zeros.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        short @ 0..126 => bytes.push(0x80 | u8::try_from(short).unwrap()),
        long => {
            bytes.push(0x80 | 127);
            bytes.extend(u64::try_from(long).unwrap().to_be_bytes());
        }
    }
    bytes.extend([0; 4]);
    bytes.extend(payload);
    bytes
}
