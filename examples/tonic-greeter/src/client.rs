//! A client that calls without a pause, and counts what it sees of handoffs.

use std::path::Path;
use std::process::id;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use std::{fmt, io};

use anyhow::Context as _;
use futures_util::future::join_all;
use hotupdate_axum::tls::rustls::crypto::ring;
use hotupdate_axum::tls::rustls::pki_types::pem::PemObject as _;
use hotupdate_axum::tls::rustls::pki_types::{CertificateDer, ServerName};
use hotupdate_axum::tls::rustls::{ClientConfig, RootCertStore};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::signal::ctrl_c;
use tokio::time::sleep;
use tokio_rustls::TlsConnector;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use crate::cli::Greet;
use crate::greeter::greeter_client::GreeterClient;
use crate::messages::{Name, Series};
use crate::say;

/// How many greetings a stream has that ends, and how long each of them takes.
const GREETINGS: u64 = 5;
const EVERY_MS: u64 = 5;

/// How long it waits after a call that has failed: a server that is gone is not asked without end.
const PAUSE: Duration = Duration::from_millis(100);

/// What the client has seen.
#[derive(Debug, Default)]
struct Seen {
    over: AtomicBool,
    connections: AtomicU64,
    calls: AtomicU64,
    streams: AtomicU64,
    messages: AtomicU64,
    failed: AtomicU64,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { over: _, connections, calls, streams, messages, failed } = self;
        let [connections, calls, streams, messages, failed] =
            [connections, calls, streams, messages, failed].map(|count| count.load(Relaxed));
        write!(f, "calls={calls} streams={streams} messages={messages} ")?;
        write!(f, "connections={connections} failed={failed}")
    }
}

pub(crate) async fn run(cli: Greet) -> anyhow::Result<()> {
    let seen = Arc::new(Seen::default());
    let client = GreeterClient::new(connect(&cli, seen.clone()).await?);
    say(format_args!("greeting pid={} http={}", id(), cli.address));
    let calls = (0..cli.calls).map(|_| tokio::spawn(calls(client.clone(), seen.clone())));
    let streams = (0..cli.streams).map(|_| tokio::spawn(streams(client.clone(), seen.clone())));
    let endless = (0..cli.endless).map(|_| tokio::spawn(endless(client.clone(), seen.clone())));
    let all: Vec<_> = calls.chain(streams).chain(endless).collect();
    told_to_end().await?;
    seen.over.store(true, Relaxed);
    join_all(all).await;
    say(format_args!("{seen}"));
    anyhow::ensure!(seen.failed.load(Relaxed) == 0, "calls have failed");
    Ok(())
}

/// By Ctrl-C, or where there are signals by SIGTERM, too.
async fn told_to_end() -> io::Result<()> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};

        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            interrupted = ctrl_c() => interrupted,
            _ = terminate.recv() => Ok(()),
        }
    }
    #[cfg(not(unix))]
    ctrl_c().await
}

/// A channel that counts its connections: one, however often the server is replaced.
async fn connect(cli: &Greet, seen: Arc<Seen>) -> anyhow::Result<Channel> {
    let tls = cli.ca.as_deref().map(trusting).transpose()?;
    let endpoint = Endpoint::from_shared(format!("http://{}", cli.address))?;
    let address = cli.address.clone();
    let connector = service_fn(move |_| {
        seen.connections.fetch_add(1, Relaxed);
        open(address.clone(), tls.clone())
    });
    endpoint.connect_with_connector(connector).await.context("connecting to the server")
}

trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

async fn open(address: String, tls: Option<TlsConnector>) -> std::io::Result<TokioIo<Box<dyn Transport>>> {
    let tcp = TcpStream::connect(address).await?;
    let transport: Box<dyn Transport> = match tls {
        None => Box::new(tcp),
        Some(tls) => Box::new(tls.connect(ServerName::from(tcp.peer_addr()?.ip()), tcp).await?),
    };
    Ok(TokioIo::new(transport))
}

/// TLS with servers that have this certificate.
fn trusting(ca: &Path) -> anyhow::Result<TlsConnector> {
    let certificate =
        CertificateDer::from_pem_file(ca).with_context(|| format!("reading {}", ca.display()))?;
    let mut roots = RootCertStore::empty();
    roots.add(certificate)?;
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions()?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

impl Seen {
    /// Counts the result, and says what has failed.
    async fn count(&self, of: &AtomicU64, result: Result<(), Status>) {
        match result {
            Ok(()) => drop(of.fetch_add(1, Relaxed)),
            Err(status) => {
                self.failed.fetch_add(1, Relaxed);
                say(format_args!("failed: {status}"));
                sleep(PAUSE).await;
            }
        }
    }
}

async fn calls(mut client: GreeterClient<Channel>, seen: Arc<Seen>) {
    while !seen.over.load(Relaxed) {
        let answer = client.greet(Name { name: "you".to_owned() }).await;
        let result = answer.and_then(|answer| match answer.into_inner().text.as_str() {
            "hello you" => Ok(()),
            other => Err(Status::data_loss(format!("{other:?} is not the greeting"))),
        });
        seen.count(&seen.calls, result).await;
    }
}

/// Streams that end: all of their greetings come, in order.
async fn streams(mut client: GreeterClient<Channel>, seen: Arc<Seen>) {
    while !seen.over.load(Relaxed) {
        let mut last = 0;
        let ended = listen(&mut client, &seen, &mut last, GREETINGS).await;
        let result = ended.and_then(|()| match last {
            GREETINGS => Ok(()),
            _ => Err(Status::data_loss(format!("{last} of {GREETINGS} greetings"))),
        });
        seen.count(&seen.streams, result).await;
    }
}

/// One series without an end, over as many streams as there are versions: no number is missing and none comes
/// twice.
async fn endless(mut client: GreeterClient<Channel>, seen: Arc<Seen>) {
    let mut last = 0;
    while !seen.over.load(Relaxed) {
        let ended = listen(&mut client, &seen, &mut last, 0).await;
        seen.count(&seen.streams, ended).await;
    }
}

async fn listen(
    client: &mut GreeterClient<Channel>,
    seen: &Seen,
    last: &mut u64,
    count: u64,
) -> Result<(), Status> {
    let series = Series { name: "you".to_owned(), after: *last, count, every_ms: EVERY_MS };
    let mut greetings = client.greetings(series).await?.into_inner();
    while let Some(greeting) = greetings.message().await? {
        *last += 1;
        seen.messages.fetch_add(1, Relaxed);
        if greeting.number != *last {
            return Err(Status::data_loss(format!("greeting {} instead of {last}", greeting.number)));
        }
        if count == 0 && seen.over.load(Relaxed) {
            return Ok(());
        }
    }
    Ok(())
}
