//! The address of a listener or of a client, TCP or Unix.
//!
//! Deliberately absent: resolving names; that happens where a listener is bound.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use hotupdate_proto::ShortText;
use hotupdate_proto::migration::Endpoint;

/// Where a socket is bound or connected to.
///
/// ```
/// use hotupdate::Address;
///
/// let address = Address::from("127.0.0.1:3000".parse::<std::net::SocketAddr>()?);
/// assert_eq!(address.to_string(), "127.0.0.1:3000");
/// assert_eq!(address.ip().map(|a| a.port()), Some(3000));
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Address {
    /// TCP or UDP.
    Ip(SocketAddr),
    /// A Unix socket; without a path it is unnamed, as the clients of a Unix listener usually are.
    Unix(Option<PathBuf>),
}

impl Address {
    /// The IP address and port, `None` for a Unix socket.
    #[must_use]
    pub fn ip(&self) -> Option<SocketAddr> {
        match self {
            Self::Ip(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    /// The path of a Unix socket that has one.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Ip(_) => None,
            Self::Unix(path) => path.as_deref(),
        }
    }
}

impl Address {
    /// Whether the kernel refuses to listen on one while a socket listens on the other: the same port, and
    /// the same address or every address on one side (bind(2), `EADDRINUSE`).
    pub(crate) fn conflicts_with(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Ip(ours), Self::Ip(theirs)) => {
                let (our, their) = (ours.ip().to_canonical(), theirs.ip().to_canonical());
                // `[::]` is every address, unless the socket is for IPv6 only; `0.0.0.0` is every address
                // of IPv4.
                let covers =
                    |all: IpAddr, one: IpAddr| all.is_unspecified() && (all.is_ipv6() || one.is_ipv4());
                ours.port() == theirs.port() && (our == their || covers(our, their) || covers(their, our))
            }
            (Self::Unix(Some(ours)), Self::Unix(Some(theirs))) => ours == theirs,
            _ => false,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix(Some(path)) => path.display().fmt(f),
            Self::Unix(None) => Ok(()),
        }
    }
}

/// As it came from another process.
impl From<Endpoint> for Address {
    fn from(end: Endpoint) -> Self {
        match end {
            Endpoint::Ip(address) => Self::Ip(address),
            Endpoint::Unix(path) => Self::Unix((!path.is_empty()).then(|| path.as_str().into())),
        }
    }
}

/// As it is told to another process.
impl From<&Address> for Endpoint {
    fn from(address: &Address) -> Self {
        match address {
            Address::Ip(address) => Self::Ip(*address),
            Address::Unix(_) => Self::Unix(ShortText::from_display(address)),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(address)
    }
}
