//! A raw protocol whose connections outlive the process that accepted them: lines are echoed, and counted.
//!
//! Deliberately absent: anything that a moving connection does not need. What is said is in `echo.rs`.

mod cli;
mod echo;

use std::fmt;
use std::io::{self, IsTerminal as _, Write as _};
use std::process::{ExitCode, id};
use std::sync::Arc;

use anyhow::Context as _;
use clap::Parser as _;
use hotupdate::{Connection, Listener, SignalKind, Starting};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::cli::Cli;
use crate::echo::Conversation;

/// The name of the conversation, and of the state that goes with it. A version that speaks another one has
/// another name.
const KIND: &str = "line-echo/1";

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
            let _ = writeln!(io::stderr(), "tcp-echo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    let mut hot = join(&cli).await?;
    let tcp = hot.tcp("echo", cli.listen.as_str()).await?;
    let address = tcp.local_addr().ip().context("a TCP listener has an IP address")?;
    let version: Arc<str> = cli.app_version.into();

    let ours = version.clone();
    hot.on_migrated(KIND, move |connection, conversation| converse(connection, conversation, ours.clone()))?;

    let hot = hot.ready().await?;
    let (generation, pid) = (hot.generation(), id());
    say(format_args!("serving generation={generation} pid={pid} tcp={address}"));

    tokio::spawn(accept(tcp, version));
    hot.drained().await;
    let forced = hot.connections().forced();
    say(format_args!("drained generation={generation} pid={pid} forced={forced}"));
    Ok(())
}

async fn join(cli: &Cli) -> anyhow::Result<Starting> {
    let control = cli.control_path()?;
    let mut builder =
        hotupdate::builder(control).version(&cli.app_version).successor_signal(SignalKind::hangup());
    if let Some(deadline) = cli.drain_deadline {
        builder = builder.drain_deadline(deadline);
    }
    if let Some(probation) = cli.probation {
        builder = builder.probation(probation);
    }
    Ok(builder.join().await?)
}

async fn accept(mut listener: Listener, version: Arc<str>) {
    while let Some(connection) = listener.accept().await {
        tokio::spawn(converse(connection, Conversation::default(), version.clone()));
    }
}

/// Until the client leaves, or the next version goes on with the conversation.
async fn converse(mut connection: Connection, mut conversation: Conversation, version: Arc<str>) {
    let mut slot = connection.migration_slot();
    loop {
        tokio::select! {
            () = slot.acquire(KIND) => match connection.migrate(KIND, &conversation).await {
                Ok(()) => return,
                // Nothing is lost: it stays, and its turn comes again when something changes.
                Err(stays) => connection = stays.connection,
            },
            goes_on = step(&mut connection, &mut conversation, &version) => if !goes_on { return },
        }
    }
}

/// Sends or hears something; false when the client has left. Can be cut short at any time without losing a
/// byte, so that a move never waits for a client.
async fn step(connection: &mut Connection, conversation: &mut Conversation, version: &str) -> bool {
    if conversation.unsent().is_empty() {
        let mut bytes = [0; 1024];
        match connection.read(&mut bytes).await {
            Ok(read @ 1..) => {
                // A line is a request: operators see how many.
                let lines = bytes[..read].iter().filter(|byte| **byte == b'\n').count();
                (0..lines).for_each(|_| drop(connection.activity().begin_request()));
                conversation.heard(&bytes[..read], version).is_ok()
            }
            _ => false,
        }
    } else {
        match connection.write(conversation.unsent()).await {
            Ok(sent @ 1..) => {
                conversation.sent(sent);
                true
            }
            _ => false,
        }
    }
}

/// One line for a script, a test or a person that waits for it. A closed output or a full disk is no reason
/// to stop serving.
fn say(line: fmt::Arguments<'_>) {
    let mut stdout = io::stdout().lock();
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}
