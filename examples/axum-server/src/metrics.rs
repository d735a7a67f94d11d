//! `GET /metrics`: the counts of this process, and of those before it, for Prometheus.
//!
//! Deliberately absent: a listener of its own. The one for HTTP moves from version to version, so a scraper
//! finds the process that serves, and what is counted of the whole service goes on in it.

use anyhow::Context as _;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

/// Makes everything that is counted from now on visible.
pub(crate) fn install() -> anyhow::Result<PrometheusHandle> {
    PrometheusBuilder::new().install_recorder().context("cannot install the metrics")
}

/// The text form (<https://prometheus.io/docs/instrumenting/exposition_formats/>).
pub(crate) fn text(metrics: &PrometheusHandle) -> impl IntoResponse + use<> {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], metrics.render())
}
