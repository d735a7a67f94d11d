//! What connections are accepted with.

use std::io;
use std::sync::Arc;

use rustls::crypto::cipher::{AeadKey, Iv};
use rustls::{ServerConfig, ServerConnection, SupportedCipherSuite};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;

use super::handshake::Handshake;
use super::key_log::SecretLog;
use super::staying::Staying;
use super::{Stream, TlsStream};
use crate::MigrationBlock;
use crate::protection::{HEADER, MAX_PLAINTEXT};
use crate::suite::Suite;

/// Accepts TLS connections with a rustls [`ServerConfig`].
#[derive(Clone, Debug)]
pub struct Acceptor {
    config: Arc<ServerConfig>,
    stay: Option<MigrationBlock>,
    keep_exporter: bool,
}

impl Acceptor {
    /// Connections are served by rustls alone, and do not migrate.
    ///
    /// Early data (0-RTT) is never accepted, whatever the configuration says: it can be replayed, and to a
    /// server that reads a connection as one stream it would be lost. Its client sends it again by itself.
    pub fn new(config: impl Into<Arc<ServerConfig>>) -> Self {
        let mut config = config.into();
        if config.max_early_data_size != 0 {
            Arc::make_mut(&mut config).max_early_data_size = 0;
        }
        Self { config, stay: Some(MigrationBlock::Disabled), keep_exporter: false }
    }

    /// Connections may migrate: after its handshake each goes on in this crate's record layer, whose secrets
    /// can leave the process in a [`State`](crate::State).
    ///
    /// They stay in rustls all the same if the configuration's provider has a cipher suite that the record
    /// layer does not have, or one that does not give its keys. The providers of rustls have none.
    #[must_use]
    pub fn migratable(mut self, migratable: bool) -> Self {
        let all = || self.config.crypto_provider().cipher_suites.iter().all(can_migrate);
        self.stay = match migratable {
            false => Some(MigrationBlock::Disabled),
            true if !all() => Some(MigrationBlock::Suite),
            true => None,
        };
        self
    }

    /// The exporter's secret is kept and migrates, too, so that [keying
    /// material](crate::TlsStream::export_keying_material) can be exported. TLS 1.3 alone has such a secret.
    #[must_use]
    pub fn keep_exporter(mut self, keep: bool) -> Self {
        self.keep_exporter = keep;
        self
    }

    /// Shakes hands with the client behind `io`. It takes as long as the client likes: give it a deadline.
    ///
    /// # Errors
    ///
    /// If the handshake fails; the client has got the alert that says why.
    pub async fn accept<IO: AsyncRead + AsyncWrite + Unpin>(&self, io: IO) -> io::Result<TlsStream<IO>> {
        if let Some(why) = self.stay {
            let stream = TlsAcceptor::from(self.config.clone()).accept(io).await?;
            let staying = Staying::new(stream, why).ok_or_else(no_result)?;
            return Ok(TlsStream(Stream::Staying(staying)));
        }
        let (connection, log) = self.connection().map_err(io::Error::other)?;
        let migratable = Handshake::new(io, connection, log, self.max_plaintext()).shake_hands().await?;
        Ok(TlsStream(Stream::Migratable(migratable)))
    }

    /// The most plaintext of a record.
    fn max_plaintext(&self) -> usize {
        self.config.max_fragment_size.map_or(MAX_PLAINTEXT, |size| size.saturating_sub(HEADER))
    }

    fn connection(&self) -> Result<(ServerConnection, Arc<SecretLog>), rustls::Error> {
        // The log is that of one connection, so its config is, too. What is large in it is shared.
        let mut config = ServerConfig::clone(&self.config);
        let log = Arc::new(SecretLog::new(config.key_log.clone(), self.keep_exporter));
        config.key_log = log.clone();
        config.enable_secret_extraction = true;
        Ok((ServerConnection::new(Arc::new(config))?, log))
    }
}

/// Whether the record layer has the suite, and is given its keys.
fn can_migrate(suite: &SupportedCipherSuite) -> bool {
    let key = AeadKey::from([0; 32]);
    let keys = match suite {
        SupportedCipherSuite::Tls13(suite) => suite.aead_alg.extract_keys(key, Iv::new([0; 12])),
        SupportedCipherSuite::Tls12(suite) => {
            let shape = suite.aead_alg.key_block_shape();
            let (iv, explicit) = (vec![0; shape.fixed_iv_len], vec![0; shape.explicit_nonce_len]);
            suite.aead_alg.extract_keys(key, &iv, &explicit)
        }
    };
    keys.is_ok() && Suite::new(suite.version().version, suite.suite()).is_some()
}

pub(super) fn no_result() -> io::Error {
    io::Error::other("a handshake without a result")
}
