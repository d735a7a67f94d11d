//! `--listen NAME=ADDRESS`, and its listening socket.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use clap::builder::{OsStringValueParser, TypedValueParser};
use hotupdate_proto::environment::BACKLOG;
use serde::{Deserialize, Serialize};
use socket2::{Domain, SockAddr, Socket, Type};

/// `FDNAME_MAX` in systemd's `src/basic/fd-util.h`.
const MAX_NAME: usize = 255;

/// `NAME=ADDRESS` on the command line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct ListenSpec {
    pub(crate) name: String,
    pub(crate) address: Address,
}

/// Where it listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// `HOST:PORT`
    Tcp(String),
    Unix(PathBuf),
}

impl ListenSpec {
    /// For clap. The path of a Unix socket may be any bytes, all else is text.
    pub(crate) fn parser() -> impl TypedValueParser<Value = Self> {
        OsStringValueParser::new().try_map(|argument| Self::parse(&argument))
    }

    fn parse(argument: &OsStr) -> Result<Self, String> {
        let bytes = argument.as_bytes();
        let equals = bytes.iter().position(|byte| *byte == b'=').ok_or("not NAME=ADDRESS")?;
        let (name, address) = (&bytes[..equals], &bytes[equals + 1..]);
        // What systemd allows in LISTEN_FDNAMES (fdname_is_valid in its `src/basic/fd-util.c`).
        let allowed = |byte: u8| (b' '..127).contains(&byte) && byte != b':';
        if name.is_empty() || name.len() > MAX_NAME || !name.iter().copied().all(allowed) {
            return Err(format!("a name has 1 to {MAX_NAME} printable ASCII characters and no colon"));
        }
        let has_port = |tcp: &&str| tcp.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let address = if address.contains(&b'/') {
            Address::Unix(OsStr::from_bytes(address).into())
        } else if let Some(tcp) = str::from_utf8(address).ok().filter(has_port) {
            Address::Tcp(tcp.to_owned())
        } else {
            return Err("an address is HOST:PORT, or a path with a slash in it".to_owned());
        };
        Ok(Self { name: String::from_utf8_lossy(name).into_owned(), address })
    }

    /// What is meant in another working directory, too.
    pub(crate) fn absolute(&self) -> io::Result<Self> {
        let address = match &self.address {
            Address::Unix(path) => Address::Unix(std::path::absolute(path)?),
            tcp @ Address::Tcp(_) => tcp.clone(),
        };
        Ok(Self { name: self.name.clone(), address })
    }

    /// The listening socket, and where it listens.
    pub(crate) fn listen(&self) -> io::Result<(Socket, String)> {
        match &self.address {
            Address::Unix(path) => Ok((unix(path)?, path.display().to_string())),
            Address::Tcp(address) => {
                let mut error = io::Error::new(io::ErrorKind::AddrNotAvailable, "the name has no address");
                for address in address.to_socket_addrs()? {
                    match tcp(address).and_then(|socket| Ok((socket.local_addr()?.as_socket(), socket))) {
                        Ok((bound, socket)) => return Ok((socket, bound.unwrap_or(address).to_string())),
                        Err(failed) => error = failed,
                    }
                }
                Err(error)
            }
        }
    }
}

impl TryFrom<String> for ListenSpec {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(OsStr::new(&text))
    }
}

impl From<ListenSpec> for String {
    fn from(spec: ListenSpec) -> Self {
        spec.to_string()
    }
}

impl fmt::Display for ListenSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            Address::Tcp(address) => write!(f, "{}={address}", self.name),
            Address::Unix(path) => write!(f, "{}={}", self.name, path.display()),
        }
    }
}

/// With the options that the library sets where it binds itself.
fn tcp(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

fn unix(path: &Path) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    let address = SockAddr::unix(path)?;
    match socket.bind(&address) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_stale(path) => {
            std::fs::remove_file(path)?;
            socket.bind(&address)?;
        }
        bound => bound?,
    }
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// Whether a socket file was left by a process that has exited. As in the library's `listeners/bind.rs`,
/// which binds for services alone; `hold` binds for a program, and `hotupdate-proto` may not know sockets.
fn is_stale(path: &Path) -> bool {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    let connect = || {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        // The queue of a live listener may be full.
        socket.set_nonblocking(true)?;
        socket.connect(&SockAddr::unix(path)?)
    };
    is_socket && connect().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listen_spec_is_a_name_with_an_address() {
        for good in ["http=0.0.0.0:80", "a b=[::1]:0", "http=localhost:8080", "x=/run/x.sock", "x=./a=b"] {
            assert_eq!(ListenSpec::parse(OsStr::new(good)).unwrap().to_string(), good);
        }
        for wrong in
            ["", "http", "=1.2.3.4:5", "a:b=1.2.3.4:5", "ü=1.2.3.4:5", "http=80", "http=:http", "x=file"]
        {
            assert!(ListenSpec::parse(OsStr::new(wrong)).is_err(), "{wrong}");
        }
        let spec = ListenSpec::parse(OsStr::from_bytes(b"x=/run/\xff.sock")).unwrap();
        assert_eq!(spec.address, Address::Unix(OsStr::from_bytes(b"/run/\xff.sock").into()));
        assert!(ListenSpec::parse(OsStr::from_bytes(b"x=\xff:80")).is_err());
    }

    #[test]
    fn a_stale_unix_socket_is_replaced_and_a_live_one_or_a_file_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.sock");
        let first = unix(&path).unwrap();
        assert_eq!(unix(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        drop(unix(&path).unwrap());
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "data").unwrap();
        assert!(unix(&path).is_err());
        assert_eq!(std::fs::read_to_string(path).unwrap(), "data");
    }
}
