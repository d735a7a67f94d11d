//! The flags.
//!
//! Deliberately absent: a configuration file.

use std::env;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;

/// A chat room that can be replaced while people talk.
///
/// Start it once; start it again, and the second process takes over from the first, with everybody who is in the room.
/// `kill -HUP` makes it start its own successor.
#[derive(Debug, Parser)]
#[command(name = "websocket-chat", version)]
pub(crate) struct Cli {
    /// Where to listen for HTTP
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    pub(crate) listen: String,

    /// The control socket; its directory is created when it is missing
    /// [default: websocket-chat/control.sock in $XDG_RUNTIME_DIR or /run]
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
    /// The path of the control socket, in a directory that exists.
    pub(crate) fn control_path(&self) -> anyhow::Result<PathBuf> {
        let path = self.control.clone().unwrap_or_else(|| {
            let runtime = env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty());
            runtime.map_or_else(|| "/run".into(), PathBuf::from).join("websocket-chat/control.sock")
        });
        if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            // For its owner only: whoever can write to it could pretend to be this service.
            let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
            made.with_context(|| format!("cannot create {}", dir.display()))?;
        }
        Ok(path)
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
