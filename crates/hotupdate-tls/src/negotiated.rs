//! What client and server agreed on in their handshake.

use rustls::pki_types::CertificateDer;
use rustls::{CipherSuite, ProtocolVersion, ServerConnection};

/// What the handshake of a connection has led to, and what the client has proved in it. It is the same before
/// and after a migration.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Negotiated {
    /// TLS 1.3 or TLS 1.2.
    pub version: ProtocolVersion,
    /// The suite that protects the connection.
    pub cipher_suite: CipherSuite,
    /// The protocol inside (ALPN), `None` if the client named none that the server speaks.
    pub alpn: Option<Vec<u8>>,
    /// The name that the client wants to talk to (SNI).
    pub server_name: Option<String>,
    /// The client's certificate and what certifies it, checked by the server's `ClientCertVerifier`. Empty if
    /// it has shown none.
    pub client_certificates: Vec<CertificateDer<'static>>,
}

impl Negotiated {
    /// `None` while the handshake goes on.
    pub(crate) fn of(connection: &ServerConnection) -> Option<Self> {
        Some(Self {
            version: connection.protocol_version()?,
            cipher_suite: connection.negotiated_cipher_suite()?.suite(),
            alpn: connection.alpn_protocol().map(<[u8]>::to_vec),
            server_name: connection.server_name().map(str::to_owned),
            client_certificates: connection.peer_certificates().unwrap_or_default().to_vec(),
        })
    }
}
