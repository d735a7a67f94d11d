//! The same application, served by `axum::serve` and by `hotupdate_axum::serve`, in one process with one
//! thread.

use std::future::IntoFuture as _;
use std::hint::black_box;
use std::net::SocketAddr;
use std::path::Path;

use axum::body::Bytes;
use axum::routing::{get, post};
use axum::{Json, Router};
use tokio::net::TcpListener;

/// Where the servers listen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addresses {
    pub(crate) axum: SocketAddr,
    pub(crate) hotupdate: SocketAddr,
}

/// The name of [`end_of_a_part`], for callgrind.
pub(crate) const END_OF_A_PART: &str = "*end_of_a_part*";

/// Each call is the end of a part of what is counted: callgrind writes down what there was before.
#[inline(never)]
fn end_of_a_part() {
    black_box(());
}

/// Serves until it is killed; says in one line where.
pub(crate) async fn serve(folder: &Path, say: impl FnOnce(Addresses)) -> anyhow::Result<()> {
    let app = Router::new()
        .route("/", get(|| async { "hello" }))
        .route("/json", post(|Json(body): Json<Vec<String>>| async move { Json(body) }))
        .route("/echo", post(|body: Bytes| async move { body }))
        .route("/part", get(|| async { end_of_a_part() }));
    // In a process that has never had a second thread glibc leaves things out, and one may come at any
    // moment.
    tokio::task::spawn_blocking(|| ()).await?;
    let mut hot = hotupdate::join(folder.join("control.sock")).await?;
    let http = hot.tcp("http", "127.0.0.1:0").await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let axum = listener.local_addr()?;
    let hotupdate = http.local_addr().ip().expect("a listener of TCP has an IP address");
    let ours = hotupdate_axum::serve(http, app.clone(), &mut hot);
    hot.ready().await?;
    say(Addresses { axum, hotupdate });
    // Accepted connections have it from their listener, as with hotupdate's.
    tokio::try_join!(async { ours.await.map_err(anyhow::Error::from) }, async {
        Ok(axum::serve(listener, app).into_future().await?)
    },)?;
    Ok(())
}
