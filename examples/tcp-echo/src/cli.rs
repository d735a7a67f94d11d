//! The flags, the same as those of `axum-server` where they mean the same.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

/// A server of a raw protocol, whose connections move to the next version while they are in use.
///
/// Start it once and connect (`nc 127.0.0.1 7777`); start it again, and go on typing: the second process
/// answers on the same connection, and counts on. `kill -HUP` makes it start its own successor.
#[derive(Debug, Parser)]
#[command(name = "tcp-echo", version)]
pub(crate) struct Cli {
    /// Where to listen
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7777")]
    pub(crate) listen: String,

    /// The control socket [default: $HOTUPDATE_SOCKET, or tcp-echo/control.sock in /run or $XDG_RUNTIME_DIR]
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,

    /// What stands before each answer, and what operators see
    #[arg(long, value_name = "STRING", default_value = env!("CARGO_PKG_VERSION"))]
    pub(crate) app_version: String,

    /// How long connections that cannot move may take to end after a handoff [default: 60]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) drain_deadline: Option<Duration>,

    /// How long, after a handoff, the old process can take over again [default: 5]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) probation: Option<Duration>,
}

impl Cli {
    pub(crate) fn control_path(&self) -> hotupdate::Result<PathBuf> {
        self.control.clone().map_or_else(|| hotupdate::control_path("tcp-echo"), Ok)
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
