//! One client's connection.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use super::samples::Kind;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: bench\r\nUser-Agent: bench\r\n\r\n";

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
    unread: Vec<u8>,
}

/// What came.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Came {
    /// Not all of an answer.
    Part,
    Answer {
        version: u32,
        told_to_close: bool,
    },
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
        Ok(Self { stream: fd.into(), kind, phase: Phase::Connecting(intended), unread: Vec::new() })
    }

    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Whether it could be opened.
    pub(super) fn connected(&self) -> io::Result<()> {
        self.stream.take_error()?.map_or(Ok(()), Err)
    }

    pub(super) fn send(&mut self, intended: u64) -> io::Result<()> {
        let bytes: &[u8] = if self.kind == Kind::Raw { MESSAGE } else { REQUEST };
        self.phase = Phase::Waiting(intended);
        // So few bytes fit.
        if self.stream.write(bytes)? == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    pub(super) fn receive(&mut self) -> Came {
        let mut bytes = [0; 1024];
        match self.stream.read(&mut bytes) {
            Ok(0) => Came::End,
            Ok(n) => {
                self.unread.extend_from_slice(&bytes[..n]);
                let parsed = if self.kind == Kind::Raw { self.echo() } else { answer(&self.unread) };
                let Some((length, version, told_to_close)) = parsed else { return Came::Part };
                self.unread.drain(..length);
                Came::Answer { version, told_to_close }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Came::Part,
            Err(_) => Came::End,
        }
    }

    fn echo(&self) -> Option<(usize, u32, bool)> {
        self.unread.starts_with(MESSAGE).then_some((MESSAGE.len(), 0, false))
    }
}

/// The length of the first answer, its body's number (0: it has none, or it is an error), and whether the
/// connection ends with it.
fn answer(bytes: &[u8]) -> Option<(usize, u32, bool)> {
    let head = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
    let length: usize =
        text.split_once("\r\ncontent-length:")?.1.split_once("\r\n")?.0.trim().parse().ok()?;
    let body = bytes.get(head..head + length)?;
    let number = String::from_utf8_lossy(body).trim().strip_prefix('v').and_then(|n| n.parse().ok());
    let version = if text.starts_with("http/1.1 200") { number.unwrap_or(0) } else { 0 };
    Some((head + length, version, text.contains("\r\nconnection: close\r\n")))
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
        assert_eq!(answer(all), Some((all.len(), 12, true)));
        let kept = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nv1HTTP";
        assert_eq!(answer(kept), Some((kept.len() - 4, 1, false)));
        let broken = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 2\r\n\r\nv1";
        assert_eq!(answer(broken), Some((broken.len(), 0, false)));
    }
}
