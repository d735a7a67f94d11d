//! This process, as far as it can be known on every system.

pub(crate) mod identity {
    //! What tells this process from every other one.

    use std::hash::{BuildHasher, RandomState};

    /// 128 random bits, as random as the keys of a hash table.
    pub(crate) fn random() -> [u8; 16] {
        let half = || u128::from(RandomState::new().hash_one(std::process::id()));
        (half() << 64 | half()).to_be_bytes()
    }

    /// The name of this machine, where the environment has it.
    pub(crate) fn host() -> String {
        let set = ["HOSTNAME", "COMPUTERNAME"].into_iter().find_map(|name| std::env::var(name).ok());
        set.filter(|name| !name.is_empty()).unwrap_or_else(|| "localhost".to_owned())
    }
}

pub(crate) mod limits {
    //! How many descriptors this process may open is left as it is.

    /// How large the kernel's table is, which is not known.
    #[derive(Debug, Default)]
    pub(crate) struct DescriptorTable(());

    impl DescriptorTable {
        pub(crate) fn opened<T>(&self, _: &T) {}
    }
}

pub(crate) mod sockets {
    //! Sockets that this process has bound itself, and connections that the kernel could not give.

    use std::io::{self, ErrorKind};

    use crate::platform::BorrowedFd;

    /// The kernel's number of a socket, which only another process would have to know.
    pub(crate) fn cookie(_: BorrowedFd<'_>) -> u64 {
        0
    }

    /// It was made to.
    pub(crate) fn listens(_: BorrowedFd<'_>) -> io::Result<bool> {
        Ok(true)
    }

    /// It was made so.
    pub(crate) fn unblock(_: BorrowedFd<'_>) -> io::Result<()> {
        Ok(())
    }

    /// Errors of a connection that ended before it was accepted: the next one may be fine.
    pub(crate) fn is_of_the_connection(error: &io::Error) -> bool {
        matches!(
            error.kind(),
            ErrorKind::Interrupted
                | ErrorKind::ConnectionAborted
                | ErrorKind::ConnectionReset
                | ErrorKind::ConnectionRefused
                | ErrorKind::PermissionDenied
                | ErrorKind::HostUnreachable
                | ErrorKind::NetworkUnreachable
                | ErrorKind::NetworkDown
                | ErrorKind::TimedOut
        )
    }
}
