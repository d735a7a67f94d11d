//! The smallest axum service that can be replaced while it runs.
//!
//! Deliberately absent: everything that is not needed for that. The directory of the control socket has to exist.

use axum::{Router, routing::get};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let control = std::env::args().nth(1).unwrap_or("/run/hello/control.sock".into());
    let mut hot = hotupdate::join(control).await?; // first start, or meets the process it replaces
    let http = hot.tcp("http", "0.0.0.0:3000").await?; // inherited if offered, else from systemd, else bound
    let app = Router::new().route("/", get(|| async { "hello" }));

    let server = hotupdate_axum::serve(http, app, &mut hot); // its connections move here, too
    hot.ready().await?; // the old version stops accepting, this one starts
    server.await?; // until the next version takes over, and all is drained
    Ok(())
}
