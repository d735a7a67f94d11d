//! WebSockets that migrate to the next version: what their clients see, which is nothing.
//!
//! Deliberately absent: real processes, see `integration-tests/tests/connections/chat.rs`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]

mod client;
mod conversations;
mod halves;
mod server;
mod settings;
mod staying;

use std::time::Duration;

use tokio::time::timeout;

pub(crate) const SOON: Duration = Duration::from_secs(20);
pub(crate) const SPREAD: Duration = Duration::from_millis(400);

pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    timeout(SOON, future).await.expect("it took too long")
}
