//! A server with TLS that can be replaced by another one in this process, and its clients.

use std::convert::Infallible;
use std::future::IntoFuture as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use axum::Router;
use axum::routing::{any, get, post};
use bytes::Bytes;
use futures_util::stream;
use hotupdate::{Serving, Timing};
use hotupdate_axum::tls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use hotupdate_axum::tls::rustls::server::WebPkiClientVerifier;
use hotupdate_axum::tls::rustls::{
    ClientConfig, HandshakeKind, RootCertStore, ServerConfig, SupportedProtocolVersion, version,
};
use hotupdate_axum::tls::{self, Tickets, Tls, TlsInfo};
use hotupdate_axum::{Serve, ws};
use http::{Request, Response, Version};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::crypto::CryptoProvider;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::client::Client;
use crate::server::{Times, within};

/// A key and its certificate, which is its own authority.
#[derive(Clone)]
pub(crate) struct Identity {
    certificate: CertificateDer<'static>,
    key: Arc<PrivateKeyDer<'static>>,
}

/// The providers that the features allow, and the versions.
pub(crate) fn kinds() -> Vec<(Arc<CryptoProvider>, &'static SupportedProtocolVersion)> {
    let mut kinds = Vec::new();
    for provider in [
        #[cfg(feature = "ring")]
        rustls::crypto::ring::default_provider(),
        #[cfg(feature = "aws-lc-rs")]
        rustls::crypto::aws_lc_rs::default_provider(),
    ] {
        for version in [&version::TLS13, &version::TLS12] {
            for suite in &provider.cipher_suites {
                let of_ecdsa = !format!("{:?}", suite.suite()).contains("RSA");
                if suite.version() == version && of_ecdsa {
                    let only = CryptoProvider { cipher_suites: vec![*suite], ..provider.clone() };
                    kinds.push((Arc::new(only), version));
                }
            }
        }
    }
    kinds
}

fn usual() -> (Arc<CryptoProvider>, &'static SupportedProtocolVersion) {
    kinds().remove(0)
}

impl Identity {
    pub(crate) fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        Self { certificate: made.cert.der().clone(), key: Arc::new(key) }
    }

    pub(crate) fn server(&self) -> ServerConfig {
        self.server_with(usual().0)
    }

    pub(crate) fn server_with(&self, provider: Arc<CryptoProvider>) -> ServerConfig {
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.unwrap().with_no_client_auth();
        builder.with_single_cert(vec![self.certificate.clone()], self.key.clone_key()).unwrap()
    }

    /// Asks for a certificate of this client.
    pub(crate) fn server_that_asks(&self, client: &Self) -> ServerConfig {
        let provider = usual().0;
        let verifier = WebPkiClientVerifier::builder_with_provider(client.roots(), provider.clone());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.unwrap().with_client_cert_verifier(verifier.build().unwrap());
        builder.with_single_cert(vec![self.certificate.clone()], self.key.clone_key()).unwrap()
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        Arc::new(roots)
    }

    /// A client that trusts it.
    pub(crate) fn client(&self) -> ClientConfig {
        let (provider, version) = usual();
        self.client_with(provider, version)
    }

    pub(crate) fn client_with(
        &self,
        provider: Arc<CryptoProvider>,
        version: &'static SupportedProtocolVersion,
    ) -> ClientConfig {
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]);
        builder.unwrap().with_root_certificates(self.roots()).with_no_client_auth()
    }

    /// A client that trusts `server` and shows this certificate.
    pub(crate) fn client_of(&self, server: &Self) -> ClientConfig {
        let (provider, version) = usual();
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]);
        let builder = builder.unwrap().with_root_certificates(server.roots());
        builder.with_client_auth_cert(vec![self.certificate.clone()], self.key.clone_key()).unwrap()
    }
}

/// A version of the server.
pub(crate) struct Secure {
    dir: Arc<TempDir>,
    pub(crate) address: SocketAddr,
    pub(crate) hot: Serving,
    pub(crate) tickets: Arc<Tickets>,
    done: JoinHandle<hotupdate::Result<()>>,
}

impl Secure {
    pub(crate) async fn start(times: Times, tls: Tls) -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        Self::join(dir, "127.0.0.1:0", "old", times, Timing::default(), |serve, tickets| {
            serve.tls(tls.tickets(tickets))
        })
        .await
    }

    /// Whose handshakes may take so long.
    pub(crate) async fn start_with_deadline(times: Times, tls: Tls, handshake: Duration) -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let timing = Timing::default().handshake(handshake);
        Self::join(dir, "127.0.0.1:0", "old", times, timing, |serve, _| serve.tls(tls)).await
    }

    /// A new version takes over; this one drains.
    pub(crate) async fn hand_off(&self, version: &'static str, times: Times, tls: Tls) -> Self {
        self.hand_off_to(version, times, |serve, tickets| serve.tls(tls.tickets(tickets))).await
    }

    pub(crate) async fn hand_off_to(
        &self,
        version: &'static str,
        times: Times,
        set: impl FnOnce(Serve, Arc<Tickets>) -> Serve,
    ) -> Self {
        let (dir, address) = (self.dir.clone(), self.address.to_string());
        let new = Self::join(dir, &address, version, times, Timing::default(), set).await;
        within(self.hot.drain().started()).await;
        new
    }

    async fn join(
        dir: Arc<TempDir>,
        address: &str,
        version: &'static str,
        times: Times,
        timing: Timing,
        set: impl FnOnce(Serve, Arc<Tickets>) -> Serve,
    ) -> Self {
        let timing = timing.drain_grace(times.grace).drain_spread(Duration::ZERO).path_check(Duration::MAX);
        let mut hot = hotupdate::builder(dir.path().join("control.sock"))
            .timing(timing)
            .drain_deadline(times.deadline)
            .probation(times.probation)
            .migrate_connections(times.migrates)
            .join()
            .await
            .unwrap();
        let listener = hot.tcp("https", address).await.unwrap();
        let address = listener.local_addr().ip().unwrap();
        let tickets = tls::tickets(&mut hot).unwrap();
        let serve = set(hotupdate_axum::serve(listener, app(version), &mut hot), tickets.clone());
        ws::on_migrated(&mut hot, "echo", echo).unwrap();
        ws::on_migrated(&mut hot, "flood", ebb).unwrap();
        let hot = hot.ready().await.unwrap();
        Self { dir, address, hot, tickets, done: tokio::spawn(serve.into_future()) }
    }

    /// This version serves again, on command.
    pub(crate) async fn roll_back(&self) {
        let mut control =
            tokio::net::UnixStream::connect(self.dir.path().join("control.sock")).await.unwrap();
        let call = b"{\"method\":\"io.hotupdate.Rollback\"}\0";
        tokio::io::AsyncWriteExt::write_all(&mut control, call).await.unwrap();
        within(self.hot.drain().ended()).await;
    }

    /// Waits for the end of `serve`; returns how many connections had to be forced.
    pub(crate) async fn drained(self) -> u64 {
        within(self.done).await.unwrap().unwrap();
        assert_eq!(self.hot.connections().rows(), []);
        self.hot.connections().forced()
    }

    pub(crate) async fn client(&self, config: &Arc<ClientConfig>) -> SecureClient {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        Client::over(within(TlsConnector::from(config.clone()).connect(name, stream)).await.unwrap())
    }

    /// What operators see of the only connection.
    pub(crate) fn protocol(&self) -> String {
        self.hot.connections().rows()[0].protocol.to_string()
    }
}

pub(crate) type SecureClient = Client<TlsStream<TcpStream>>;

impl SecureClient {
    pub(crate) fn handshake(&self) -> HandshakeKind {
        self.stream.get_ref().1.handshake_kind().unwrap()
    }

    /// The next request is answered by this version, and the connection is kept.
    pub(crate) async fn is_answered_by(&mut self, version: &str) {
        let answer = self.get("/").await;
        assert_eq!((answer.body.as_str(), answer.says_close()), (version, false));
    }
}

/// A client of HTTP/2, by ALPN.
pub(crate) struct Http2Client {
    sender: SendRequest<BoxBody<Bytes, Infallible>>,
    connection: JoinHandle<hyper::Result<()>>,
}

impl Http2Client {
    pub(crate) async fn connect(secure: &Secure, mut config: ClientConfig) -> Self {
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let stream = secure.client(&Arc::new(config)).await.stream;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let io = TokioIo::new(stream);
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
        Self { sender, connection: tokio::spawn(connection) }
    }

    pub(crate) async fn get(&mut self, path: &str) -> String {
        let request = Request::get(format!("https://localhost{path}")).body(Empty::new().boxed()).unwrap();
        let answer = self.sender.send_request(request);
        text(answer).await
    }

    /// A request whose body is what is sent there, and its answer.
    pub(crate) fn upload(&mut self) -> (mpsc::UnboundedSender<Bytes>, JoinHandle<String>) {
        let (sender, pieces) = mpsc::unbounded_channel();
        let body = stream::unfold(pieces, |mut pieces| async {
            Some((Ok(Frame::data(pieces.recv().await?)), pieces))
        });
        let body = BodyExt::boxed(StreamBody::new(body));
        let request = Request::post("https://localhost/upload").body(body).unwrap();
        (sender, tokio::spawn(text(self.sender.send_request(request))))
    }

    /// The server has said nothing that ends the connection.
    pub(crate) async fn leave(self) {
        assert!(!self.sender.is_closed());
        drop(self.sender);
        within(self.connection).await.unwrap().unwrap();
    }
}

async fn text(answer: impl Future<Output = hyper::Result<Response<Incoming>>>) -> String {
    let answer = within(answer).await.unwrap();
    assert_eq!(answer.version(), Version::HTTP_2);
    String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

fn app(version: &'static str) -> Router {
    Router::new()
        .route("/", get(move || async move { version }))
        .route("/upload", post(|body: axum::body::Bytes| async move { body.len().to_string() }))
        .route("/large", get(|| async { "0123456789".repeat(100_000) }))
        .route("/info", get(|TlsInfo(info): TlsInfo| async move { format!("{info:?}") }))
        .route("/whether", get(|info: Option<TlsInfo>| async move { info.is_some().to_string() }))
        .route("/flood", any(|upgrade: ws::Upgrade| async { upgrade.on_upgrade(flood) }))
        .route("/echo", any(|upgrade: ws::Upgrade| async { upgrade.on_upgrade(|socket| echo(socket, 0)) }))
}

/// How many messages [`flood`] has begun to send.
pub(crate) static FLOOD: AtomicU64 = AtomicU64::new(0);
pub(crate) const DROP: [u8; 10_000] = [7; 10_000];

/// Sends as much as its client reads, and then migrates with what it has not read.
async fn flood(mut socket: ws::WebSocket) {
    let mut drain = socket.connection().drain();
    loop {
        let count = FLOOD.fetch_add(1, Relaxed) + 1;
        tokio::select! {
            biased;
            sent = socket.send(ws::Message::Binary(DROP.to_vec().into())) => sent.unwrap(),
            () = drain.started() => {
                assert!(matches!(socket.recv_or_drain().await, ws::Event::Draining));
                return socket.migrate("flood", &count).await.unwrap();
            }
        }
    }
}

async fn ebb(mut socket: ws::WebSocket, count: u64) {
    socket.send(count.to_string().as_str().into()).await.unwrap();
}

/// Each message comes back with its number.
async fn echo(mut socket: ws::WebSocket, mut count: u64) {
    loop {
        match socket.recv_or_drain().await {
            ws::Event::Message(message) => {
                count += 1;
                let text = format!("{count} {}", message.to_text().unwrap_or_default());
                if socket.send(text.as_str().into()).await.is_err() {
                    return;
                }
            }
            ws::Event::Draining => match socket.migrate("echo", &count).await {
                Ok(()) => return,
                Err(stays) => socket = stays.socket,
            },
            _ => return,
        }
    }
}
