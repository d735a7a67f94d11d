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
    let series = |count| Series { name: "you".to_owned(), after: 0, count, every_ms: cli.every_ms };
    let ends = |_| tokio::spawn(streams(client.clone(), series(cli.greetings), seen.clone()));
    let goes_on = |_| tokio::spawn(endless(client.clone(), series(0), seen.clone()));
    let (streams, endless) = ((0..cli.streams).map(ends), (0..cli.endless).map(goes_on));
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
async fn streams(mut client: GreeterClient<Channel>, series: Series, seen: Arc<Seen>) {
    while !seen.over.load(Relaxed) {
        let mut series = series.clone();
        let ended = listen(&mut client, &seen, &mut series).await;
        let result = ended.and_then(|()| match series {
            Series { after, count, .. } if after == count => Ok(()),
            Series { after, count, .. } => Err(Status::data_loss(format!("{after} of {count} greetings"))),
        });
        seen.count(&seen.streams, result).await;
    }
}

/// One series without an end, over as many streams as there are versions: no number is missing and none comes
/// twice.
async fn endless(mut client: GreeterClient<Channel>, mut series: Series, seen: Arc<Seen>) {
    while !seen.over.load(Relaxed) {
        let ended = listen(&mut client, &seen, &mut series).await;
        seen.count(&seen.streams, ended).await;
    }
}

/// One stream of a series, which begins after what was heard of it.
async fn listen(client: &mut GreeterClient<Channel>, seen: &Seen, series: &mut Series) -> Result<(), Status> {
    let mut greetings = client.greetings(series.clone()).await?.into_inner();
    while let Some(greeting) = greetings.message().await? {
        series.after += 1;
        seen.messages.fetch_add(1, Relaxed);
        if greeting.number != series.after {
            return Err(Status::data_loss(format!(
                "greeting {} instead of {}",
                greeting.number, series.after
            )));
        }
        if series.count == 0 && seen.over.load(Relaxed) {
            return Ok(());
        }
    }
    Ok(())
}
