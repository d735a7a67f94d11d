//! The words as they are.

pub(crate) use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use socket2::SockAddr;
pub(crate) use tokio::net::unix::{OwnedReadHalf as UnixReadHalf, OwnedWriteHalf as UnixWriteHalf};
pub(crate) use tokio::net::{UnixDatagram, UnixListener, UnixStream};
pub use tokio::signal::unix::SignalKind;

use crate::address::Address;
use crate::connections::Connection;

/// Whether an address may be bound while connections of an earlier process are in TIME_WAIT there, which the
/// kernel does not allow otherwise (socket(7), `SO_REUSEADDR`).
pub(crate) const REUSES_ADDRESS: bool = true;

/// Whether a file is a socket.
pub(crate) fn is_socket(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
}

/// The path that a Unix socket is bound to, if it has one.
pub(crate) fn pathname(address: &SockAddr) -> Option<PathBuf> {
    address.as_pathname().map(Path::to_owned)
}

/// For socket options. Reading and writing past the connection loses what is known of it.
impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket().as_fd()
    }
}

impl From<tokio::net::unix::SocketAddr> for Address {
    fn from(address: tokio::net::unix::SocketAddr) -> Self {
        Self::Unix(address.as_pathname().map(Path::to_owned))
    }
}

impl From<std::os::unix::net::SocketAddr> for Address {
    fn from(address: std::os::unix::net::SocketAddr) -> Self {
        Self::Unix(address.as_pathname().map(Path::to_owned))
    }
}
