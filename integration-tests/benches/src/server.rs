//! The application that is measured: `GET /` answers with the version, `GET /json` with a kibibyte, `GET
//! /open` with the version and no end, and a raw port echoes.
//!
//! Deliberately absent: options of the library, but for the length of the probation. What is measured is what
//! a user gets.

use std::convert::Infallible;
use std::future::ready;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Context as _;
use axum::body::{Body, Bytes, HttpBody};
use axum::serve::ListenerExt as _;
use axum::{Json, Router, routing::get};
use clap::Parser;
use hotupdate::{Connection, Listener};
use hotupdate_axum::tls::rustls::crypto::ring;
use hotupdate_axum::tls::rustls::pki_types::pem::PemObject as _;
use hotupdate_axum::tls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use hotupdate_axum::tls::{self, Tls, rustls::ServerConfig};
use hyper::body::Frame;
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

#[derive(Parser)]
struct Cli {
    #[arg(long)]
    http: String,
    #[arg(long)]
    raw: Option<String>,
    /// The control socket and the file with the version are in this folder.
    #[arg(long)]
    dir: PathBuf,
    /// In seconds.
    #[arg(long)]
    probation: Option<u64>,
    /// More listeners, to which no client connects.
    #[arg(long, default_value_t = 0)]
    listeners: usize,
    /// HTTPS, with `cert.pem` and `key.pem` of the folder; connections migrate.
    #[arg(long, conflicts_with = "axum")]
    tls: bool,
    /// Served by `axum::serve`, without hot updates.
    #[arg(long)]
    axum: bool,
    /// With `--axum`: sets `TCP_NODELAY`, as hotupdate does.
    #[arg(long)]
    nodelay: bool,
}

/// The whole program.
///
/// # Errors
///
/// If it cannot serve.
#[tokio::main(worker_threads = 2)]
pub async fn main() -> anyhow::Result<()> {
    let Cli { http, raw, dir, probation, listeners, tls, axum, nodelay } = Cli::parse();
    let version = std::fs::read_to_string(dir.join("version"))?;
    let open = Bytes::from(version.clone());
    let app = Router::new()
        .route("/", get(move || ready(version.clone())))
        .route("/open", get(move || ready(Body::new(Open(Some(open.clone()))))))
        .route("/json", get(|| ready(Json([Item::default(); 12]))));
    if axum {
        let http = tokio::net::TcpListener::bind(http).await?;
        serving("0", http.local_addr()?)?;
        if nodelay {
            // An error means that the client was faster.
            let http = http.tap_io(|connection| drop(connection.set_nodelay(true)));
            return Ok(axum::serve(http, app).await?);
        }
        return Ok(axum::serve(http, app).await?);
    }

    let mut builder = hotupdate::builder(dir.join("control.sock"));
    if let Some(seconds) = probation {
        builder = builder.probation(Duration::from_secs(seconds));
    }
    let mut hot = builder.join().await?;
    let http = hot.tcp("http", http).await?;
    let address = http.local_addr().ip().context("it has an address")?;
    let mut echoing = Vec::new();
    if let Some(raw) = raw {
        echoing.push(hot.tcp("raw", raw).await?);
    }
    for n in 0..listeners {
        echoing.push(hot.tcp(&format!("more-{n}"), "127.0.0.1:0").await?);
    }
    hot.on_migrated("echo", |connection, ()| echo(connection))?;
    let mut server = hotupdate_axum::serve(http, app, &mut hot);
    if tls {
        let tickets = tls::tickets(&mut hot)?;
        server = server.tls(Tls::new(config(&dir)?).tickets(tickets).move_connections(true));
    }
    let hot = hot.ready().await?;
    serving(&hot.generation().to_string(), address)?;
    echoing.into_iter().for_each(|listener| drop(tokio::spawn(echoes(listener))));
    Ok(server.await?)
}

fn config(dir: &Path) -> anyhow::Result<ServerConfig> {
    let certificate = CertificateDer::from_pem_file(dir.join("cert.pem"))?;
    let key = PrivateKeyDer::from_pem_file(dir.join("key.pem"))?;
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions()?.with_no_client_auth();
    Ok(builder.with_single_cert(vec![certificate], key)?)
}

/// A body that goes on until its client does not want it any more.
struct Open(Option<Bytes>);

impl HttpBody for Open {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.take().map_or(Poll::Pending, |first| Poll::Ready(Some(Ok(Frame::data(first)))))
    }
}

/// One line of twelve that are a kibibyte.
#[derive(Clone, Copy, Serialize)]
struct Item {
    id: u64,
    name: &'static str,
    price: f64,
    is_available: bool,
    tags: [&'static str; 2],
}

impl Default for Item {
    fn default() -> Self {
        let tags = ["green", "large"];
        Self { id: 123_456, name: "a thing", price: 12.5, is_available: true, tags }
    }
}

/// Says that it serves, and since when.
fn serving(generation: &str, http: std::net::SocketAddr) -> anyhow::Result<()> {
    let (at, pid) = (clock_gettime(ClockId::Monotonic), std::process::id());
    let at = i128::from(at.tv_sec) * 1_000_000_000 + i128::from(at.tv_nsec);
    Ok(writeln!(std::io::stdout(), "serving generation={generation} pid={pid} http={http} at={at}")?)
}

async fn echoes(mut listener: Listener) {
    while let Some(connection) = listener.accept().await {
        tokio::spawn(echo(connection));
    }
}

async fn echo(mut connection: Connection) {
    let mut slot = connection.migration_slot();
    let mut bytes = [0; 1024];
    loop {
        tokio::select! {
            biased;
            read = connection.read(&mut bytes) => {
                let Ok(n @ 1..) = read else { return };
                if connection.write_all(&bytes[..n]).await.is_err() {
                    return;
                }
            }
            () = slot.acquire("echo") => match connection.migrate("echo", &()).await {
                Ok(()) => return,
                Err(stays) => {
                    connection = stays.connection;
                    slot.release();
                }
            },
        }
    }
}
