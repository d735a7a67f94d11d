//! A server in this process that can be replaced by another one in this process.
//!
//! Deliberately absent: clients, see [`crate::client`].

use std::future::IntoFuture;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::routing::{get, post};
use hotupdate::{Builder, Listener, Serving, Starting, Timing};
use hotupdate_axum::{Draining, Peer};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::client::Client;

pub(crate) const LONG: Duration = Duration::from_secs(30);
pub(crate) const SHORT: Duration = Duration::from_millis(100);

/// A version of the server.
pub(crate) struct Server {
    dir: Arc<TempDir>,
    pub(crate) address: SocketAddr,
    pub(crate) hot: Serving,
    /// The requests to `/held` that may be answered.
    pub(crate) release: Arc<Semaphore>,
    done: JoinHandle<hotupdate::Result<()>>,
}

/// The times of a drain, as one test wants them.
#[derive(Clone, Copy)]
pub(crate) struct Times {
    pub(crate) deadline: Duration,
    pub(crate) grace: Duration,
    pub(crate) probation: Duration,
    pub(crate) header: Duration,
    /// How long requests wait so that their HTTP/2 connection can migrate.
    pub(crate) hold: Duration,
    /// Live connections migrate, if the other version says the same.
    pub(crate) migrates: bool,
}

/// Nothing ends by itself within the time of a test.
pub(crate) const PATIENT: Times = Times {
    deadline: LONG,
    grace: LONG,
    probation: Duration::ZERO,
    header: LONG,
    hold: LONG,
    migrates: false,
};
/// Connections migrate.
pub(crate) const MIGRATING: Times = Times { migrates: true, ..PATIENT };
/// Silent connections are closed soon.
pub(crate) const BRISK: Times = Times { grace: SHORT, ..PATIENT };

impl Server {
    pub(crate) async fn start(times: Times) -> Self {
        Self::start_with(times, |router| router).await
    }

    /// With further routes.
    pub(crate) async fn start_with(
        times: Times,
        more: impl FnOnce(Router<Arc<Semaphore>>) -> Router<Arc<Semaphore>>,
    ) -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        Self::join(dir, "127.0.0.1:0", "old", times, more).await
    }

    /// A new version takes over; this one drains.
    pub(crate) async fn hand_off(&self) -> Self {
        self.hand_off_to(PATIENT).await
    }

    pub(crate) async fn hand_off_to(&self, times: Times) -> Self {
        self.hand_off_with(times, |router| router).await
    }

    pub(crate) async fn hand_off_with(
        &self,
        times: Times,
        more: impl FnOnce(Router<Arc<Semaphore>>) -> Router<Arc<Semaphore>>,
    ) -> Self {
        let address = self.address.to_string();
        let new = Self::join(self.dir.clone(), &address, "new", times, more).await;
        within(self.hot.drain().started()).await;
        new
    }

    /// A new version takes over and dies while this one drains.
    pub(crate) async fn hand_off_in_vain(&self) {
        let (dir, address) = (self.dir.clone(), self.address.to_string());
        let doomed =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let join = async move { Self::join(dir, &address, "doomed", PATIENT, |router| router).await };
        let new = doomed.spawn(join).await.unwrap();
        within(self.hot.drain().started()).await;
        doomed.shutdown_background();
        within(self.hot.drain().ended()).await;
        drop(new);
    }

    /// A new version that is not ready yet.
    pub(crate) async fn successor(&self, times: Times) -> (Listener, Starting) {
        let mut hot = builder(&self.dir, times).join().await.unwrap();
        let listener = hot.tcp("http", &self.address.to_string()).await.unwrap();
        (listener, hot)
    }

    /// This version serves again, on command.
    pub(crate) async fn roll_back(&self) {
        let mut control = UnixStream::connect(self.dir.path().join("control.sock")).await.unwrap();
        control.write_all(b"{\"method\":\"io.hotupdate.Rollback\"}\0").await.unwrap();
        within(self.hot.drain().ended()).await;
    }

    async fn join(
        dir: Arc<TempDir>,
        address: &str,
        version: &'static str,
        times: Times,
        more: impl FnOnce(Router<Arc<Semaphore>>) -> Router<Arc<Semaphore>>,
    ) -> Self {
        let mut hot = builder(&dir, times).join().await.unwrap();
        let listener = hot.tcp("http", address).await.unwrap();
        let address = listener.local_addr().ip().unwrap();
        let release = Arc::new(Semaphore::new(0));
        let app = more(app(version)).with_state(release.clone());
        let serve = hotupdate_axum::serve(listener, app, &mut hot);
        let serve = serve.http1(|http1| http1.header_read_timeout(times.header));
        let hot = hot.ready().await.unwrap();
        Self { dir, address, hot, release, done: tokio::spawn(serve.into_future()) }
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect(self.address).await
    }

    /// Waits for the end of `serve`; returns how many connections had to be forced.
    pub(crate) async fn drained(self) -> u64 {
        within(self.done).await.unwrap().unwrap();
        assert_eq!(self.hot.connections().rows(), []);
        self.hot.connections().forced()
    }
}

pub(crate) fn builder(dir: &TempDir, times: Times) -> Builder {
    let timing =
        Timing::default().drain_grace(times.grace).drain_spread(Duration::ZERO).drain_hold(times.hold);
    hotupdate::builder(dir.path().join("control.sock"))
        .drain_deadline(times.deadline)
        .probation(times.probation)
        // The folder goes at the end of a test, a moment before its services: they must not make it again.
        .timing(timing.path_check(Duration::MAX))
        .migrate_connections(times.migrates)
}

fn app(version: &'static str) -> Router<Arc<Semaphore>> {
    Router::new()
        .route("/", get(move || async move { version }))
        .route("/echo", post(|body: String| async move { body }))
        .route("/bytes", post(|body: Bytes| async move { body }))
        .route("/ignore", post(|| async { "ignored" }))
        .route("/same", get(|| async { "same" }))
        .route("/peer", get(|Peer(peer): Peer| async move { peer.to_string() }))
        .route(
            "/draining",
            get(|draining: Draining| async move {
                draining.started().await;
                "draining"
            }),
        )
        .route(
            "/held",
            get(move |State(release): State<Arc<Semaphore>>| async move {
                release.acquire().await.unwrap().forget();
                version
            }),
        )
}

/// Fails when something takes longer than any test should.
pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(LONG / 2, future).await.expect("it took too long")
}

/// Polls until `condition` holds.
pub(crate) async fn until(mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < LONG / 2, "it took too long");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
