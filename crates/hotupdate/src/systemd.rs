//! Listeners that systemd opened for us (sd_listen_fds(3)).
//!
//! Deliberately absent: descriptors that are not sockets; the library that takes them over knows sockets only.

use std::env;
use std::io;
use std::os::fd::OwnedFd;

use listenfd::ListenFd;

use crate::offered::{Offered, Origin};

/// The name that systemd gives a descriptor without `FileDescriptorName=`, if it gives any (sd_listen_fds_with_names(3)).
const UNNAMED: &str = "unknown";

/// Takes over what `LISTEN_FDS` names, if `LISTEN_PID` is this process.
pub(crate) fn listeners() -> Vec<Offered> {
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':').filter(|name| !name.is_empty());
    let mut passed = ListenFd::from_env();
    let mut offered = Vec::new();
    for index in 0..passed.len() {
        let name = names.next().unwrap_or(UNNAMED);
        match take(&mut passed, index).and_then(|fd| Offered::examine(name, fd, Origin::Systemd)) {
            Ok(listener) => offered.push(listener),
            Err(error) => tracing::warn!(name, index, %error, "a descriptor from systemd is not used"),
        }
    }
    offered
}

fn take(passed: &mut ListenFd, index: usize) -> io::Result<OwnedFd> {
    let nothing = || io::Error::from(io::ErrorKind::NotFound);
    passed
        .take_tcp_listener(index)
        .and_then(|fd| fd.map(OwnedFd::from).ok_or_else(nothing))
        .or_else(|_| passed.take_unix_listener(index)?.map(OwnedFd::from).ok_or_else(nothing))
        .or_else(|_| passed.take_udp_socket(index)?.map(OwnedFd::from).ok_or_else(nothing))
        .or_else(|_| passed.take_unix_datagram(index)?.map(OwnedFd::from).ok_or_else(nothing))
}
