//! axum over `SO_REUSEPORT`; SIGTERM stops it gracefully.

use clap::Parser as _;
use futures_util::FutureExt as _;
use peers::{Cli, reuseport, serve};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main(worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let mut stop = signal(SignalKind::terminate())?;
    let (http, raw) = (reuseport(cli.http)?, reuseport(cli.raw)?);
    std::fs::write(cli.dir.join(format!("listens-{}", cli.version()?)), "")?;
    let stopped = async move { let _ = stop.recv().await; }.boxed().shared();
    serve(cli.app()?, http, raw, stopped).await
}
