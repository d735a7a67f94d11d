//! The listeners of COMMAND: those of the service, which go from version to version, and one that is its own.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use hotupdate::{ListeningSocket, Starting};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use super::settings::Settings;
use crate::listen_spec::Address;

/// The name of the listener on which COMMAND is asked whether it is ready.
const PRIVATE: &str = "ready";

/// All of them, in the order in which they are passed.
pub(super) struct Sockets {
    shared: Vec<ListeningSocket>,
    private: Option<TcpListener>,
}

/// Inherited, from a service manager, or bound.
pub(super) async fn claim(hot: &mut Starting, settings: &Settings) -> hotupdate::Result<Sockets> {
    let mut shared = Vec::with_capacity(settings.listen.len());
    for spec in &settings.listen {
        shared.push(match &spec.address {
            Address::Tcp(address) => hot.tcp_socket(&spec.name, address).await?,
            Address::Unix(path) => hot.unix_socket(&spec.name, path).await?,
        });
    }
    Ok(Sockets { shared, private: None })
}

impl Sockets {
    /// One more, at which no other version answers.
    pub(super) fn add_private(&mut self) -> io::Result<SocketAddr> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        self.private = Some(listener);
        Ok(address)
    }

    pub(super) fn names(&self) -> Vec<&str> {
        let private = self.private.as_ref().map(|_| PRIVATE);
        self.shared.iter().map(ListeningSocket::name).chain(private).collect()
    }

    /// Whether a client that connects there may be answered by another version.
    pub(super) fn is_shared(&self, port: u16) -> bool {
        let mut ports = self.shared.iter().filter_map(|socket| socket.local_addr().ip());
        ports.any(|address| address.port() == port)
    }

    /// For COMMAND. Whether accept(2) waits belongs to the socket, which all versions share; this process
    /// never accepts.
    pub(super) fn duplicates(&self, blocking: bool) -> io::Result<Vec<OwnedFd>> {
        let duplicate = |fd: BorrowedFd<'_>| {
            let flags = fcntl_getfl(fd)?;
            fcntl_setfl(fd, if blocking { flags - OFlags::NONBLOCK } else { flags | OFlags::NONBLOCK })?;
            fd.try_clone_to_owned()
        };
        let shared = self.shared.iter().map(|socket| socket.with_fd(duplicate));
        shared.chain(self.private.iter().map(|private| duplicate(private.as_fd()))).collect()
    }
}
