//! The load: one thread, one epoll instance, and clients that are small state machines, so that a sample says
//! when the server answered and not when a scheduler of ours woke up.
//!
//! Every latency counts from the moment at which the request was meant to be sent. No request is sent twice.
//! A request is lost if its bytes were written and no complete answer came; a connection that is seen closed
//! before its next request is counted apart, because a client can tell and open another one.

mod client;
mod event_loop;
mod samples;

pub(crate) use event_loop::run;
pub(crate) use samples::{Kind, Outcome, Sample, read};

use std::net::SocketAddr;

/// What the clients do.
#[derive(Clone, Debug, clap::Args)]
#[command(args_override_self = true)]
pub(crate) struct Load {
    /// Where the system answers `GET /` with its version.
    #[arg(long)]
    pub(crate) http: SocketAddr,
    /// Where it echoes bytes.
    #[arg(long)]
    pub(crate) raw: SocketAddr,
    /// What is asked for.
    #[arg(long, default_value = "/")]
    pub(crate) path: String,
    /// Clients that ask again when they have their answer.
    #[arg(long, default_value_t = 4)]
    pub(crate) closed: usize,
    /// How long they think before, in microseconds.
    #[arg(long, default_value_t = 2_000)]
    pub(crate) thinks: u64,
    /// They open a connection for each request.
    #[arg(long)]
    pub(crate) reconnect: bool,
    /// Requests in a second, on a schedule, over as many keep-alive connections as they need.
    #[arg(long, default_value_t = 2_000)]
    pub(crate) paced: u64,
    /// Requests in a second that open a connection each.
    #[arg(long, default_value_t = 500)]
    pub(crate) fresh: u64,
    /// Connections that have asked once, and ask again at the end.
    #[arg(long, default_value_t = 1_000)]
    pub(crate) idle: usize,
    /// So many of them in a second.
    #[arg(long, default_value_t = 1_000)]
    pub(crate) ask: u64,
    /// Raw connections that send a few bytes twenty times in a second.
    #[arg(long, default_value_t = 20)]
    pub(crate) streams: usize,
    /// Where the samples are written to.
    #[arg(long)]
    pub(crate) samples: std::path::PathBuf,
}

/// Nanoseconds of the monotonic clock, which all processes share.
pub(crate) fn now() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    // Neither is negative.
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}
