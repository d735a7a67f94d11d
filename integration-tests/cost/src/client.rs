//! A client that does one thing after the other and waits for each answer, so that a server does the same
//! work in every run.
//!
//! Deliberately absent: a library. What it sends is the same bytes every time, and it understands just the
//! answers of the two servers that are compared.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

/// No answer takes longer, even in a server that is interpreted on a machine that has much else to do.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    Http2,
}

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Request {
    /// `GET /`: a few bytes come back.
    Hello,
    /// `POST /json` with a body of 1 KiB, which comes back.
    Json,
    /// `POST /echo` with a body of 100 kB, which comes back.
    Large,
    /// `GET /part`: the end of a part of what is counted.
    Part,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Client {
    stream: TcpStream,
    protocol: Protocol,
    unread: Vec<u8>,
    next_stream: u32,
    settings_confirmed: bool,
}

impl Client {
    pub(crate) fn connect(to: SocketAddr, protocol: Protocol) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(to).context("cannot connect")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, protocol, unread: Vec::new(), next_stream: 1, settings_confirmed: false })
    }

    /// Asks, and waits for the whole answer.
    pub(crate) fn ask(&mut self, request: Request) -> anyhow::Result<()> {
        match self.protocol {
            Protocol::Http1 => {
                self.stream.write_all(&http1_request(request))?;
                self.http1_answer()
            }
            Protocol::Http2 => self.ask_http2(request),
        }
    }

    /// Says that nothing more comes, and waits until the server has closed.
    pub(crate) fn close(mut self) -> anyhow::Result<()> {
        self.stream.shutdown(Shutdown::Write)?;
        match io::copy(&mut self.stream, &mut io::sink()) {
            Err(error) if error.kind() != io::ErrorKind::ConnectionReset => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn http1_answer(&mut self) -> anyhow::Result<()> {
        let head = loop {
            if let Some(at) = self.unread.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            self.read()?;
        };
        let text = std::str::from_utf8(&self.unread[..head])?.to_ascii_lowercase();
        ensure!(text.starts_with("http/1.1 200 "), "the answer is {text:?}");
        let body = text.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
        let whole = head + body.context("an answer without a length")?.parse::<usize>()?;
        while self.unread.len() < whole {
            self.read()?;
        }
        self.unread.drain(..whole);
        Ok(())
    }

    fn ask_http2(&mut self, request: Request) -> anyhow::Result<()> {
        let stream = self.next_stream;
        self.next_stream += 2;
        let mut bytes = Vec::new();
        if stream == 1 {
            bytes.extend_from_slice(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
            frame(&mut bytes, frames::SETTINGS, 0, 0, &frames::ROOM_FOR_AN_ANSWER);
            // For all answers of the connection together.
            frame(&mut bytes, frames::WINDOW_UPDATE, 0, 0, &(1_u32 << 30).to_be_bytes());
        }
        let (head, body) = http2_request(request);
        let end = if body.is_empty() { frames::END_STREAM } else { 0 };
        frame(&mut bytes, frames::HEADERS, frames::END_HEADERS | end, stream, &head);
        let mut pieces = body.chunks(frames::LONGEST).peekable();
        while let Some(piece) = pieces.next() {
            let end = if pieces.peek().is_none() { frames::END_STREAM } else { 0 };
            frame(&mut bytes, frames::DATA, end, stream, piece);
        }
        self.stream.write_all(&bytes)?;
        let mut answered = false;
        while !(answered && self.settings_confirmed) {
            let (kind, flags, of) = self.http2_frame()?;
            match kind {
                frames::SETTINGS if flags & frames::ACK != 0 => self.settings_confirmed = true,
                frames::SETTINGS => {
                    let mut bytes = Vec::new();
                    frame(&mut bytes, frames::SETTINGS, frames::ACK, 0, &[]);
                    self.stream.write_all(&bytes)?;
                }
                frames::HEADERS | frames::DATA if of == stream => {
                    answered |= flags & frames::END_STREAM != 0;
                }
                frames::WINDOW_UPDATE => {}
                _ => bail!("a frame of type {kind} for stream {of}"),
            }
        }
        Ok(())
    }

    fn http2_frame(&mut self) -> anyhow::Result<(u8, u8, u32)> {
        while self.unread.len() < frames::HEAD {
            self.read()?;
        }
        let head: [u8; frames::HEAD] = self.unread[..frames::HEAD].try_into()?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let whole = frames::HEAD + u32::from_be_bytes([0, a, b, c]) as usize;
        while self.unread.len() < whole {
            self.read()?;
        }
        self.unread.drain(..whole);
        Ok((kind, flags, u32::from_be_bytes(stream)))
    }

    fn read(&mut self) -> anyhow::Result<()> {
        let mut bytes = [0; 4096];
        let n = self.stream.read(&mut bytes)?;
        ensure!(n > 0, "the server has closed the connection");
        self.unread.extend_from_slice(&bytes[..n]);
        Ok(())
    }
}

/// Of RFC 9113, section 6.
mod frames {
    pub(super) const HEAD: usize = 9;
    /// Bytes of a payload, as long as nothing else is said.
    pub(super) const LONGEST: usize = 16_384;
    pub(super) const DATA: u8 = 0;
    pub(super) const HEADERS: u8 = 1;
    pub(super) const SETTINGS: u8 = 4;
    pub(super) const WINDOW_UPDATE: u8 = 8;
    pub(super) const ACK: u8 = 1;
    pub(super) const END_STREAM: u8 = 1;
    pub(super) const END_HEADERS: u8 = 4;
    /// `SETTINGS_INITIAL_WINDOW_SIZE` of 1 MiB.
    pub(super) const ROOM_FOR_AN_ANSWER: [u8; 6] = [0, 4, 0, 0x10, 0, 0];
}

fn frame(bytes: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let [_, length @ ..] = u32::try_from(payload.len()).expect("frames are short").to_be_bytes();
    bytes.extend_from_slice(&length);
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
}

fn http1_request(request: Request) -> Vec<u8> {
    let end = "host: localhost\r\nuser-agent: cost/1\r\naccept: */*\r\n";
    match request {
        Request::Hello => format!("GET / HTTP/1.1\r\n{end}\r\n"),
        Request::Part => format!("GET /part HTTP/1.1\r\n{end}\r\n"),
        Request::Json | Request::Large => {
            let (path, kind, body) = posted(request);
            let length = body.len();
            format!(
                "POST {path} HTTP/1.1\r\n{end}content-type: {kind}\r\ncontent-length: {length}\r\n\r\n{body}"
            )
        }
    }
    .into()
}

/// Header fields with indices of RFC 7541, appendix A, and without Huffman's code; and the body.
fn http2_request(request: Request) -> (Vec<u8>, Vec<u8>) {
    let literal = |head: &mut Vec<u8>, name: &[u8], value: &str| {
        head.extend_from_slice(name);
        head.push(u8::try_from(value.len()).expect("values are short"));
        head.extend_from_slice(value.as_bytes());
    };
    let mut head = vec![0x86]; // :scheme http
    literal(&mut head, &[0x01], "localhost"); // :authority
    match request {
        Request::Hello => {
            head.extend_from_slice(&[0x82, 0x84]); // :method GET, :path /
            (head, Vec::new())
        }
        Request::Part => unreachable!("parts are ended over HTTP/1.1"),
        Request::Json | Request::Large => {
            let (path, kind, body) = posted(request);
            head.push(0x83); // :method POST
            literal(&mut head, &[0x04], path);
            literal(&mut head, &[0x0f, 0x10], kind); // content-type
            literal(&mut head, &[0x0f, 0x0d], &body.len().to_string()); // content-length
            (head, body.into_bytes())
        }
    }
}

/// Where to, of which type, and what.
fn posted(request: Request) -> (&'static str, &'static str, String) {
    match request {
        Request::Large => ("/echo", "text/plain", "0123456789".repeat(10_000)),
        // 1 KiB.
        _ => ("/json", "application/json", format!("[\"{}\"]", "0123456789".repeat(102))),
    }
}
