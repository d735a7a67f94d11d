//! Requests and handoffs as spans, for any collector that speaks OTLP over gRPC.
//!
//! `hotupdate` puts everything about a handoff into the span `handoff`, whose field of the same name has one
//! value in the old process and in the new one: a search for it shows both sides. Spans of a process that
//! drains are sent before it ends.
//!
//! Deliberately absent: metrics; `axum-server` has them.

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::extract::{Query, Request};
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::routing::get;
use clap::Parser;
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use serde::Deserialize;
use tracing::Instrument as _;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// An HTTP server that can be replaced while it runs, and sends spans to OTEL_EXPORTER_OTLP_ENDPOINT
#[derive(Debug, Parser)]
#[command(name = "traced-hello", version)]
struct Cli {
    /// Where to listen for HTTP
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    listen: String,

    /// What spans and operators see
    #[arg(long, value_name = "STRING", default_value = env!("CARGO_PKG_VERSION"))]
    app_version: String,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let provider = trace(&cli.app_version)?;
    let served = serve(cli).await;
    // What the last requests of the drain have left. It blocks until the collector has it.
    let flushed = tokio::task::spawn_blocking(move || provider.shutdown()).await?;
    served.and(flushed.context("the last spans are lost"))
}

/// Lines on standard error for people, and spans for the collector. Its address is in the environment, as
/// OpenTelemetry says (<https://opentelemetry.io/docs/specs/otel/protocol/exporter/>).
fn trace(version: &str) -> anyhow::Result<SdkTracerProvider> {
    let exporter = SpanExporter::builder().with_tonic().build().context("cannot export spans")?;
    let version = KeyValue::new("service.version", version.to_owned());
    let resource = Resource::builder().with_service_name("traced-hello").with_attribute(version).build();
    let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build();
    let spans = tracing_opentelemetry::layer().with_tracer(provider.tracer("traced-hello"));
    let lines =
        tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
    // A line that cannot be written, because the disk is full, is lost; complaining about it would panic.
    let lines = lines.log_internal_errors(false);
    tracing_subscriber::registry().with(LevelFilter::INFO).with(lines).with(spans).init();
    Ok(provider)
}

async fn serve(cli: Cli) -> anyhow::Result<()> {
    let control = hotupdate::control_path("traced-hello")?;
    let mut hot = hotupdate::builder(control).version(&cli.app_version).join().await?;
    let http = hot.tcp("http", cli.listen.as_str()).await?;
    let app = Router::new().route("/", get(hello)).layer(from_fn(span));
    let server = hotupdate_axum::serve(http, app, &mut hot);
    hot.ready().await?;
    server.await?;
    Ok(())
}

#[derive(Debug, Deserialize)]
struct Pause {
    /// Seconds.
    #[serde(default)]
    sleep: f64,
}

async fn hello(Query(Pause { sleep }): Query<Pause>) -> &'static str {
    tokio::time::sleep(Duration::try_from_secs_f64(sleep).unwrap_or_default()).await;
    "hello\n"
}

/// One span for each request.
async fn span(request: Request, next: Next) -> Response {
    let span = tracing::info_span!("request", method = %request.method(), uri = %request.uri());
    next.run(request).instrument(span).await
}
