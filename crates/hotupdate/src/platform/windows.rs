//! The words of Unix for what Windows has: a descriptor is a socket. Unix sockets there are none, so what
//! would hold one is a type without a value.

use std::convert::Infallible;
use std::io::{self, IoSlice};
use std::os::windows::io::AsSocket;
pub(crate) use std::os::windows::io::{BorrowedSocket as BorrowedFd, OwnedSocket as OwnedFd};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use socket2::SockAddr;
use tokio::io::{AsyncRead, Interest, ReadBuf};

use crate::address::Address;
use crate::connections::Connection;

/// `SO_REUSEADDR` would let another program take the address away.
pub(crate) const REUSES_ADDRESS: bool = false;

/// No file is one.
pub(crate) fn is_socket(_: &Path) -> bool {
    false
}

/// No socket has one.
pub(crate) fn pathname(_: &SockAddr) -> Option<PathBuf> {
    None
}

/// What has a socket.
pub(crate) trait AsFd {
    fn as_fd(&self) -> BorrowedFd<'_>;
}

impl<T: AsSocket> AsFd for T {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.as_socket()
    }
}

/// For socket options. Reading and writing past the connection loses what is known of it.
impl AsSocket for Connection {
    fn as_socket(&self) -> BorrowedFd<'_> {
        self.socket().as_fd()
    }
}

/// A signal that starts a successor. None comes on this system; the words are there so that a program that
/// names one can be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SignalKind(i32);

impl SignalKind {
    /// SIGHUP.
    #[must_use]
    pub const fn hangup() -> Self {
        Self(1)
    }

    /// SIGUSR1.
    #[must_use]
    pub const fn user_defined1() -> Self {
        Self(10)
    }

    /// SIGUSR2.
    #[must_use]
    pub const fn user_defined2() -> Self {
        Self(12)
    }

    /// The signal of this number.
    #[must_use]
    pub const fn from_raw(number: i32) -> Self {
        Self(number)
    }

    /// The number of the signal.
    #[must_use]
    pub const fn as_raw_value(&self) -> i32 {
        self.0
    }
}

/// The address of what there is none of.
pub(crate) struct NoAddress(Infallible);

impl From<NoAddress> for Address {
    fn from(address: NoAddress) -> Self {
        match address.0 {}
    }
}

/// Says that there are no Unix sockets.
fn none<T>() -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "there are no Unix sockets on this system"))
}

/// A Unix stream socket, of which there is none.
#[derive(Debug)]
pub(crate) struct UnixStream(Infallible);

impl UnixStream {
    pub(crate) fn from_std(_: OwnedFd) -> io::Result<Self> {
        none()
    }

    pub(crate) fn poll_read_ready(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.0 {}
    }

    pub(crate) fn poll_write_ready(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.0 {}
    }

    pub(crate) fn try_io<R>(&self, _: Interest, _: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
        match self.0 {}
    }

    pub(crate) fn try_write_vectored(&self, _: &[IoSlice<'_>]) -> io::Result<usize> {
        match self.0 {}
    }

    pub(crate) fn into_split(self) -> (UnixReadHalf, UnixWriteHalf) {
        match self.0 {}
    }
}

/// A half of what there is none of.
#[derive(Debug)]
pub(crate) struct UnixReadHalf(Infallible);

impl AsyncRead for UnixReadHalf {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.0 {}
    }
}

/// The other half.
#[derive(Debug)]
pub(crate) struct UnixWriteHalf(Infallible);

impl UnixWriteHalf {
    pub(crate) fn forget(self) {
        match self.0 {}
    }
}

impl AsRef<UnixStream> for UnixWriteHalf {
    fn as_ref(&self) -> &UnixStream {
        match self.0 {}
    }
}

impl AsSocket for UnixStream {
    fn as_socket(&self) -> BorrowedFd<'_> {
        match self.0 {}
    }
}

/// A Unix stream listener, of which there is none.
#[derive(Debug)]
pub(crate) struct UnixListener(Infallible);

impl UnixListener {
    pub(crate) fn from_std(_: OwnedFd) -> io::Result<Self> {
        none()
    }

    pub(crate) fn into_std(self) -> io::Result<OwnedFd> {
        match self.0 {}
    }

    pub(crate) fn poll_accept(&self, _: &mut Context<'_>) -> Poll<io::Result<(UnixStream, NoAddress)>> {
        match self.0 {}
    }
}

impl AsSocket for UnixListener {
    fn as_socket(&self) -> BorrowedFd<'_> {
        match self.0 {}
    }
}

/// A Unix datagram socket, of which there is none.
#[derive(Debug)]
pub(crate) struct UnixDatagram(Infallible);

impl UnixDatagram {
    pub(crate) fn from_std(_: OwnedFd) -> io::Result<Self> {
        none()
    }

    pub(crate) fn into_std(self) -> io::Result<OwnedFd> {
        match self.0 {}
    }

    pub(crate) fn poll_recv_from(
        &self,
        _: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<NoAddress>> {
        match self.0 {}
    }

    pub(crate) fn poll_send_to(&self, _: &mut Context<'_>, _: &[u8], _: &Path) -> Poll<io::Result<usize>> {
        match self.0 {}
    }
}

impl AsSocket for UnixDatagram {
    fn as_socket(&self) -> BorrowedFd<'_> {
        match self.0 {}
    }
}
