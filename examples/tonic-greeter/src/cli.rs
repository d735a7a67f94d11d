//! The flags, the same as those of `axum-server` where they mean the same.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

/// A gRPC service whose connections move to the next version, between two calls or while streams are open.
///
/// Start it once, and `tonic-greeter greet` in another terminal; start it again: the client notices nothing,
/// and counts what it would have noticed. `kill -HUP` makes it start its own successor.
#[derive(Debug, Parser)]
#[command(name = "tonic-greeter", version, args_conflicts_with_subcommands = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) serve: Serve,

    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Calls a server over one connection until Ctrl-C, and says how many calls have failed
    Greet(Greet),
}

#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Where to listen
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:50051")]
    pub(crate) listen: String,

    /// Speak TLS with cert.pem and key.pem in this directory, which are made for `localhost` where both are
    /// missing; connections move to the next version all the same
    #[arg(long, value_name = "DIR")]
    pub(crate) tls: Option<PathBuf>,

    /// The control socket [default: $HOTUPDATE_SOCKET, or tonic-greeter/control.sock in /run or
    /// $XDG_RUNTIME_DIR]
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,

    /// What operators and clients see
    #[arg(long, value_name = "STRING", default_value = env!("CARGO_PKG_VERSION"))]
    pub(crate) app_version: String,

    /// How long connections that cannot move may take to end after a handoff [default: 60]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) drain_deadline: Option<Duration>,

    /// How long, after a handoff, the old process can take over again [default: 5]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) probation: Option<Duration>,
}

#[derive(Debug, Args)]
pub(crate) struct Greet {
    /// The server
    #[arg(value_name = "ADDR", default_value = "127.0.0.1:50051")]
    pub(crate) address: String,

    /// Speak TLS, and trust this certificate: the cert.pem of the server
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,

    /// Single calls at a time
    #[arg(long, value_name = "NUMBER", default_value_t = 8)]
    pub(crate) calls: usize,

    /// Streams that end, at a time
    #[arg(long, value_name = "NUMBER", default_value_t = 2)]
    pub(crate) streams: usize,

    /// Greetings of a stream that ends
    #[arg(long, value_name = "NUMBER", default_value_t = 5)]
    pub(crate) greetings: u64,

    /// How long each greeting of a stream takes
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 5)]
    pub(crate) every_ms: u64,

    /// Streams without an end at a time
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub(crate) endless: usize,
}

impl Serve {
    pub(crate) fn control_path(&self) -> hotupdate::Result<PathBuf> {
        self.control.clone().map_or_else(|| hotupdate::control_path("tonic-greeter"), Ok)
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_flags_are_consistent() {
        Cli::command().debug_assert();
    }
}
