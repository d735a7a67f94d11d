//! HTTP over a Unix socket: its connections migrate as those over TCP do.
//!
//! Deliberately absent: the rest of what migrations do, see [`crate::migration`].

use std::future::IntoFuture as _;
use std::path::Path;

use axum::Router;
use axum::routing::get;
use hotupdate::Serving;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

use crate::server::{MIGRATING, builder, until, within};

/// A version that answers with its name.
async fn start(dir: &TempDir, version: &'static str) -> (Serving, JoinHandle<hotupdate::Result<()>>) {
    let mut hot = builder(dir, MIGRATING).join().await.unwrap();
    let listener = hot.unix("http", dir.path().join("http.sock")).await.unwrap();
    let app = Router::new().route("/", get(move || async move { version }));
    let serve = hotupdate_axum::serve(listener, app, &mut hot);
    let hot = hot.ready().await.unwrap();
    let serving = tokio::spawn(serve.into_future());
    (hot, serving)
}

/// Three letters, the name of a version.
async fn answer(client: &mut BufReader<UnixStream>) -> String {
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        assert_ne!(within(client.read_line(&mut line)).await.unwrap(), 0, "the connection ended");
        assert_ne!(line, "connection: close\r\n");
    }
    let mut version = [0; 3];
    within(client.read_exact(&mut version)).await.unwrap();
    String::from_utf8(version.to_vec()).unwrap()
}

async fn connect(path: &Path) -> BufReader<UnixStream> {
    BufReader::new(UnixStream::connect(path).await.unwrap())
}

#[tokio::test]
async fn idle_connections_and_half_a_head() {
    const GET: &str = "GET / HTTP/1.1\r\nHost: test\r\n\r\n";
    let dir = tempfile::tempdir().unwrap();
    let (old, old_serving) = start(&dir, "old").await;
    let path = dir.path().join("http.sock");
    let (mut idle, mut half) = (connect(&path).await, connect(&path).await);
    idle.write_all(GET.as_bytes()).await.unwrap();
    assert_eq!(answer(&mut idle).await, "old");
    half.write_all(&GET.as_bytes()[..9]).await.unwrap();
    until(|| old.connections().summary().idle == 2).await;

    let (new, new_serving) = start(&dir, "new").await;
    until(|| new.connections().adopted() == 2).await;
    within(old_serving).await.unwrap().unwrap();
    idle.write_all(GET.as_bytes()).await.unwrap();
    half.write_all(&GET.as_bytes()[9..]).await.unwrap();
    for client in [&mut idle, &mut half] {
        assert_eq!(answer(client).await, "new");
    }
    new_serving.abort();
}
