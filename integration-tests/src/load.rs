//! The mixed load: every kind of client that a service has, each counting what became of every request.
//!
//! Deliberately absent: retries. A client that retries hides what a hot update must not do.
//!
//! The load runs on one thread with a runtime of its own, so that it takes at most one core and the caller
//! may block as it likes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;

mod tally;
pub use tally::{Failure, FailureClass, Kind, Sample, Tally};

mod report;
pub use report::{Latency, Report, Window};

mod progress;
pub use progress::Progress;

mod client;
use client::Client;

mod http1;
mod http2;
mod request;
mod sse;
mod websocket;

#[cfg(test)]
mod tests;

/// How many clients of each kind, and how hard they work. Without any load of another kind the default takes
/// a part of one core.
#[derive(Clone, Debug)]
pub struct LoadPlan {
    /// Clients with one keep-alive connection: `GET /` and `GET /version` by turns.
    pub keep_alive: usize,
    /// Clients that open a connection for each request.
    pub per_request: usize,
    /// Clients that post a body of varying size and compare the echo, byte by byte.
    pub post: usize,
    /// Clients with a slow request in flight nearly all the time.
    pub slow: usize,
    /// Clients that listen to `GET /events`.
    pub sse: usize,
    /// Clients that send numbered messages to `/ws`.
    pub websocket: usize,
    /// HTTP/2 connections, each with some streams at a time.
    pub http2: usize,
    /// The mean pause of a client between two requests; each varies by half of it.
    pub pace: Duration,
    /// How long a slow request takes.
    pub slow_takes: Duration,
    /// How long any answer may take, beyond what the request asks for.
    pub patience: Duration,
    /// How long an event stream may say nothing.
    pub silence: Duration,
}

impl Default for LoadPlan {
    fn default() -> Self {
        Self {
            keep_alive: 6,
            per_request: 2,
            post: 2,
            slow: 2,
            sse: 2,
            websocket: 2,
            http2: 1,
            pace: Duration::from_millis(5),
            slow_takes: Duration::from_millis(700),
            patience: Duration::from_secs(10),
            silence: Duration::from_secs(30),
        }
    }
}

impl LoadPlan {
    /// No clients at all, to add some to.
    #[must_use]
    pub fn none() -> Self {
        Self {
            keep_alive: 0,
            per_request: 0,
            post: 0,
            slow: 0,
            sse: 0,
            websocket: 0,
            http2: 0,
            ..Self::default()
        }
    }

    /// How many clients there are of this kind.
    #[must_use]
    pub fn clients(&self, kind: Kind) -> usize {
        match kind {
            Kind::KeepAlive => self.keep_alive,
            Kind::PerRequest => self.per_request,
            Kind::Post => self.post,
            Kind::Slow => self.slow,
            Kind::Sse => self.sse,
            Kind::WebSocket => self.websocket,
            Kind::Http2 => self.http2,
        }
    }
}

/// A load that runs. Dropped without [`Load::stop`], it comes to an end by itself.
#[derive(Debug)]
pub struct Load {
    plan: LoadPlan,
    progress: Arc<Progress>,
    stop: watch::Sender<bool>,
    thread: JoinHandle<Report>,
}

impl Load {
    /// Starts it.
    ///
    /// # Panics
    ///
    /// If the system gives no thread.
    #[must_use]
    pub fn start(address: SocketAddr, plan: LoadPlan) -> Self {
        let progress = Arc::new(Progress::default());
        let (stop, stopped) = watch::channel(false);
        let thread = {
            let (plan, progress) = (plan.clone(), Arc::clone(&progress));
            thread::Builder::new()
                .name("load".into())
                .spawn(move || run(address, &plan, &progress, stopped))
                .expect("the system gives a thread")
        };
        Self { plan, progress, stop, thread }
    }

    /// What has happened so far.
    #[must_use]
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Whether every kind of client that there is has had an answer.
    #[must_use]
    pub fn is_warm(&self) -> bool {
        Kind::ALL.iter().all(|kind| self.plan.clients(*kind) == 0 || self.progress.answered(*kind) > 0)
    }

    /// Lets every client finish what it does, and counts. This blocks, at most for the longest request.
    ///
    /// # Panics
    ///
    /// If a client panicked.
    #[must_use]
    pub fn stop(self) -> Report {
        let Self { plan: _, progress: _, stop, thread } = self;
        stop.send_replace(true);
        thread.join().expect("the load does not panic")
    }
}

fn run(
    address: SocketAddr,
    plan: &LoadPlan,
    progress: &Arc<Progress>,
    stop: watch::Receiver<bool>,
) -> Report {
    let begun = Instant::now();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("the system gives epoll");
    let tallies = runtime.block_on(async {
        let mut clients = JoinSet::new();
        for kind in Kind::ALL {
            for number in 0..plan.clients(kind) {
                let client = Client::new(address, plan, kind, number, Arc::clone(progress), stop.clone());
                clients.spawn(client.run());
            }
        }
        clients.join_all().await
    });
    Report::new(tallies, begun, Instant::now())
}
