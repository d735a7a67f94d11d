//! Handshakes.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::{ServerConfig, ServerConnection};
use tokio::io::{AsyncRead, AsyncWrite};

use super::TlsStream;
use super::before::Before;
use super::engine::Engine;
use super::key_log::SecretLog;
use super::transport::Transport;
use crate::negotiated::Negotiated;

/// Accepts TLS connections with a rustls [`ServerConfig`].
#[derive(Clone, Debug)]
pub struct Acceptor {
    config: Arc<ServerConfig>,
    migratable: bool,
    keep_exporter: bool,
}

impl Acceptor {
    /// Connections are served by rustls alone, and do not migrate.
    pub fn new(config: impl Into<Arc<ServerConfig>>) -> Self {
        Self { config: config.into(), migratable: false, keep_exporter: false }
    }

    /// Connections may migrate: their traffic secrets are kept beside them, and can leave the process in a
    /// [`State`](crate::State).
    #[must_use]
    pub fn migratable(mut self, migratable: bool) -> Self {
        self.migratable = migratable;
        self
    }

    /// The exporter's secret migrates, too, so that keying material can be exported after a migration (TLS
    /// 1.3).
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
        let before = self.before().map_err(io::Error::other)?;
        let mut transport = Transport::new(io, Engine::Rustls(Box::new(before)));
        let negotiated = poll_fn(|cx| poll_handshake(&mut transport, cx)).await?;
        Ok(TlsStream { transport, negotiated: Arc::new(negotiated) })
    }

    fn before(&self) -> Result<Before, rustls::Error> {
        if !self.migratable {
            return Ok(Before::new(ServerConnection::new(self.config.clone())?, None));
        }
        // The log is that of one connection, so its config is, too. What is large in it is shared.
        let mut config = ServerConfig::clone(&self.config);
        let log = Arc::new(SecretLog::new(config.key_log.clone(), self.keep_exporter));
        config.key_log = log.clone();
        config.enable_secret_extraction = true;
        Ok(Before::new(ServerConnection::new(Arc::new(config))?, Some(log)))
    }
}

fn poll_handshake<IO: AsyncRead + AsyncWrite + Unpin>(
    transport: &mut Transport<IO>,
    cx: &mut Context<'_>,
) -> Poll<io::Result<Negotiated>> {
    loop {
        ready!(transport.poll_flush(cx))?;
        let Engine::Rustls(before) = &mut transport.engine else { unreachable!("it begins in rustls") };
        if !before.connection.is_handshaking() {
            let negotiated = Negotiated::of(&before.connection);
            return Poll::Ready(negotiated.ok_or_else(|| io::Error::other("a handshake without a result")));
        }
        if let Some(error) = before.error() {
            return transport.fail(cx, error);
        }
        if before.has_ended() {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the client left during the handshake",
            )));
        }
        ready!(transport.poll_fill(cx))?;
    }
}
