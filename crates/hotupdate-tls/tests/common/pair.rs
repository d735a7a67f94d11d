//! A client and a server in memory, without a runtime: bytes go where the test takes them.

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use hotupdate_tls::{Acceptor, MigrationBlock, State, TlsStream};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    CipherSuite, ClientConfig, ClientConnection, RootCertStore, ServerConfig, SupportedProtocolVersion,
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};

use super::provider::{Provider, provider};

/// What a pair is to agree on.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) provider: Provider,
    pub(crate) suite: CipherSuite,
    pub(crate) rsa: bool,
    pub(crate) client_certificate: bool,
    pub(crate) keep_exporter: bool,
    pub(crate) migratable: bool,
}

impl Options {
    pub(crate) fn new(suite: CipherSuite) -> Self {
        Self {
            provider: Provider::default(),
            suite,
            rsa: format!("{suite:?}").contains("RSA"),
            client_certificate: false,
            keep_exporter: false,
            migratable: true,
        }
    }

    /// rustls has the connection to its end.
    pub(crate) fn in_rustls(suite: CipherSuite) -> Self {
        Self { migratable: false, ..Self::new(suite) }
    }

    pub(crate) fn version(&self) -> &'static SupportedProtocolVersion {
        if format!("{:?}", self.suite).starts_with("TLS13") {
            &rustls::version::TLS13
        } else {
            &rustls::version::TLS12
        }
    }

    pub(crate) fn configs(&self) -> (ServerConfig, ClientConfig) {
        self.configs_of(&Identity::new(self.rsa))
    }

    pub(crate) fn configs_of(&self, identity: &Identity) -> (ServerConfig, ClientConfig) {
        let mut crypto = provider(self.provider);
        crypto.cipher_suites.retain(|suite| suite.suite() == self.suite);
        let crypto = Arc::new(crypto);
        let Identity { certificate, key, .. } = identity;
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
            client.with_client_auth_cert(vec![certificate.clone()], key.clone_key()).unwrap()
        } else {
            client.with_no_client_auth()
        };
        client.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        (server, client)
    }

    pub(crate) fn connect(&self) -> Pair {
        let (server, client) = self.configs();
        Pair::accepted(&self.acceptor(server), client)
    }

    pub(crate) fn acceptor(&self, server: ServerConfig) -> Acceptor {
        Acceptor::new(server).migratable(self.migratable).keep_exporter(self.keep_exporter)
    }
}

/// A certificate for `localhost` that certifies itself.
pub(crate) struct Identity {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    pub(crate) pem: String,
    pub(crate) key_pem: String,
}

impl Identity {
    pub(crate) fn new(rsa: bool) -> Self {
        let key = if rsa {
            rcgen::KeyPair::from_pem(include_str!("../data/rsa.pem")).unwrap()
        } else {
            rcgen::KeyPair::generate().unwrap()
        };
        let params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let key_pem = key.serialize_pem();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        Self { certificate: certificate.der().clone(), key, pem: certificate.pem(), key_pem }
    }
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
    /// How often the server has read something.
    pub(crate) reads: usize,
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
        ends.reads += 1;
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

/// The server's side.
pub(crate) struct Server {
    pub(crate) pipe: Pipe,
    stream: Option<TlsStream<Pipe>>,
}

/// How reading has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// More may come.
    Open,
    Closed,
    Truncated,
    Failed,
}

impl Server {
    /// Goes on from the bytes of a state.
    pub(crate) fn arrive(pipe: Pipe, state: &[u8]) -> Self {
        Self::resume(pipe, State::from_bytes(state).unwrap())
    }

    /// Goes on with a state of its own.
    pub(crate) fn resume(pipe: Pipe, state: State) -> Self {
        let stream = TlsStream::from_state(pipe.clone(), state).unwrap();
        Self { pipe, stream: Some(stream) }
    }

    pub(crate) fn into_stream(self) -> TlsStream<Pipe> {
        self.stream.unwrap()
    }

    pub(crate) fn stream(&mut self) -> &mut TlsStream<Pipe> {
        self.stream.as_mut().unwrap()
    }

    /// All that can be read now.
    pub(crate) fn hears(&mut self) -> (Vec<u8>, End) {
        let mut all = Vec::new();
        loop {
            let mut bytes = [0; 1000];
            match now(self.stream().read(&mut bytes)) {
                None => return (all, End::Open),
                Some(Ok(0)) => return (all, End::Closed),
                Some(Ok(count)) => all.extend_from_slice(&bytes[..count]),
                Some(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return (all, End::Truncated);
                }
                Some(Err(_)) => return (all, End::Failed),
            }
        }
    }

    pub(crate) fn says(&mut self, bytes: &[u8]) {
        now(self.stream().write_all(bytes)).expect("the transport takes it").unwrap();
        self.flushes();
    }

    pub(crate) fn flushes(&mut self) {
        now(self.stream().flush()).expect("the transport takes it").unwrap();
    }

    /// Moves by bytes, which are returned, or stays.
    pub(crate) fn try_migrate(&mut self) -> Result<Vec<u8>, MigrationBlock> {
        match self.stream.take().unwrap().into_state() {
            Ok((pipe, state)) => {
                let bytes = state.to_bytes();
                *self = Self::arrive(pipe, &bytes);
                Ok(bytes.to_vec())
            }
            Err(stays) => {
                self.stream = Some(stays.stream);
                Err(stays.why)
            }
        }
    }

    pub(crate) fn migrate(&mut self) -> Vec<u8> {
        self.flushes();
        self.try_migrate().unwrap()
    }

    /// With what the transport did not take.
    pub(crate) fn migrate_unsent(&mut self) {
        assert!(self.stream().unsent() > 0);
        self.try_migrate().unwrap();
    }
}

/// A handshake whose last segment the client has not sent.
pub(crate) struct Handshaking {
    accepting: Pin<Box<dyn Future<Output = io::Result<TlsStream<Pipe>>>>>,
    pipe: Pipe,
    segment: Vec<u8>,
}

impl Handshaking {
    pub(crate) fn begin(acceptor: &Acceptor, client: ClientConfig) -> (ClientConnection, Self) {
        let mut client = ClientConnection::new(Arc::new(client), server_name()).unwrap();
        let pipe = Pipe::default();
        let (acceptor, transport) = (acceptor.clone(), pipe.clone());
        let mut accepting = Box::pin(async move { acceptor.accept(transport).await });
        loop {
            let segment = sent(&mut client);
            if !client.is_handshaking() {
                return (client, Self { accepting, pipe, segment });
            }
            pipe.lock().to_server.extend(segment);
            assert!(now(accepting.as_mut()).is_none());
            client_receives(&mut client, &pipe).unwrap();
        }
    }

    /// It comes, with more behind it.
    pub(crate) fn finish(mut self, more: &[u8]) -> Server {
        let mut ends = self.pipe.lock();
        ends.to_server.extend(self.segment);
        ends.to_server.extend(more);
        drop(ends);
        let stream = now(self.accepting.as_mut()).expect("the handshake is over").unwrap();
        Server { pipe: self.pipe, stream: Some(stream) }
    }
}

pub(crate) struct Pair {
    pub(crate) client: ClientConnection,
    pub(crate) server: Server,
}

impl Pair {
    pub(crate) fn accepted(acceptor: &Acceptor, client: ClientConfig) -> Self {
        Self::accepted_by_configs(acceptor, Arc::new(client))
    }

    pub(crate) fn accepted_by_configs(acceptor: &Acceptor, client: Arc<ClientConfig>) -> Self {
        let mut client = ClientConnection::new(client, server_name()).unwrap();
        let pipe = Pipe::default();
        let mut accept = Box::pin(acceptor.accept(pipe.clone()));
        let stream = loop {
            client_sends(&mut client, &pipe);
            if let Some(accepted) = now(accept.as_mut()) {
                break accepted.unwrap();
            }
            client_receives(&mut client, &pipe).unwrap();
        };
        drop(accept);
        let mut pair = Self { client, server: Server { pipe, stream: Some(stream) } };
        pair.client_hears();
        pair
    }

    /// Whether the server breaks the handshake off.
    pub(crate) fn refused(acceptor: &Acceptor, client: Arc<ClientConfig>) -> bool {
        let mut client = ClientConnection::new(client, server_name()).unwrap();
        let pipe = Pipe::default();
        let mut accept = Box::pin(acceptor.accept(pipe.clone()));
        loop {
            client_sends(&mut client, &pipe);
            if let Some(accepted) = now(accept.as_mut()) {
                return accepted.is_err();
            }
            client_receives(&mut client, &pipe).unwrap();
        }
    }

    /// What the client has to send is with the server's transport.
    pub(crate) fn client_sends(&mut self) {
        client_sends(&mut self.client, &self.server.pipe);
    }

    pub(crate) fn client_says(&mut self, bytes: &[u8]) {
        self.client.writer().write_all(bytes).unwrap();
        self.client_sends();
    }

    /// The plaintext of all that the server has sent.
    pub(crate) fn client_hears(&mut self) -> Vec<u8> {
        self.client_tries().unwrap()
    }

    pub(crate) fn client_tries(&mut self) -> Result<Vec<u8>, rustls::Error> {
        client_receives(&mut self.client, &self.server.pipe)
    }

    /// One word in each direction arrives.
    pub(crate) fn talk(&mut self) {
        self.client_says(b"ping");
        assert_eq!(self.server.hears(), (b"ping".to_vec(), End::Open));
        self.server.says(b"pong");
        assert_eq!(self.client_hears(), b"pong");
    }
}

pub(crate) fn server_name() -> ServerName<'static> {
    ServerName::try_from("localhost").unwrap()
}

pub(crate) fn client_sends(client: &mut ClientConnection, pipe: &Pipe) {
    pipe.lock().to_server.extend(sent(client));
}

fn sent(client: &mut ClientConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).unwrap();
    }
    bytes
}

/// Returns the plaintext.
pub(crate) fn client_receives(client: &mut ClientConnection, pipe: &Pipe) -> Result<Vec<u8>, rustls::Error> {
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
