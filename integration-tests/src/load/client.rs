//! What all kinds of clients have in common: where they go, when they stop, what they count.
//!
//! Deliberately absent: requests. Each kind makes its own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::progress::Progress;
use super::tally::{Failure, FailureClass, Kind, Tally};
use super::{LoadPlan, http2, request, sse, websocket};

/// One client.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) address: SocketAddr,
    pub(super) plan: LoadPlan,
    pub(super) kind: Kind,
    pub(super) tally: Tally,
    pub(super) dice: Dice,
    progress: Arc<Progress>,
    stop: watch::Receiver<bool>,
}

impl Client {
    pub(super) fn new(
        address: SocketAddr,
        plan: &LoadPlan,
        kind: Kind,
        number: usize,
        progress: Arc<Progress>,
        stop: watch::Receiver<bool>,
    ) -> Self {
        let dice = Dice::new(kind as u64 * 1000 + number as u64);
        Self { address, plan: plan.clone(), kind, tally: Tally::default(), dice, progress, stop }
    }

    /// Works until it is told to stop.
    pub(super) async fn run(mut self) -> (Kind, Tally) {
        match self.kind {
            Kind::KeepAlive => request::keep_alive(&mut self).await,
            Kind::PerRequest => request::per_request(&mut self).await,
            Kind::Post => request::post(&mut self).await,
            Kind::Slow => request::slow(&mut self).await,
            Kind::Sse => sse::run(&mut self).await,
            Kind::WebSocket => websocket::run(&mut self).await,
            Kind::Http2 => http2::run(&mut self).await,
        }
        (self.kind, self.tally)
    }

    /// Whether to stop. A load that was dropped stops too.
    pub(super) fn is_stopped(&self) -> bool {
        *self.stop.borrow() || self.stop.has_changed().is_err()
    }

    /// Comes back when it is time to stop; takes a copy, so that the client stays free for other things.
    pub(super) fn stopped(&self) -> impl Future<Output = ()> + use<> {
        let mut stop = self.stop.clone();
        async move {
            let _dropped_means_stop_too = stop.wait_for(|stop| *stop).await;
        }
    }

    /// The pause before the next request.
    pub(super) fn pause(&mut self) -> Duration {
        let pace = self.plan.pace;
        pace / 2 + pace.mul_f64(self.dice.fraction())
    }

    pub(super) fn sent(&mut self) {
        self.tally.sent += 1;
    }

    pub(super) fn answered(&mut self, begun: Instant, took: Duration) {
        self.tally.answered += 1;
        self.tally.add_sample(begun, took);
        self.progress.count_answered(self.kind);
    }

    pub(super) fn failed(&mut self, failure: Failure) {
        self.tally.add_failure(failure);
        self.progress.count_failed(self.kind);
    }

    /// A failure that belongs to no request.
    pub(super) fn failed_alone(&mut self, failure: Failure) {
        self.sent();
        self.failed(failure);
    }

    pub(super) fn served_by_pid(&mut self, pid: u32) {
        *self.tally.pids.entry(pid).or_default() += 1;
    }

    pub(super) fn served_by_version(&mut self, version: &str) {
        *self.tally.versions.entry(version.to_owned()).or_default() += 1;
    }
}

/// Gives up after `deadline`.
pub(super) async fn within<T>(
    deadline: Duration,
    doing: &str,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::time::timeout(deadline, work).await.unwrap_or_else(|_| {
        Err(Failure::new(FailureClass::Timeout, format!("{doing}: nothing in {deadline:?}")))
    })
}

/// Numbers that look random and are the same in every run (xorshift, Marsaglia 2003).
#[derive(Clone, Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(super) fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.roll() % limit
    }

    /// From 0 to 1.
    fn fraction(&mut self) -> f64 {
        f64::from(u32::try_from(self.roll() >> 32).unwrap_or_default()) / f64::from(u32::MAX)
    }
}
