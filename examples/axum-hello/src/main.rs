//! The smallest axum service that can be replaced while it runs.

use axum::{Router, routing::get};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    anyhow::ensure!(std::env::args_os().len() == 1, "axum-hello takes no arguments");
    let control = hotupdate::control_path("hello")?; // in /run, or $XDG_RUNTIME_DIR
    let mut hot = hotupdate::join(control).await?; // first start, or meets the process it replaces
    let http = hot.tcp("http", "0.0.0.0:3000").await?; // inherited if offered, else from systemd, else bound
    let app = Router::new().route("/", get(|| async { "hello" }));

    let server = hotupdate_axum::serve(http, app, &mut hot); // its connections migrate here, too
    hot.ready().await?; // the old version stops accepting, this one starts
    server.await?; // until the next version takes over, and all is drained
    Ok(())
}
