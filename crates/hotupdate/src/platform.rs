//! What the kernel calls its descriptors and sockets: on Unix as it is, and on Windows the same words for
//! what is there.
//!
//! Deliberately absent: what a handoff needs. Where there is none, `portable` takes the place of the modules
//! that hand over.

#[cfg(unix)]
mod unix;
#[cfg(unix)]
pub use unix::SignalKind;
#[cfg(unix)]
pub(crate) use unix::{
    AsFd, BorrowedFd, OwnedFd, REUSES_ADDRESS, UnixDatagram, UnixListener, UnixReadHalf, UnixStream,
    UnixWriteHalf, is_socket, pathname,
};

#[cfg(windows)]
mod windows;
#[cfg(windows)]
pub use windows::SignalKind;
#[cfg(windows)]
pub(crate) use windows::{
    AsFd, BorrowedFd, OwnedFd, REUSES_ADDRESS, UnixDatagram, UnixListener, UnixReadHalf, UnixStream,
    UnixWriteHalf, is_socket, pathname,
};
