//! Binding listeners afresh.
//!
//! Deliberately absent: `SO_REUSEPORT`. It gives every process a queue of its own, and the clients in the old
//! one's queue are reset when it closes.

use std::io;
use std::path::Path;

use hotupdate_proto::environment::BACKLOG;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::address::Address;
use crate::platform::{self, OwnedFd};

pub(crate) fn tcp(address: &Address) -> io::Result<OwnedFd> {
    let socket = ip(address, Type::STREAM, Protocol::TCP)?;
    // Accepted connections have it from their listener (tcp(7)). Without it, an answer in two writes waits up
    // to 40 ms for the client's delayed acknowledgement.
    socket.set_tcp_nodelay(true)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

pub(crate) fn udp(address: &Address) -> io::Result<OwnedFd> {
    ip(address, Type::DGRAM, Protocol::UDP).map(OwnedFd::from)
}

fn ip(address: &Address, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let address = address.ip().ok_or(io::ErrorKind::InvalidInput)?;
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if kind == Type::STREAM && platform::REUSES_ADDRESS {
        // Connections of an earlier process in TIME_WAIT do not matter (socket(7)). UDP would share the port
        // with it.
        socket.set_reuse_address(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

pub(crate) fn unix(address: &Address) -> io::Result<OwnedFd> {
    let socket = at_path(address, Type::STREAM)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

pub(crate) fn unix_datagram(address: &Address) -> io::Result<OwnedFd> {
    at_path(address, Type::DGRAM).map(OwnedFd::from)
}

fn at_path(address: &Address, kind: Type) -> io::Result<Socket> {
    let path = address.path().ok_or(io::ErrorKind::InvalidInput)?;
    let socket = Socket::new(Domain::UNIX, kind, None)?;
    socket.set_nonblocking(true)?;
    let address = SockAddr::unix(path)?;
    match socket.bind(&address) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_stale(path, kind) => {
            std::fs::remove_file(path)?;
            socket.bind(&address)?;
        }
        bound => bound?,
    }
    Ok(socket)
}

/// Whether a socket file is what a dead process left. The lock of the control socket makes sure that no other
/// process of this service is about to use it.
fn is_stale(path: &Path, kind: Type) -> bool {
    let connect = || {
        let socket = Socket::new(Domain::UNIX, kind, None)?;
        // The queue of a live listener may be full.
        socket.set_nonblocking(true)?;
        socket.connect(&SockAddr::unix(path)?)
    };
    platform::is_socket(path)
        && connect().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_unix_socket_is_replaced_and_a_live_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let address = Address::Unix(Some(directory.path().join("app.sock")));
        for make in [unix, unix_datagram] {
            let first = make(&address).unwrap();
            assert_eq!(make(&address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
            drop(first);
            drop(make(&address).unwrap());
        }
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("precious");
        std::fs::write(&path, "data").unwrap();
        assert!(unix(&Address::Unix(Some(path.clone()))).is_err());
        assert_eq!(std::fs::read_to_string(path).unwrap(), "data");
    }
}
