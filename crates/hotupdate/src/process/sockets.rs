//! What the kernel says of a socket, and of a connection that it could not give.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use rustix::net::sockopt;
use socket2::SockRef;

/// The kernel's number of a socket (socket(7), `SO_COOKIE`), 0 where the kernel has none.
pub(crate) fn cookie(fd: BorrowedFd<'_>) -> u64 {
    sockopt::socket_cookie(fd).unwrap_or_default()
}

/// Whether it listens (socket(7), `SO_ACCEPTCONN`).
pub(crate) fn listens(fd: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(sockopt::socket_acceptconn(fd)?)
}

/// Makes it non-blocking. That belongs to the open file description, which other processes share, so it is
/// only ever set.
pub(crate) fn unblock(fd: BorrowedFd<'_>) -> io::Result<()> {
    let socket = SockRef::from(&fd);
    if socket.nonblocking()? { Ok(()) } else { socket.set_nonblocking(true) }
}

/// Errors of a connection that ended before it was accepted, which accept(2) passes on as its own: the next
/// one may be fine.
pub(crate) fn is_of_the_connection(error: &io::Error) -> bool {
    const PASSED_ON: [Errno; 14] = [
        Errno::INTR,
        Errno::CONNABORTED,
        Errno::CONNRESET,
        Errno::CONNREFUSED,
        Errno::PERM,
        Errno::PROTO,
        Errno::NOPROTOOPT,
        Errno::OPNOTSUPP,
        Errno::NETDOWN,
        Errno::NETUNREACH,
        Errno::HOSTDOWN,
        Errno::HOSTUNREACH,
        Errno::NONET,
        Errno::TIMEDOUT,
    ];
    Errno::from_io_error(error).is_some_and(|errno| PASSED_ON.contains(&errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_connection_may_be_fine() {
        for errno in [Errno::CONNABORTED, Errno::PERM, Errno::HOSTUNREACH, Errno::PROTO] {
            assert!(is_of_the_connection(&errno.into()), "{errno:?}");
        }
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::INVAL, Errno::BADF] {
            assert!(!is_of_the_connection(&errno.into()), "{errno:?}");
        }
    }
}
