//! The load against servers of known manners: what is counted must be what happened.
//!
//! Deliberately absent: hotupdate. The load must be trusted before it judges anything.

mod good;
mod http1;
mod server;
mod streams;

use std::net::SocketAddr;
use std::time::Duration;

use super::{FailureClass, Kind, Load, LoadPlan, Tally};
use crate::process::{SOON, eventually};

fn plan_of(kind: Kind) -> LoadPlan {
    let mut plan = LoadPlan { pace: Duration::from_millis(2), ..LoadPlan::none() };
    match kind {
        Kind::KeepAlive => plan.keep_alive = 1,
        Kind::PerRequest => plan.per_request = 1,
        Kind::Post => plan.post = 1,
        Kind::Slow => plan.slow = 1,
        Kind::Sse => plan.sse = 1,
        Kind::WebSocket => plan.websocket = 1,
        Kind::Http2 => plan.http2 = 1,
    }
    plan.patience = SOON;
    plan.slow_takes = Duration::from_millis(20);
    plan
}

/// One client against a server, until so many requests have an outcome.
fn tally_of(kind: Kind, address: SocketAddr, outcomes: u64) -> Tally {
    tally_by(plan_of(kind), kind, address, outcomes)
}

fn tally_by(plan: LoadPlan, kind: Kind, address: SocketAddr, outcomes: u64) -> Tally {
    let load = Load::start(address, plan);
    eventually("enough requests with an outcome", SOON, || {
        let progress = load.progress();
        (progress.all_answered() + progress.all_failed() >= outcomes).then_some(())
    });
    let report = load.stop();
    let tally = report.kinds[&kind].clone();
    let accounted = tally.answered + tally.failed() + tally.unechoed + tally.retried;
    assert_eq!(tally.sent, accounted, "the books do not balance\n{report}");
    tally
}

#[track_caller]
fn assert_only(tally: &Tally, class: FailureClass) {
    assert!(tally.failed() > 0, "{tally:?}");
    assert_eq!(tally.failures.keys().copied().collect::<Vec<_>>(), [class], "{:?}", tally.texts);
}
