//! A small HTTP/1.1 client that sees every byte.
//!
//! Deliberately absent: everything a good client does to be kind: retries, pools, redirects, tolerance. A
//! response needs `Content-Length` or chunks; one that ends with the connection cannot be told from one that
//! was cut.

use std::net::SocketAddr;

use rustix::net::RecvFlags;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::tally::{Failure, FailureClass};

/// The longest head of a response.
const MAX_HEAD: usize = 16 * 1024;

/// The longest body of a response, or one chunk of it.
const MAX_BODY: usize = 16 * 1024 * 1024;

/// A connection, and what was read of it but not used yet.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    unread: Vec<u8>,
    answering: bool,
}

/// What an idle connection turns out to be.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Idle {
    Open,
    Closed,
    Spoke,
}

/// The head of a response.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) status: u16,
    /// The server says that it closes after this response.
    pub(super) close: bool,
    pub(super) content_type: String,
    pub(super) length: Length,
}

/// How the end of a body is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    Bytes(usize),
    Chunked,
}

impl Connection {
    pub(super) async fn open(address: SocketAddr) -> Result<Self, Failure> {
        let stream = TcpStream::connect(address).await.map_err(|error| Failure::io("connect", &error))?;
        stream.set_nodelay(true).map_err(|error| Failure::io("TCP_NODELAY", &error))?;
        Ok(Self { stream, unread: Vec::new(), answering: false })
    }

    /// What has happened on the connection while nothing was asked. This asks the kernel and not tokio, which
    /// would only know what epoll has told it already.
    pub(super) fn idle(&self) -> Idle {
        if !self.unread.is_empty() {
            return Idle::Spoke;
        }
        let mut byte = [0; 1];
        match rustix::net::recv(&self.stream, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Err(rustix::io::Errno::AGAIN) => Idle::Open,
            Ok((0, _)) | Err(_) => Idle::Closed,
            Ok(_) => Idle::Spoke,
        }
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.answering = false;
        self.stream.write_all(bytes).await.map_err(|error| Failure::io("send the request", &error))
    }

    /// The head of the response.
    pub(super) async fn head(&mut self) -> Result<Head, Failure> {
        loop {
            if let Some(end) = find(&self.unread, b"\r\n\r\n") {
                let head: Vec<u8> = self.unread.drain(..end + 4).collect();
                return parse_head(&head);
            }
            if self.unread.len() > MAX_HEAD {
                return Err(Failure::new(FailureClass::BadStatus, "a head without end"));
            }
            self.fill("wait for the response").await?;
        }
    }

    /// The whole body.
    pub(super) async fn body(&mut self, length: Length) -> Result<Vec<u8>, Failure> {
        match length {
            Length::Bytes(length) => self.exactly(length).await,
            Length::Chunked => {
                let mut body = Vec::new();
                while let Some(chunk) = self.chunk().await? {
                    body.extend_from_slice(&chunk);
                    ensure_size(body.len())?;
                }
                Ok(body)
            }
        }
    }

    /// The next chunk; `None` after the last one.
    pub(super) async fn chunk(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        let line = self.line().await?;
        let size = line.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(size, 16)
            .map_err(|_| Failure::new(FailureClass::BadBody, format!("not the size of a chunk: {line:?}")))?;
        ensure_size(size)?;
        let chunk = self.exactly(size).await?;
        let end = self.line().await?;
        match (end.as_str(), size) {
            ("", 0) => Ok(None),
            ("", _) => Ok(Some(chunk)),
            _ => Err(Failure::new(FailureClass::BadBody, format!("{end:?} after a chunk"))),
        }
    }

    async fn line(&mut self) -> Result<String, Failure> {
        loop {
            if let Some(end) = find(&self.unread, b"\r\n") {
                let line: Vec<u8> = self.unread.drain(..end + 2).collect();
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            if self.unread.len() > MAX_HEAD {
                return Err(Failure::new(FailureClass::BadBody, "a line without end"));
            }
            self.fill("read the body").await?;
        }
    }

    async fn exactly(&mut self, length: usize) -> Result<Vec<u8>, Failure> {
        ensure_size(length)?;
        while self.unread.len() < length {
            self.fill("read the body").await?;
        }
        Ok(self.unread.drain(..length).collect())
    }

    async fn fill(&mut self, doing: &str) -> Result<(), Failure> {
        let read =
            self.stream.read_buf(&mut self.unread).await.map_err(|error| Failure::io(doing, &error))?;
        match (read, self.answering) {
            (0, false) => {
                Err(Failure::new(FailureClass::Unanswered, format!("{doing}: closed without an answer")))
            }
            (0, true) => Err(Failure::new(FailureClass::BadBody, format!("{doing}: closed in the middle"))),
            (_, _) => {
                self.answering = true;
                Ok(())
            }
        }
    }
}

fn parse_head(head: &[u8]) -> Result<Head, Failure> {
    let bad = |why: &str| {
        Failure::new(FailureClass::BadStatus, format!("{why}: {:?}", String::from_utf8_lossy(head)))
    };
    let text = std::str::from_utf8(head).map_err(|_| bad("not text"))?;
    let mut lines = text.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")).and_then(|line| line.get(..3));
    let status = status.and_then(|code| code.parse().ok()).ok_or_else(|| bad("not HTTP/1.1"))?;
    let (mut close, mut content_type, mut length) = (false, String::new(), None);
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        let value = value.trim().to_ascii_lowercase();
        match name.to_ascii_lowercase().as_str() {
            "connection" => close |= value.split(',').any(|option| option.trim() == "close"),
            "content-type" => content_type = value,
            "content-length" => length = Some(Length::Bytes(value.parse().map_err(|_| bad("a bad length"))?)),
            "transfer-encoding" if value == "chunked" => length = Some(Length::Chunked),
            _ => {}
        }
    }
    let length = length.ok_or_else(|| bad("no length"))?;
    Ok(Head { status, close, content_type, length })
}

fn ensure_size(size: usize) -> Result<(), Failure> {
    if size <= MAX_BODY {
        return Ok(());
    }
    Err(Failure::new(FailureClass::BadBody, format!("{size} bytes are more than were asked for")))
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_heads() {
        let head =
            parse_head(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive, Close\r\n\r\n");
        let head = head.expect("a good head");
        assert_eq!((head.status, head.close, head.length), (200, true, Length::Bytes(5)));
        let head = parse_head(b"HTTP/1.1 503 No\r\ntransfer-encoding: chunked\r\n\r\n").expect("a good head");
        assert_eq!((head.status, head.close, head.length), (503, false, Length::Chunked));
    }

    #[test]
    fn refuses_what_is_no_head() {
        for bad in ["", "SSH-2.0-OpenSSH\r\n\r\n", "HTTP/1.1 2\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n"] {
            let failure = parse_head(bad.as_bytes()).expect_err(bad);
            assert_eq!(failure.class, FailureClass::BadStatus);
        }
    }
}
