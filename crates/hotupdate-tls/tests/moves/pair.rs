//! A client and a server in memory, without a runtime: bytes go where the test takes them.

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use hotupdate_tls::{Acceptor, State, TlsStream};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    CipherSuite, ClientConfig, ClientConnection, RootCertStore, ServerConfig, SupportedProtocolVersion,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};

use crate::provider::{Provider, provider};

/// What a pair is to agree on.
#[derive(Clone)]
pub(crate) struct Options {
    pub(crate) provider: Provider,
    pub(crate) suite: CipherSuite,
    pub(crate) rsa: bool,
    pub(crate) client_certificate: bool,
    pub(crate) keep_exporter: bool,
}

impl Options {
    pub(crate) fn new(suite: CipherSuite) -> Self {
        Self {
            provider: Provider::default(),
            suite,
            rsa: format!("{suite:?}").contains("RSA"),
            client_certificate: false,
            keep_exporter: false,
        }
    }

    pub(crate) fn version(&self) -> &'static SupportedProtocolVersion {
        if format!("{:?}", self.suite).starts_with("TLS13") {
            &rustls::version::TLS13
        } else {
            &rustls::version::TLS12
        }
    }

    pub(crate) fn configs(&self) -> (ServerConfig, ClientConfig) {
        let mut crypto = provider(self.provider);
        crypto.cipher_suites.retain(|suite| suite.suite() == self.suite);
        let crypto = Arc::new(crypto);
        let (certificate, key) = certificate(self.rsa);
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).unwrap();
        let roots = Arc::new(roots);
        let server = ServerConfig::builder_with_provider(crypto.clone())
            .with_protocol_versions(&[self.version()])
            .unwrap();
        let server = if self.client_certificate {
            let verifier =
                rustls::server::WebPkiClientVerifier::builder_with_provider(roots.clone(), crypto.clone());
            server.with_client_cert_verifier(verifier.build().unwrap())
        } else {
            server.with_no_client_auth()
        };
        let mut server = server.with_single_cert(vec![certificate.clone()], key.clone_key()).unwrap();
        server.alpn_protocols = vec![b"http/1.1".to_vec()];
        let client = ClientConfig::builder_with_provider(crypto)
            .with_protocol_versions(&[self.version()])
            .unwrap()
            .with_root_certificates(roots);
        let mut client = if self.client_certificate {
            client.with_client_auth_cert(vec![certificate], key).unwrap()
        } else {
            client.with_no_client_auth()
        };
        client.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        (server, client)
    }

    pub(crate) fn connect(&self) -> Pair {
        let (server, client) = self.configs();
        let acceptor = Acceptor::new(server).migratable(true).keep_exporter(self.keep_exporter);
        Pair::accepted(&acceptor, client)
    }
}

fn certificate(rsa: bool) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    let key = if rsa {
        rcgen::KeyPair::from_pem(include_str!("../data/rsa.pem")).unwrap()
    } else {
        rcgen::KeyPair::generate().unwrap()
    };
    let params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    (certificate.der().clone(), PrivateKeyDer::try_from(key.serialize_der()).unwrap())
}

/// The server's end of a transport in memory.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pipe(Arc<Mutex<Ends>>);

#[derive(Debug, Default)]
pub(crate) struct Ends {
    pub(crate) to_server: VecDeque<u8>,
    pub(crate) to_client: Vec<u8>,
    /// The client's side of the transport has ended.
    pub(crate) ended: bool,
    /// The server has shut its side of the transport.
    pub(crate) shut: bool,
    /// How many bytes the server may still send.
    pub(crate) room: Option<usize>,
}

impl Pipe {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Ends> {
        self.0.lock().unwrap()
    }
}

impl AsyncRead for Pipe {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut ends = self.lock();
        if ends.to_server.is_empty() {
            return if ends.ended { Poll::Ready(Ok(())) } else { Poll::Pending };
        }
        let count = ends.to_server.len().min(buf.remaining());
        for byte in ends.to_server.drain(..count) {
            buf.put_slice(&[byte]);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut ends = self.lock();
        let count = ends.room.map_or(bytes.len(), |room| room.min(bytes.len()));
        if count == 0 && !bytes.is_empty() {
            return Poll::Pending;
        }
        ends.room = ends.room.map(|room| room - count);
        ends.to_client.extend_from_slice(&bytes[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.lock().shut = true;
        Poll::Ready(Ok(()))
    }
}

/// Polls once: there is nothing to wait for, except bytes that the test has not moved.
pub(crate) fn now<F: Future>(future: F) -> Option<F::Output> {
    let mut future = std::pin::pin!(future);
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

pub(crate) struct Pair {
    pub(crate) pipe: Pipe,
    pub(crate) client: ClientConnection,
    server: Option<TlsStream<Pipe>>,
}

impl Pair {
    pub(crate) fn accepted(acceptor: &Acceptor, client: ClientConfig) -> Self {
        let name = ServerName::try_from("localhost").unwrap();
        let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
        let pipe = Pipe::default();
        let mut accept = Box::pin(acceptor.accept(pipe.clone()));
        let server = loop {
            client_sends(&mut client, &pipe);
            if let Some(accepted) = now(accept.as_mut()) {
                break accepted.unwrap();
            }
            client_receives(&mut client, &pipe).unwrap();
        };
        drop(accept);
        let mut pair = Self { pipe, client, server: Some(server) };
        pair.receive().unwrap();
        pair
    }

    pub(crate) fn server(&mut self) -> &mut TlsStream<Pipe> {
        self.server.as_mut().unwrap()
    }

    /// What the client has to send is with the server's transport.
    pub(crate) fn send(&mut self) {
        client_sends(&mut self.client, &self.pipe);
    }

    /// The client deals with what the server has sent, and returns the plaintext of it.
    pub(crate) fn receive(&mut self) -> Result<Vec<u8>, rustls::Error> {
        client_receives(&mut self.client, &self.pipe)
    }

    pub(crate) fn client_writes(&mut self, bytes: &[u8]) {
        self.client.writer().write_all(bytes).unwrap();
        self.send();
    }

    pub(crate) fn server_writes(&mut self, bytes: &[u8]) {
        now(self.server().write_all(bytes)).expect("the transport takes it").unwrap();
        self.server_flushes();
    }

    pub(crate) fn server_flushes(&mut self) {
        now(self.server().flush()).expect("the transport takes it").unwrap();
    }

    /// All that the server can read, until it would wait, and whether it reads the end.
    pub(crate) fn server_reads(&mut self) -> io::Result<(Vec<u8>, bool)> {
        read_all(self.server())
    }

    pub(crate) fn client_reads(&mut self) -> Vec<u8> {
        self.receive().unwrap()
    }

    /// One word in each direction arrives.
    pub(crate) fn talk(&mut self) {
        self.client_writes(b"ping");
        assert_eq!(self.server_reads().unwrap(), (b"ping".to_vec(), false));
        self.server_writes(b"pong");
        assert_eq!(self.client_reads(), b"pong");
    }

    /// Moves the server's side by its bytes. Returns them.
    pub(crate) fn migrate(&mut self) -> Vec<u8> {
        self.server_flushes();
        let (io, state) = self.server.take().unwrap().into_state().unwrap();
        let bytes = state.to_bytes();
        let state = State::from_bytes(&bytes).unwrap();
        self.server = Some(TlsStream::from_state(io, state).unwrap());
        bytes.to_vec()
    }

    pub(crate) fn take_server(&mut self) -> TlsStream<Pipe> {
        self.server.take().unwrap()
    }

    pub(crate) fn set_server(&mut self, server: TlsStream<Pipe>) {
        self.server = Some(server);
    }
}

pub(crate) fn read_all(server: &mut TlsStream<Pipe>) -> io::Result<(Vec<u8>, bool)> {
    let mut all = Vec::new();
    loop {
        let mut bytes = [0; 1000];
        match now(tokio::io::AsyncReadExt::read(server, &mut bytes)) {
            None => return Ok((all, false)),
            Some(Ok(0)) => return Ok((all, true)),
            Some(Ok(count)) => all.extend_from_slice(&bytes[..count]),
            Some(Err(error)) => return Err(error),
        }
    }
}

fn client_sends(client: &mut ClientConnection, pipe: &Pipe) {
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).unwrap();
    }
    pipe.lock().to_server.extend(bytes);
}

/// Returns the plaintext.
fn client_receives(client: &mut ClientConnection, pipe: &Pipe) -> Result<Vec<u8>, rustls::Error> {
    let bytes = std::mem::take(&mut pipe.lock().to_client);
    let mut bytes = &bytes[..];
    let mut plaintext = Vec::new();
    while !bytes.is_empty() && client.read_tls(&mut bytes).unwrap() > 0 {
        client.process_new_packets()?;
        match client.reader().read_to_end(&mut plaintext) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => panic!("{error}"),
            _ => {}
        }
    }
    Ok(plaintext)
}
