//! `GET /metrics`: the counts of this process, and of those before it, for Prometheus.
//!
//! Deliberately absent: a listener of its own. The one for HTTP moves from version to version, so a scraper
//! finds the process that serves; the label `generation` says which process counted.

use anyhow::Context as _;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

/// From a loaded machine's best to what a client notices.
const GAP_SECONDS: [f64; 7] = [0.0001, 0.0005, 0.001, 0.005, 0.01, 0.1, 1.0];

/// Makes everything that is counted from now on visible.
pub(crate) fn install() -> anyhow::Result<PrometheusHandle> {
    let gap = Matcher::Full("hotupdate_gap_seconds".to_owned());
    let builder = PrometheusBuilder::new().set_buckets_for_metric(gap, &GAP_SECONDS);
    builder.context("there are buckets")?.install_recorder().context("cannot install the metrics")
}

/// The text form (<https://prometheus.io/docs/instrumenting/exposition_formats/>).
pub(crate) fn text(metrics: &PrometheusHandle) -> impl IntoResponse + use<> {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], metrics.render())
}
