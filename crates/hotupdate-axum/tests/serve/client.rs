//! An HTTP/1.1 client that sees every byte, and how its connection ends.
//!
//! Deliberately absent: everything that would hide a mistake, such as retries.

use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::server::within;

pub(crate) struct Client<T = TcpStream> {
    pub(crate) stream: T,
    unread: Vec<u8>,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn says_close(&self) -> bool {
        self.head.contains("\r\nconnection: close\r\n")
    }
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).await.unwrap())
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Client<T> {
    pub(crate) fn over(stream: T) -> Self {
        Self { stream, unread: Vec::new() }
    }

    pub(crate) async fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    pub(crate) async fn get(&mut self, path: &str) -> Answer {
        self.ask(path).await;
        self.answer().await
    }

    pub(crate) async fn ask(&mut self, path: &str) {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n")).await;
    }

    /// Reads one response, with `Content-Length` or in chunks.
    pub(crate) async fn answer(&mut self) -> Answer {
        let mut head = self.until("\r\n\r\n").await;
        head.push_str("\r\n");
        let body = match head.split_once("content-length: ") {
            Some((_, rest)) => {
                let length = rest.split_once("\r\n").unwrap().0.parse().unwrap();
                self.exactly(length).await
            }
            None if head.contains("transfer-encoding: chunked") => self.chunks().await,
            None => String::new(),
        };
        Answer { head, body }
    }

    pub(crate) async fn chunks(&mut self) -> String {
        let mut body = String::new();
        loop {
            let chunk = self.chunk().await;
            if chunk.is_empty() {
                return body;
            }
            body.push_str(&chunk);
        }
    }

    pub(crate) async fn chunk(&mut self) -> String {
        let size = usize::from_str_radix(&self.until("\r\n").await, 16).unwrap();
        let chunk = self.exactly(size).await;
        assert_eq!(self.until("\r\n").await, "");
        chunk
    }

    pub(crate) async fn until(&mut self, end: &str) -> String {
        loop {
            if let Some(at) = self.unread.windows(end.len()).position(|window| window == end.as_bytes()) {
                let rest = self.unread.split_off(at + end.len());
                let text = std::mem::replace(&mut self.unread, rest);
                return String::from_utf8(text[..at].to_vec()).unwrap();
            }
            self.read().await;
        }
    }

    pub(crate) async fn exactly(&mut self, length: usize) -> String {
        while self.unread.len() < length {
            self.read().await;
        }
        let rest = self.unread.split_off(length);
        String::from_utf8(std::mem::replace(&mut self.unread, rest)).unwrap()
    }

    async fn read(&mut self) {
        let n = within(self.stream.read_buf(&mut self.unread)).await.unwrap();
        assert_ne!(n, 0, "the connection ended after {:?}", String::from_utf8_lossy(&self.unread));
    }

    /// The server ends the connection, in order: no byte more, and no reset.
    pub(crate) async fn ends(&mut self) {
        assert_eq!(String::from_utf8_lossy(&self.unread), "");
        let n = within(self.stream.read_buf(&mut self.unread)).await.expect("it was reset");
        assert_eq!(n, 0, "{:?}", String::from_utf8_lossy(&self.unread));
    }
}
