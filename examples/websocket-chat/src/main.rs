//! A chat room that survives a deploy: its members stay connected, and every message reaches all of them once
//! and in order.
//!
//! Deliberately absent: reconnecting. What is in the room is in `room.rs`, what a member does is in
//! `member.rs`.

mod cli;
mod member;
mod room;

use std::fmt;
use std::io::{self, IsTerminal as _, Write as _};
use std::process::{ExitCode, id};
use std::sync::Arc;

use anyhow::Context as _;
use axum::Router;
use axum::extract::Query;
use axum::response::{Html, Response};
use axum::routing::{any, get};
use clap::Parser as _;
use hotupdate::SignalKind;
use hotupdate_axum::ws;
use serde::Deserialize;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::cli::Cli;
use crate::member::{Member, Server};
use crate::room::Room;

#[tokio::main]
async fn main() -> ExitCode {
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).from_env_lossy();
    let terminal = io::stderr().is_terminal();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(terminal);
    // A line that cannot be written, because the disk is full, is lost; complaining about it would panic.
    log.log_internal_errors(false).init();
    match run(Cli::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error may be gone with the terminal; the exit code is not.
            let _ = writeln!(io::stderr(), "websocket-chat: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    let mut builder = hotupdate::builder(cli.control_path()?)
        .version(&cli.app_version)
        .successor_signal(SignalKind::hangup());
    if let Some(probation) = cli.probation {
        builder = builder.probation(probation);
    }
    let mut starting = builder.join().await?;
    let http = starting.tcp("http", cli.listen.as_str()).await?;
    let address = http.local_addr().ip().context("a TCP listener has an IP address")?;
    let room = Arc::new(Room::default());
    let exported = room.clone();
    starting.export("room", room::SCHEMA, move || exported.export())?;

    let (generation, pid) = (starting.generation(), id());
    let (version, name) = (cli.app_version.into(), generation.to_string().into());
    let server = Server { room: room.clone(), version, generation: name };
    let next = server.clone();
    ws::on_migrated(&mut starting, member::KIND, move |socket, member| next.clone().go_on(socket, member))?;
    let http = hotupdate_axum::serve(http, app(server), &mut starting);

    let hot = starting.ready().await?;
    room.open(&hot);
    say(format_args!("serving generation={generation} pid={pid} http={address}"));

    http.await?;
    let forced = hot.connections().forced();
    say(format_args!("drained generation={generation} pid={pid} forced={forced}"));
    Ok(())
}

#[derive(Debug, Deserialize)]
struct Join {
    #[serde(default)]
    name: String,
}

fn app(server: Server) -> Router {
    let join = async move |Query(Join { name }): Query<Join>, upgrade: ws::Upgrade| -> Response {
        let member = Member::new(&name);
        let upgrade = upgrade.max_message_size(member::MAX_MESSAGE);
        upgrade.on_upgrade(move |socket| server.serve(socket, member))
    };
    Router::new().route("/", get(Html(include_str!("page.html")))).route("/chat", any(join))
}

/// One line for a script, a test or a person that waits for it. A closed output or a full disk is no reason
/// to stop serving.
fn say(line: fmt::Arguments<'_>) {
    let mut stdout = io::stdout().lock();
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}
