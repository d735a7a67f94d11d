//! systemd: listeners that it passed to us, and what it is told.
//!
//! Deliberately absent: descriptors that are not sockets; the library that takes them over knows sockets
//! only.

mod name;

mod manager;
pub(crate) use manager::Manager;

mod watchdog;
pub(crate) use watchdog::Watchdog;

use std::env;
use std::io;
use std::os::fd::OwnedFd;

use listenfd::ListenFd;

use crate::listeners::inherited::{Offered, Origin};

/// The name that systemd gives a descriptor without `FileDescriptorName=`, if it gives any
/// (sd_listen_fds_with_names(3)).
const UNNAMED: &str = "unknown";

/// Takes over what `LISTEN_FDS` names, if `LISTEN_PID` is this process: listeners of socket units, and what
/// an earlier process of this service left in the descriptor store.
pub(crate) fn listeners() -> Vec<Offered> {
    let names = env::var_os("LISTEN_FDNAMES").unwrap_or_default();
    // What is no text becomes a name that no application asks for; the rest keep theirs.
    let names = names.to_string_lossy();
    let mut names = names.split(':').filter(|name| !name.is_empty());
    let mut passed = ListenFd::from_env();
    let mut offered: Vec<Offered> = Vec::new();
    for index in 0..passed.len() {
        let said = names.next().unwrap_or(UNNAMED);
        let stored = name::decode(said);
        let origin = if stored.is_some() { Origin::Stored } else { Origin::Systemd };
        let name = stored.as_deref().unwrap_or(said);
        match take(&mut passed, index).and_then(|fd| Offered::examine(name, fd, origin)) {
            // The listener of a socket unit, which comes first, is in the store too.
            Ok(listener) if offered.iter().any(|before| before.is_same_socket(&listener)) => {}
            Ok(listener) => offered.push(listener),
            Err(error) => tracing::warn!(name, index, %error, "a descriptor from systemd is not used"),
        }
    }
    offered
}

/// Whether `LISTEN_FDS` speaks of sockets that are for another process, in one line that says what to do.
///
/// A process has to ignore them (sd_listen_fds(3)), and most often it was to have them.
pub(crate) fn misdirected() -> Option<String> {
    let number = |name| env::var(name).ok()?.trim().parse::<u32>().ok();
    let (sockets, pid) = (number("LISTEN_FDS").filter(|sockets| *sockets > 0)?, number("LISTEN_PID")?);
    let ours = std::process::id();
    let parent = rustix::process::getppid().map(|parent| parent.as_raw_nonzero().get().unsigned_abs());
    let who = match Some(pid) == parent {
        _ if pid == ours => return None,
        true => "the process that started this one",
        false => "another process",
    };
    let sockets = if sockets == 1 { "a socket".to_owned() } else { format!("{sockets} sockets") };
    Some(format!(
        "LISTEN_FDS passes {sockets} to {pid} (LISTEN_PID), {who}, and not to this one, {ours}: that is \
         ignored here; if a script starts this program, it has to `exec` it"
    ))
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
