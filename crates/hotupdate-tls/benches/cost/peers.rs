//! A client and a server of each kind, which shake hands.

use std::io;
use std::pin::Pin;
use std::sync::Arc;

use hotupdate_tls::{Acceptor, State, TlsStream};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};

#[cfg(feature = "aws-lc-rs")]
use rustls::crypto::aws_lc_rs as provider;
#[cfg(not(feature = "aws-lc-rs"))]
use rustls::crypto::ring as provider;

/// What serves a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    TokioRustls,
    /// This crate, and the connection stays.
    Staying,
    /// It may migrate, and has not.
    Before,
    /// It has.
    After,
}

impl Engine {
    pub(crate) const ALL: [Self; 4] = [Self::TokioRustls, Self::Staying, Self::Before, Self::After];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::TokioRustls => "tokio-rustls",
            Self::Staying => "staying",
            Self::Before => "before",
            Self::After => "after",
        }
    }
}

/// A transport.
pub(crate) trait Io: AsyncRead + AsyncWrite + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Unpin + 'static> Io for T {}

pub(crate) type Server = Pin<Box<dyn Io>>;

#[derive(Clone)]
pub(crate) struct Peers {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl Peers {
    /// AES-128-GCM in TLS 1.3, which clients and servers agree on mostly.
    pub(crate) fn new() -> Self {
        let identity = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(identity.signing_key.serialize_der()).unwrap();
        let certificate = identity.cert.der();
        let mut crypto = provider::default_provider();
        let aes = rustls::CipherSuite::TLS13_AES_128_GCM_SHA256;
        crypto.cipher_suites.retain(|suite| suite.suite() == aes);
        let crypto = Arc::new(crypto);
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).unwrap();
        let server = ServerConfig::builder_with_provider(crypto.clone())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key);
        let client = ClientConfig::builder_with_provider(crypto)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self { server: Arc::new(server.unwrap()), client: Arc::new(client) }
    }

    pub(crate) fn client(&self) -> ClientConnection {
        ClientConnection::new(self.client.clone(), ServerName::try_from("localhost").unwrap()).unwrap()
    }

    pub(crate) fn acceptor(&self, migratable: bool) -> Acceptor {
        Acceptor::new(self.server.clone()).migratable(migratable)
    }

    pub(crate) async fn accept<IO: Io>(&self, io: IO, engine: Engine) -> io::Result<Server> {
        Ok(match engine {
            Engine::TokioRustls => {
                Box::pin(tokio_rustls::TlsAcceptor::from(self.server.clone()).accept(io).await?)
            }
            Engine::Staying => Box::pin(self.acceptor(false).accept(io).await?),
            Engine::Before => Box::pin(self.acceptor(true).accept(io).await?),
            Engine::After => Box::pin(migrated(self.acceptor(true).accept(io).await?).0),
        })
    }
}

/// In another process, and how long the state was.
pub(crate) fn migrated<IO>(server: TlsStream<IO>) -> (TlsStream<IO>, usize) {
    let (io, state) = server.into_state().map_err(|stays| stays.why).unwrap();
    let bytes = state.to_bytes();
    drop(state);
    (TlsStream::from_state(io, State::from_bytes(&bytes).unwrap()).unwrap(), bytes.len())
}
