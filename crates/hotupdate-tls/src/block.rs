//! What keeps a connection in its process.

/// Why a connection cannot migrate now. [`Disabled`](Self::Disabled) and [`Suite`](Self::Suite) stay true for
/// as long as it lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MigrationBlock {
    /// It was accepted without [`Acceptor::migratable`](crate::Acceptor::migratable).
    #[error("its secrets were not kept")]
    Disabled,
    /// The server's provider has cipher suites whose connections cannot migrate.
    #[error("it was accepted with cipher suites that cannot migrate")]
    Suite,
    /// It has failed, or one side has said close_notify.
    #[error("it is about to close")]
    Closing,
    /// More was read and not used than a state may hold.
    #[error("too much of what was read is unused")]
    TooMuch,
}
