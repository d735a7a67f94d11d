//! The socket to which COMMAND says `READY=1` (sd_notify(3)).
//!
//! Its name is abstract and made up by the kernel (unix(7), "autobind"), so that nothing is left of it, and a
//! program that has become another user reaches it. Any process may send to such a name, so the kernel says
//! which process did.
//!
//! Deliberately absent: everything else that a service may say to its manager. The manager hears of this
//! process alone.

use std::ffi::OsString;
use std::fs;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram as StdDatagram;

use rustix::net::sockopt::set_socket_passcred;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketAddrUnix, SocketFlags,
    SocketType, bind, getsockname, recvmsg, socket_with,
};
use rustix::process::geteuid;
use tokio::io::Interest;
use tokio::net::UnixDatagram;

/// The longest message that is read; systemd takes no longer ones either (`NOTIFY_BUFFER_MAX`).
const MAX_MESSAGE: usize = 4096;

/// A socket for one COMMAND after the other.
pub(super) struct Notify {
    socket: UnixDatagram,
    name: OsString,
}

impl Notify {
    pub(super) fn new() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
        set_socket_passcred(&socket, true)?;
        bind(&socket, &SocketAddrUnix::new_unnamed())?;
        let address = SocketAddrUnix::try_from(getsockname(&socket)?)?;
        let name = address.abstract_name().ok_or(io::ErrorKind::AddrNotAvailable)?;
        // As sd_notify(3) writes abstract names.
        let name = OsString::from_vec([b"@", name].concat());
        Ok(Self { socket: UnixDatagram::from_std(StdDatagram::from(socket))?, name })
    }

    /// For `NOTIFY_SOCKET`.
    pub(super) fn name(&self) -> &OsString {
        &self.name
    }

    /// Returns when a process that may speak for `program` says that it is ready. Safe to cancel.
    pub(super) async fn ready(&self, program: Option<u32>) {
        loop {
            if self.socket.readable().await.is_err() {
                return std::future::pending().await;
            }
            let said = self.socket.try_io(Interest::READABLE, || receive(&self.socket));
            if let Ok((said, Some(uid))) = said
                && said.split(|byte| *byte == b'\n').any(|line| line == b"READY=1")
                && may_speak(uid, program)
            {
                return;
            }
        }
    }
}

/// This user, root, or the one that the program has become.
fn may_speak(uid: u32, program: Option<u32>) -> bool {
    let of_program = || fs::metadata(format!("/proc/{}", program?)).ok().map(|process| process.uid());
    uid == geteuid().as_raw() || uid == 0 || of_program() == Some(uid)
}

/// A message, and the user that has sent it.
fn receive(socket: &UnixDatagram) -> io::Result<(Vec<u8>, Option<u32>)> {
    let mut bytes = vec![0; MAX_MESSAGE];
    // Descriptors that are sent with it (`FDSTORE=1`, `BARRIER=1`) find no room, and are closed.
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received =
        recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let uid = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmCredentials(sender) => Some(sender.uid.as_raw()),
        _ => None,
    });
    bytes.truncate(received.bytes);
    Ok((bytes, uid))
}
