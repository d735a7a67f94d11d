//! The classic demonstration: a server that is replaced by a new version while its slow requests are in
//! flight.
//!
//! Deliberately absent: anything that a hot update does not need. What it answers is in `routes.rs` and
//! `streams.rs`.

// That of the example, which shows it.
#[path = "../../axum-tls/src/certificate.rs"]
mod certificate;
#[cfg(test)]
mod certificate_tests;
mod cli;
mod metrics;
mod privileges;
mod routes;
mod streams;

use std::fmt;
use std::io::{self, IsTerminal as _, Write as _};
use std::process::{ExitCode, id};

use anyhow::{Context as _, bail};
use clap::Parser as _;
use hotupdate::{SignalKind, Starting, Timing};
use hotupdate_axum::tls::{self, Tls};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::cli::{Cli, Failure, Log};

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    log(cli.log);
    match run(cli).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error may be gone with the terminal; the exit code is not.
            let _ = writeln!(io::stderr(), "axum-server: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn log(form: Log) {
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).from_env_lossy();
    let terminal = io::stderr().is_terminal();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(terminal);
    // A line that cannot be written, because the disk is full, is lost; complaining about it would panic.
    let log = log.log_internal_errors(false);
    match form {
        Log::Text => log.init(),
        Log::Json => log.json().flatten_event(true).init(),
    }
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    // First of all: what counts asks for its metrics when it begins.
    let metrics = metrics::install()?;
    let mut hot = join(&cli).await?;
    let http = hot.tcp("http", cli.listen.as_str()).await?;
    let address = http.local_addr().ip().context("a TCP listener has an IP address")?;
    let app = routes::app(cli.app_version, metrics);

    tokio::time::sleep(cli.warm_up).await;
    if let Some(failure) = cli.fail_before_ready {
        fail(failure).await?;
    }
    let mut server = hotupdate_axum::serve(http, app, &mut hot);
    if let Some(directory) = &cli.tls {
        let (config, tickets) = (certificate::config(directory)?, tls::stored_tickets(&mut hot)?);
        server = server.tls(Tls::new(config).tickets(tickets).move_connections(true));
    }
    streams::on_migrated(&mut hot)?;
    let hot = hot.ready().await?;
    if let Some(uid) = cli.run_as_uid {
        privileges::drop_to(uid).with_context(|| format!("becoming the user {uid}"))?;
    }
    let (generation, pid) = (hot.generation(), id());
    say(format_args!("serving generation={generation} pid={pid} http={address}"));

    server.await?;
    let forced = hot.connections().forced();
    say(format_args!("drained generation={generation} pid={pid} forced={forced}"));
    Ok(())
}

async fn join(cli: &Cli) -> anyhow::Result<Starting> {
    let control = cli.control_path()?;
    let mut builder = hotupdate::builder(control)
        .version(&cli.app_version)
        .timing(Timing::default().scaled(cli.deadline_scale))
        .on_command(cli.standby)
        .successor_signal(SignalKind::hangup());
    for uid in &cli.allow_uid {
        builder = builder.allow_uid(*uid);
    }
    for uid in &cli.allow_successor_uid {
        builder = builder.allow_successor_uid(*uid);
    }
    for uid in &cli.allow_predecessor_uid {
        builder = builder.allow_predecessor_uid(*uid);
    }
    if let Some(uid) = cli.run_as_uid {
        builder = builder.runs_as_uid(uid);
    }
    if let Some(name) = &cli.name {
        builder = builder.name(name);
    }
    if let Some(deadline) = cli.drain_deadline {
        builder = builder.drain_deadline(deadline);
    }
    if let Some(probation) = cli.probation {
        builder = builder.probation(probation);
    }
    Ok(builder.join().await?)
}

/// One line for a script, a test or a person that waits for it. A closed output or a full disk is no reason
/// to stop serving.
fn say(line: fmt::Arguments<'_>) {
    let mut stdout = io::stdout().lock();
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}

/// A version that must not take over.
async fn fail(failure: Failure) -> anyhow::Result<()> {
    match failure {
        Failure::Exit => bail!("told to exit before it is ready"),
        Failure::Panic => panic!("told to panic before it is ready"),
        Failure::Hang => std::future::pending().await,
    }
}
