//! The flags.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

/// A chat room that can be replaced while people talk.
///
/// Start it once; start it again, and the second process takes over from the first, with every member that is
/// in the room. `kill -HUP` makes it start its own successor.
#[derive(Debug, Parser)]
#[command(name = "websocket-chat", version)]
pub(crate) struct Cli {
    /// Where to listen for HTTP
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    pub(crate) listen: String,

    /// The control socket [default: $HOTUPDATE_SOCKET, or websocket-chat/control.sock in /run or
    /// $XDG_RUNTIME_DIR]
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,

    /// What the page and operators see
    #[arg(long, value_name = "STRING", default_value = env!("CARGO_PKG_VERSION"))]
    pub(crate) app_version: String,

    /// How long, after a handoff, the old process can take over again [default: 5]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) probation: Option<Duration>,
}

impl Cli {
    pub(crate) fn control_path(&self) -> hotupdate::Result<PathBuf> {
        self.control.clone().map_or_else(|| hotupdate::control_path("websocket-chat"), Ok)
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
