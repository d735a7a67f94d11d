//! The application that is measured: `GET /` answers with the version, and a raw port echoes.
//!
//! Deliberately absent: options of the library. What is measured is what a user gets.

use std::path::PathBuf;

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
}

#[tokio::main(worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let Cli { http, raw, dir } = Cli::parse();
    let version = std::fs::read_to_string(dir.join("version"))?;
    let mut hot = hotupdate::join(dir.join("control.sock")).await?;
    let http = hot.tcp("http", http).await?;
    let mut raw = hot.tcp("raw", raw).await?;
    let app = Router::new().route("/", get(move || std::future::ready(version.clone())));

    hot.on_migrated("echo", |connection, ()| echo(connection))?;
    let server = hotupdate_axum::serve(http, app, &mut hot);
    hot.ready().await?;
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
