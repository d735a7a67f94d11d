//! One client's connection.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use super::samples::{Kind, Sample};

/// What a client that asks for this sends.
pub(super) fn request(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: bench\r\nUser-Agent: bench\r\n\r\n").into()
}

/// A raw stream sends this, and gets it back.
pub(super) const MESSAGE: &[u8; 64] = b"the quick brown fox jumps over the lazy dog, again and again... ";

/// What the connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// It is being opened, for the request that was meant for this moment if there is one.
    Connecting(Option<u64>),
    Quiet,
    /// A request was sent that was meant for this moment.
    Waiting(u64),
}

pub(super) struct Client {
    stream: TcpStream,
    pub(super) kind: Kind,
    pub(super) phase: Phase,
    /// The answer of an idle client that has asked, until it is known whether its connection lives on.
    pub(super) kept: Option<Sample>,
    /// That answered last; 0: none has.
    pub(super) version: u32,
    unread: Vec<u8>,
}

/// A whole answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// Its status is 200.
    pub(super) is_good: bool,
    /// The number in its body, if there is one.
    pub(super) version: u32,
    /// The connection ends with it.
    pub(super) told_to_close: bool,
}

/// What came.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Came {
    /// Not all of an answer.
    Part,
    Answer(Answer),
    End,
}

impl Client {
    /// A connection that is being opened.
    pub(super) fn connect(kind: Kind, address: SocketAddr, intended: Option<u64>) -> io::Result<Self> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let fd = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        sockopt::set_tcp_nodelay(&fd, true)?;
        match rustix::net::connect(&fd, &address) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(Self {
            stream: fd.into(),
            kind,
            phase: Phase::Connecting(intended),
            kept: None,
            version: 0,
            unread: Vec::new(),
        })
    }

    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Whether it could be opened.
    pub(super) fn connected(&self) -> io::Result<()> {
        self.stream.take_error()?.map_or(Ok(()), Err)
    }

    pub(super) fn send(&mut self, intended: u64, request: &[u8]) -> io::Result<()> {
        let bytes = if self.kind == Kind::Raw { MESSAGE } else { request };
        self.phase = Phase::Waiting(intended);
        // So few bytes fit.
        if self.stream.write(bytes)? == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    pub(super) fn receive(&mut self) -> Came {
        let mut bytes = [0; 4096];
        match self.stream.read(&mut bytes) {
            Ok(0) => Came::End,
            Ok(n) => {
                self.unread.extend_from_slice(&bytes[..n]);
                let parsed = if self.kind == Kind::Raw { self.echo() } else { answer(&self.unread) };
                let Some((length, answer)) = parsed else { return Came::Part };
                self.unread.drain(..length);
                Came::Answer(answer)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Came::Part,
            Err(_) => Came::End,
        }
    }

    fn echo(&self) -> Option<(usize, Answer)> {
        let answer = Answer { is_good: true, version: 0, told_to_close: false };
        self.unread.starts_with(MESSAGE).then_some((MESSAGE.len(), answer))
    }
}

/// The first answer and its length, if all of it is there.
fn answer(bytes: &[u8]) -> Option<(usize, Answer)> {
    let head = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
    let length: usize =
        text.split_once("\r\ncontent-length:")?.1.split_once("\r\n")?.0.trim().parse().ok()?;
    let body = bytes.get(head..head + length)?;
    let number = String::from_utf8_lossy(body).trim().strip_prefix('v').and_then(|n| n.parse().ok());
    let answer = Answer {
        is_good: text.starts_with("http/1.1 200"),
        version: number.unwrap_or(0),
        told_to_close: text.contains("\r\nconnection: close\r\n"),
    };
    Some((head + length, answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_or_not_there() {
        let all = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\nv12";
        for end in 0..all.len() {
            assert_eq!(answer(&all[..end]), None, "{end}");
        }
        let closes = Answer { is_good: true, version: 12, told_to_close: true };
        assert_eq!(answer(all), Some((all.len(), closes)));
        let kept = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nv1HTTP";
        let stays = Answer { version: 1, told_to_close: false, ..closes };
        assert_eq!(answer(kept), Some((kept.len() - 4, stays)));
        let broken = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 2\r\n\r\nv1";
        assert_eq!(answer(broken), Some((broken.len(), Answer { is_good: false, ..stays })));
    }
}
