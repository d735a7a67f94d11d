//! Listening sockets, as the kernel knows them.

use std::fs;
use std::net::{SocketAddr, TcpListener};

/// An address that was free a moment ago.
///
/// # Panics
///
/// If no port is free.
#[must_use]
pub fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("some port is free");
    listener.local_addr().expect("a bound socket has an address")
}

/// The inode of the socket that listens there: the socket is the same as long as this is.
///
/// # Panics
///
/// If there is none, or more than one.
#[must_use]
#[track_caller]
pub fn listening_inode(address: SocketAddr) -> u64 {
    const LISTEN: &str = "0A";
    let table = fs::read_to_string("/proc/net/tcp").expect("there is /proc");
    let port = format!(":{:04X}", address.port());
    let fields = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let found =
        fields.filter(|fields| fields[1].ends_with(&port) && fields[3] == LISTEN).map(|fields| fields[9]);
    let inodes: Vec<u64> = found.filter_map(|inode| inode.parse().ok()).collect();
    assert_eq!(inodes.len(), 1, "what listens at {address}: {inodes:?}");
    inodes[0]
}
