//! Descriptors that another process opened: what they are is found out, and compared with what was said.

use std::fmt;
use std::io;

use hotupdate_proto::{ListenerItem, ListenerKind};
use socket2::{SockRef, Type};

use crate::address::Address;
use crate::platform::{AsFd, BorrowedFd, OwnedFd, pathname};
use crate::process::sockets::{cookie, listens, unblock};

/// Where a listener of this process comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    Inherited,
    /// A socket unit has it, and with it the say about its address.
    Systemd,
    /// An earlier process of this service left it in the descriptor store.
    Stored,
    Bound,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Inherited => "inherited",
            Self::Systemd => "systemd",
            Self::Stored => "stored",
            Self::Bound => "bound",
        })
    }
}

/// A descriptor that waits to be asked for.
#[derive(Debug)]
pub(crate) struct Offered {
    pub(crate) name: String,
    pub(crate) kind: ListenerKind,
    pub(crate) address: Address,
    pub(crate) fd: OwnedFd,
    pub(crate) origin: Origin,
}

impl Offered {
    /// Finds out what a descriptor is.
    pub(crate) fn examine(name: &str, fd: OwnedFd, origin: Origin) -> io::Result<Self> {
        let (kind, address) = identify(fd.as_fd())?;
        if kind != ListenerKind::Other {
            unblock(fd.as_fd())?;
        }
        Ok(Self { name: name.to_owned(), kind, address, fd, origin })
    }

    /// Checks that a descriptor is what the incumbent said.
    pub(crate) fn check(item: &ListenerItem, fd: OwnedFd) -> Result<Self, String> {
        let wrong = |what: String| format!("the listener {:?} {what}", item.name);
        if item.name.is_empty() || item.name.len() > hotupdate_proto::inventory::MAX_NAME {
            return Err(wrong("has an impossible name".to_owned()));
        }
        if item.kind == ListenerKind::Other {
            let (name, address) = (item.name.clone(), Address::Unix(None));
            return Ok(Self { name, kind: item.kind, address, fd, origin: Origin::Inherited });
        }
        let offered = Self::examine(&item.name, fd, Origin::Inherited)
            .map_err(|error| wrong(format!("is not a usable socket: {error}")))?;
        if offered.kind != item.kind {
            return Err(wrong(format!("is a {} and was announced as {}", offered.kind, item.kind)));
        }
        if offered.address.to_string() != item.address {
            return Err(wrong(format!(
                "is bound to {} and was announced with {}",
                offered.address, item.address
            )));
        }
        match cookie(offered.fd.as_fd()) {
            // A peer need not say it.
            _ if item.cookie == 0 => Ok(offered),
            cookie if cookie == item.cookie => Ok(offered),
            cookie => Err(wrong(format!("is socket {cookie} and was announced as {}", item.cookie))),
        }
    }

    /// Whether both lead to one socket.
    pub(crate) fn is_same_socket(&self, other: &Self) -> bool {
        let ours = cookie(self.fd.as_fd());
        ours != 0 && ours == cookie(other.fd.as_fd())
    }

    /// What is said about it to a successor.
    pub(crate) fn describe(
        name: &str,
        kind: ListenerKind,
        address: &Address,
        fd: BorrowedFd<'_>,
    ) -> ListenerItem {
        let cookie = if kind == ListenerKind::Other { 0 } else { cookie(fd) };
        ListenerItem { name: name.to_owned(), kind, address: address.to_string(), cookie }
    }
}

/// What a descriptor is, and where it is bound.
fn identify(fd: BorrowedFd<'_>) -> io::Result<(ListenerKind, Address)> {
    let socket = SockRef::from(&fd);
    let bound = socket.local_addr()?;
    let is_unix = bound.is_unix();
    let address = match bound.as_socket() {
        Some(ip) => Address::Ip(ip),
        None if is_unix => Address::Unix(pathname(&bound)),
        None => {
            return Err(io::Error::other(format!(
                "a socket of address family {}, neither IP nor Unix",
                bound.family()
            )));
        }
    };
    let kind = match (socket.r#type()?, is_unix) {
        (Type::STREAM, _) if !listens(fd)? => {
            return Err(io::Error::other("a stream socket that does not listen (SO_ACCEPTCONN)"));
        }
        (Type::STREAM, false) => ListenerKind::Tcp,
        (Type::STREAM, true) => ListenerKind::Unix,
        (Type::DGRAM, false) => ListenerKind::Udp,
        (Type::DGRAM, true) => ListenerKind::UnixDatagram,
        (other, _) => return Err(io::Error::other(format!("a socket of type {}", i32::from(other)))),
    };
    Ok((kind, address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream, UdpSocket};

    fn item(kind: ListenerKind, listener: &TcpListener) -> ListenerItem {
        let address = Address::Ip(listener.local_addr().unwrap());
        Offered::describe("http", kind, &address, listener.as_fd())
    }

    #[test]
    fn a_listener_is_what_it_is_said_to_be() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let offered =
            Offered::check(&item(ListenerKind::Tcp, &listener), listener.try_clone().unwrap().into())
                .unwrap();
        assert_eq!(offered.address.ip(), Some(listener.local_addr().unwrap()));
    }

    #[test]
    #[cfg_attr(hotupdate_portable, ignore = "none arrives")]
    fn every_wrong_descriptor_is_refused_with_its_name() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let said = item(ListenerKind::Tcp, &listener);
        let connected = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let another = TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let wrong: [(OwnedFd, &str); 4] = [
            (connected.into(), "does not listen"),
            (another.into(), "is bound to"),
            (udp.into(), "is a udp"),
            (tempfile::tempfile().unwrap().into(), "not a usable socket"),
        ];
        for (fd, why) in wrong {
            let error = Offered::check(&said, fd).unwrap_err();
            assert!(error.contains(why) && error.contains("\"http\""), "{error}");
        }
        let other_socket = ListenerItem { cookie: said.cookie + 1, ..said };
        let error = Offered::check(&other_socket, listener.into()).unwrap_err();
        assert!(error.contains("announced as"), "{error}");
    }
}
