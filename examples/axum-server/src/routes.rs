//! What the server answers.
//!
//! Deliberately absent: answers that go on for long, see [`crate::streams`].

use std::process::id;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::Query;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::{any, get, post};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Deserialize;

use crate::{metrics, streams};

/// Every route.
pub(crate) fn app(version: String, metrics: PrometheusHandle) -> Router {
    Router::new()
        .route("/", get(who))
        .route("/version", get(move || async move { version }))
        .route("/metrics", get(move || async move { metrics::text(&metrics) }))
        .route("/echo", post(echo))
        .route("/events", get(streams::events))
        .route("/ws", any(streams::upgrade))
}

#[derive(Debug, Deserialize)]
struct Pause {
    /// Seconds.
    #[serde(default)]
    sleep: f64,
}

/// `GET /?sleep=N`: which process answers, after N seconds.
async fn who(Query(Pause { sleep }): Query<Pause>) -> Result<String, (StatusCode, String)> {
    let pause = Duration::try_from_secs_f64(sleep)
        .map_err(|error| (StatusCode::BAD_REQUEST, format!("sleep: {error}\n")))?;
    tokio::time::sleep(pause).await;
    Ok(pid())
}

/// `POST /echo`: the body, and which process answers in the header `served-by`.
async fn echo(body: Bytes) -> impl IntoResponse {
    ([("served-by", pid())], body)
}

pub(crate) fn pid() -> String {
    format!("ospid:{}", id())
}
