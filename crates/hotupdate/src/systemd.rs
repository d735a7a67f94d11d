//! systemd: listeners that it passed to us, state that an earlier process of this service stored, and what it
//! is told.
//!
//! Deliberately absent: other descriptors; the library that takes them over knows sockets only.

mod name;
pub(crate) use name::Kind;

mod manager;
pub(crate) use manager::Manager;

mod watchdog;
pub(crate) use watchdog::Watchdog;

use std::collections::HashMap;
use std::env;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use listenfd::ListenFd;

use crate::listeners::inherited::{Offered, Origin};
use crate::sealed;
use crate::state::Found;

/// The name that systemd gives a descriptor without `FileDescriptorName=`, if it gives any
/// (sd_listen_fds_with_names(3)).
const UNNAMED: &str = "unknown";

/// What systemd passed to this process.
#[derive(Debug, Default)]
pub(crate) struct Passed {
    pub(crate) offered: Vec<Offered>,
    /// By name.
    pub(crate) states: HashMap<String, Found>,
}

/// Takes over what `LISTEN_FDS` names, if `LISTEN_PID` is this process: listeners of socket units, and what
/// an earlier process of this service left in the descriptor store.
pub(crate) fn passed() -> Passed {
    // What is not taken over below is not for children, either.
    if let Err(error) = sd_notify::listen_fds() {
        tracing::warn!(%error, "descriptors from systemd may pass to children of this process");
    }
    let names = env::var_os("LISTEN_FDNAMES").unwrap_or_default();
    // What is no text becomes a name that no application asks for; the rest keep theirs.
    let names = names.to_string_lossy();
    let mut names = names.split(':').filter(|name| !name.is_empty());
    let mut descriptors = ListenFd::from_env();
    let Passed { mut offered, mut states } = Passed::default();
    for index in 0..descriptors.len() {
        let said = names.next().unwrap_or(UNNAMED);
        let (origin, name) = match name::decode(said) {
            Some((Kind::State, name)) => {
                match state(&mut descriptors, index) {
                    Ok(found) => drop(states.insert(name, found)),
                    Err(error) => tracing::warn!(name, index, %error, "a state from systemd is not used"),
                }
                continue;
            }
            Some((Kind::Listener, name)) => (Origin::Stored, name),
            None => (Origin::Systemd, said.to_owned()),
        };
        match take(&mut descriptors, index).and_then(|fd| Offered::examine(&name, fd, origin)) {
            // The listener of a socket unit, which comes first, is in the store too.
            Ok(listener) if offered.iter().any(|before| before.is_same_socket(&listener)) => {}
            Ok(listener) => offered.push(listener),
            Err(error) => tracing::warn!(name, index, %error, "a descriptor from systemd is not used"),
        }
    }
    Passed { offered, states }
}

/// The library cannot take over a descriptor that is no socket, so the file is opened once more. The first
/// descriptor stays open, for this process alone.
fn state(descriptors: &mut ListenFd, index: usize) -> io::Result<Found> {
    let number = descriptors.take_raw_fd(index)?.ok_or(io::ErrorKind::NotFound)?;
    sealed::read_stored(File::open(format!("/proc/self/fd/{number}"))?)
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

fn take(descriptors: &mut ListenFd, index: usize) -> io::Result<OwnedFd> {
    let nothing = || io::Error::from(io::ErrorKind::NotFound);
    descriptors
        .take_tcp_listener(index)
        .and_then(|fd| fd.map(OwnedFd::from).ok_or_else(nothing))
        .or_else(|_| descriptors.take_unix_listener(index)?.map(OwnedFd::from).ok_or_else(nothing))
        .or_else(|_| descriptors.take_udp_socket(index)?.map(OwnedFd::from).ok_or_else(nothing))
        .or_else(|_| descriptors.take_unix_datagram(index)?.map(OwnedFd::from).ok_or_else(nothing))
}
