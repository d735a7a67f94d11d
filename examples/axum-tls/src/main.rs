//! `axum-hello` over HTTPS: its sessions and its connections outlive the process.

mod certificate;

use anyhow::Context as _;
use axum::{Router, routing::get};
use hotupdate_axum::tls::{self, Tls, TlsInfo};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let directory = std::env::args_os().nth(1).context("usage: axum-tls DIRECTORY")?;
    let config = certificate::config(directory.as_ref())?; // made for `localhost` at the first start
    let control = hotupdate::control_path("hello-tls")?; // in /run, or $XDG_RUNTIME_DIR
    let mut hot = hotupdate::join(control).await?; // first start, or meets the process it replaces
    let https = hot.tcp("https", "0.0.0.0:3443").await?; // inherited if offered, else from systemd, else bound
    let hello = |TlsInfo(agreed): TlsInfo| async move { format!("hello over {:?}\n", agreed.version) };
    let app = Router::new().route("/", get(hello));

    let tickets = tls::tickets(&mut hot)?; // clients resume their sessions in the next version
    let tls = Tls::new(config).tickets(tickets).move_connections(true);
    let server = hotupdate_axum::serve(https, app, &mut hot).tls(tls); // its connections migrate here, too
    hot.ready().await?; // the old version stops accepting, this one starts
    server.await?; // until the next version takes over, and all is drained
    Ok(())
}
