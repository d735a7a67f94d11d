//! The application that is measured: `GET /` answers with the version, and a raw port echoes.
//!
//! Deliberately absent: options of the library, but for the length of the probation. What is measured is what a
//! user gets.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use axum::{Router, routing::get};
use clap::Parser;
use hotupdate::Connection;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

#[derive(Parser)]
struct Cli {
    #[arg(long)]
    http: String,
    #[arg(long)]
    raw: String,
    /// The control socket and the file with the version are in this folder.
    #[arg(long)]
    dir: PathBuf,
    /// In seconds.
    #[arg(long)]
    probation: Option<u64>,
}

#[tokio::main(worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let Cli { http, raw, dir, probation } = Cli::parse();
    let version = std::fs::read_to_string(dir.join("version"))?;
    let mut builder = hotupdate::builder(dir.join("control.sock"));
    if let Some(seconds) = probation {
        builder = builder.probation(Duration::from_secs(seconds));
    }
    let mut hot = builder.join().await?;
    let http = hot.tcp("http", http).await?;
    let address = http.local_addr().ip().context("it has an address")?;
    let mut raw = hot.tcp("raw", raw).await?;
    let app = Router::new().route("/", get(move || std::future::ready(version.clone())));

    hot.on_migrated("echo", |connection, ()| echo(connection))?;
    let server = hotupdate_axum::serve(http, app, &mut hot);
    let hot = hot.ready().await?;
    let at = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let (generation, pid) = (hot.generation(), std::process::id());
    let at = i128::from(at.tv_sec) * 1_000_000_000 + i128::from(at.tv_nsec);
    writeln!(std::io::stdout(), "serving generation={generation} pid={pid} http={address} at={at}")?;
    tokio::spawn(async move {
        while let Some(connection) = raw.accept().await {
            tokio::spawn(echo(connection));
        }
    });
    Ok(server.await?)
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
