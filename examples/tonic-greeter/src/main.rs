//! gRPC with tonic: calls and streams over connections that outlive the process that accepted them, and a
//! client that counts what it sees of that.
//!
//! Deliberately absent: code that is generated with protoc; see `build.rs`.

// That of the example, which shows it.
#[path = "../../axum-tls/src/certificate.rs"]
mod certificate;
mod cli;
mod client;
mod messages;
mod server;

/// What `build.rs` writes.
#[allow(
    clippy::allow_attributes_without_reason,
    clippy::pedantic,
    unreachable_pub,
    reason = "it is generated"
)]
mod greeter {
    include!(concat!(env!("OUT_DIR"), "/greeter.Greeter.rs"));
}

use std::fmt;
use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::Parser as _;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::cli::{Cli, Command};

#[tokio::main]
async fn main() -> ExitCode {
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).from_env_lossy();
    let terminal = io::stderr().is_terminal();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(terminal);
    // A line that cannot be written, because the disk is full, is lost; complaining about it would panic.
    log.log_internal_errors(false).init();
    let Cli { serve, command } = Cli::parse();
    let result = match command {
        Some(Command::Greet(greet)) => client::run(greet).await,
        None => server::run(serve).await,
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error may be gone with the terminal; the exit code is not.
            let _ = writeln!(io::stderr(), "tonic-greeter: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// One line for a script, a test or a person that waits for it. A closed output or a full disk is no reason
/// to stop serving.
fn say(line: fmt::Arguments<'_>) {
    let mut stdout = io::stdout().lock();
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}
