//! axum over `SO_REUSEPORT`, because shellflip passes no sockets on; SIGUSR1 starts the next version.

use clap::Parser as _;
use futures_util::FutureExt as _;
use peers::{Cli, reuseport, serve};
use shellflip::RestartConfig;

#[tokio::main(worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let (http, raw) = (reuseport(cli.http)?, reuseport(cli.raw)?);
    let restarted = RestartConfig::default().try_into_restart_task()?;
    let stopped = async move { drop(restarted.await) }.boxed().shared();
    serve(cli.app()?, http, raw, stopped).await
}
