//! What keeps a connection in its process.

/// Why a connection cannot migrate now. Only [`Disabled`](Self::Disabled), [`Suite`](Self::Suite) and
/// [`KeyUpdates`](Self::KeyUpdates) stay true for as long as it lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MigrationBlock {
    /// It was accepted without [`Acceptor::migratable`](crate::Acceptor::migratable).
    #[error("its secrets were not kept")]
    Disabled,
    /// It is protected by a cipher suite that the record layer does not have.
    #[error("it has a cipher suite that cannot migrate")]
    Suite,
    /// It has failed, or one side has said close_notify.
    #[error("it is about to close")]
    Closing,
    /// Not all that was written is sent: flush it.
    #[error("what was written is not sent yet")]
    Unwritten,
    /// The client has sent half a handshake message.
    #[error("half a handshake message has arrived")]
    Fragment,
    /// More was read and not used than a state may hold.
    #[error("too much of what was read is unused")]
    TooMuch,
    /// The keys may have changed so often that finding the newest would take too long.
    #[error("its keys have changed too often")]
    KeyUpdates,
    /// rustls gave no secrets, or others than it has logged. The connection is lost: what is done with its
    /// stream fails. No version of rustls 0.23 does this.
    #[error("rustls did not give its secrets")]
    Lost,
}
