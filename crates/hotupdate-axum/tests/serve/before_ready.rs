//! `serve` is called before `ready`: what happens to a server, and to connections, until it is awaited.

use std::future::IntoFuture as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::routing::get;
use futures_util::FutureExt as _;
use hotupdate::{ErrorKind, Starting};
use hotupdate_axum::Serve;
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tracing_subscriber::fmt::MakeWriter;

use crate::client::Client;
use crate::server::{MIGRATING, Server, builder, until, within};

fn answers(version: &'static str) -> Router {
    Router::new().route("/", get(move || async move { version }))
}

async fn first(dir: &TempDir) -> (Starting, SocketAddr, Serve) {
    let mut hot = builder(dir, MIGRATING).join().await.unwrap();
    let listener = hot.tcp("http", "127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().ip().unwrap();
    let server = hotupdate_axum::serve(listener, answers("first"), &mut hot);
    (hot, address, server)
}

#[tokio::test]
async fn a_server_may_be_awaited_before_ready() {
    let dir = tempfile::tempdir().unwrap();
    let (hot, address, server) = first(&dir).await;
    tokio::spawn(server.into_future());
    let mut client = Client::connect(address).await;
    client.ask("/").await;
    let _hot = hot.ready().await.unwrap();
    assert_eq!(client.answer().await.body, "first");
}

#[tokio::test]
async fn a_process_that_gives_up_ends_its_servers_with_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let (hot, _, server) = first(&dir).await;
    let server = tokio::spawn(server.into_future());
    drop(hot);
    let error = within(server).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ApiMisuse);
    let text = error.to_string();
    assert!(
        text.contains("\"http\"") && text.contains("will never serve") && text.lines().count() == 1,
        "{text}"
    );
}

#[tokio::test]
async fn a_kind_that_has_another_handler_is_an_error_of_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let mut hot = builder(&dir, MIGRATING).join().await.unwrap();
    let listener = hot.tcp("http", "127.0.0.1:0").await.unwrap();
    hot.on_migrated("http/1.1", |_, ()| async {}).unwrap();
    let server = hotupdate_axum::serve(listener, answers("first"), &mut hot);
    let _hot = hot.ready().await.unwrap();
    assert_eq!(within(server.into_future()).await.unwrap_err().kind(), ErrorKind::ApiMisuse);
}

/// An application imports its state in between, and no request sees it half-filled.
#[tokio::test]
async fn connections_that_arrive_between_ready_and_await_are_served_when_it_is_awaited() {
    let old = Server::start(MIGRATING).await;
    let mut migrates = old.client().await;
    assert_eq!(migrates.get("/").await.body, "old");
    let (listener, mut hot) = old.successor(MIGRATING).await;
    let server = hotupdate_axum::serve(listener, answers("new"), &mut hot);
    let hot = hot.ready().await.unwrap();
    let mut fresh = Client::connect(old.address).await;
    until(|| hot.connections().adopted() == 1).await;
    migrates.ask("/").await;
    fresh.ask("/").await;
    assert_eq!(old.drained().await, 0);
    assert_eq!((hot.connections().requests(), hot.connections().accepted()), (0, 0));
    let mut byte = [0];
    assert!(migrates.stream.read(&mut byte).now_or_never().is_none(), "it was answered too early");
    tokio::spawn(server.into_future());
    for client in [&mut migrates, &mut fresh] {
        assert_eq!(client.answer().await.body, "new");
    }
}

#[tokio::test]
async fn two_listeners_have_their_own_applications_before_and_after() {
    async fn start(dir: &TempDir, names: [&'static str; 2]) -> (hotupdate::Serving, [SocketAddr; 2]) {
        let mut hot = builder(dir, MIGRATING).join().await.unwrap();
        let (one, two) =
            (hot.tcp("one", "127.0.0.1:0").await.unwrap(), hot.tcp("two", "127.0.0.1:0").await.unwrap());
        let addresses = [&one, &two].map(|listener| listener.local_addr().ip().unwrap());
        for (listener, name) in [one, two].into_iter().zip(names) {
            tokio::spawn(hotupdate_axum::serve(listener, answers(name), &mut hot).into_future());
        }
        (hot.ready().await.unwrap(), addresses)
    }
    let dir = tempfile::tempdir().unwrap();
    let (old, addresses) = start(&dir, ["one, old", "two, old"]).await;
    let mut clients = [Client::connect(addresses[0]).await, Client::connect(addresses[1]).await];
    for (client, name) in clients.iter_mut().zip(["one, old", "two, old"]) {
        assert_eq!(client.get("/").await.body, name);
    }
    let (new, _) = start(&dir, ["one, new", "two, new"]).await;
    until(|| new.connections().adopted() == 2).await;
    for (client, name) in clients.iter_mut().zip(["one, new", "two, new"]) {
        assert_eq!(client.get("/").await.body, name);
    }
    within(old.drained()).await;
}

#[tokio::test]
async fn a_server_that_is_dropped_closes_what_waits_for_it() {
    let old = Server::start(MIGRATING).await;
    let mut client = old.client().await;
    assert_eq!(client.get("/").await.body, "old");
    let (listener, mut hot) = old.successor(MIGRATING).await;
    let server = hotupdate_axum::serve(listener, answers("new"), &mut hot);
    let hot = hot.ready().await.unwrap();
    until(|| hot.connections().adopted() == 1).await;
    drop(server);
    client.ends().await;
    let address = old.address;
    assert_eq!(old.drained().await, 0);
    until(|| hot.connections().rows().is_empty()).await;
    assert!(TcpStream::connect(address).await.is_err(), "it does not listen any more");
}

#[tokio::test]
async fn a_running_server_that_is_dropped_accepts_no_more_and_its_connections_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let (hot, address, server) = first(&dir).await;
    let server = tokio::spawn(server.into_future());
    let _hot = hot.ready().await.unwrap();
    let mut client = Client::connect(address).await;
    assert_eq!(client.get("/").await.body, "first");
    server.abort();
    assert!(server.await.unwrap_err().is_cancelled());
    assert!(TcpStream::connect(address).await.is_err(), "it does not listen any more");
    assert_eq!(client.get("/").await.body, "first");
}

#[tokio::test]
async fn connections_stay_where_they_are_if_the_server_was_dropped_before() {
    let old = Server::start(MIGRATING).await;
    let mut client = old.client().await;
    assert_eq!(client.get("/").await.body, "old");
    let (listener, mut hot) = old.successor(MIGRATING).await;
    drop(hotupdate_axum::serve(listener, answers("new"), &mut hot));
    let hot = hot.ready().await.unwrap();
    within(old.hot.drain().started()).await;
    while !client.get("/").await.says_close() {}
    drop(client);
    assert_eq!(old.drained().await, 0);
    assert_eq!(hot.connections().adopted(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_waits_for_ready_too_long_says_so() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(log.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let dir = tempfile::tempdir().unwrap();
    let (hot, _, server) = first(&dir).await;
    let mut server = server.into_future();
    // The clock stands still while anything else can happen.
    assert!(tokio::time::timeout(std::time::Duration::from_secs(11), &mut server).await.is_err());
    let text = log.text();
    let warnings: Vec<_> = text.lines().filter(|line| line.contains("Starting::ready")).collect();
    assert!(warnings.len() == 1 && warnings[0].contains("listener=\"http\""), "{text}");
    drop(hot);
    assert!(server.await.is_err());
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
