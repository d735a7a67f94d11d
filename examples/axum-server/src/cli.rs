//! The flags.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};

/// An HTTP server that can be replaced while it runs.
///
/// Start it once; start it again, and the second process takes over from the first. `kill -HUP` makes it
/// start its own successor.
#[derive(Debug, Parser)]
#[command(name = "axum-server", version)]
pub(crate) struct Cli {
    /// Where to listen for HTTP
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    pub(crate) listen: String,

    /// Serve HTTPS with cert.pem and key.pem in this directory, which are made for `localhost` where both are
    /// missing; connections and sessions go on in the next version
    #[arg(long, value_name = "DIR")]
    pub(crate) tls: Option<PathBuf>,

    /// The control socket [default: $HOTUPDATE_SOCKET, or axum-server/control.sock in /run or
    /// $XDG_RUNTIME_DIR]
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,

    /// What `GET /version` answers and operators see
    #[arg(long, value_name = "STRING", default_value = env!("CARGO_PKG_VERSION"))]
    pub(crate) app_version: String,

    /// How probes call this process, for `hotctl status --ready --name NAME`
    /// [default: $HOTUPDATE_NAME, or the name of the host and the process id]
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,

    /// How each line of the log is written, on standard error
    #[arg(long, value_name = "FORM", default_value = "text")]
    pub(crate) log: Log,

    /// Take over when an operator says so (`hotctl handoff`), not at once
    #[arg(long)]
    pub(crate) standby: bool,

    /// How long open connections may take to end after a handoff [default: 60]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) drain_deadline: Option<Duration>,

    /// How long, after a handoff, the old process can take over again [default: 5]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) probation: Option<Duration>,

    /// Another user that may operate the service; may be given several times
    #[arg(long, value_name = "UID")]
    pub(crate) allow_uid: Vec<u32>,

    /// Another user that may take the service over from this process
    #[arg(long, value_name = "UID")]
    pub(crate) allow_successor_uid: Vec<u32>,

    /// Another user from whose process this one takes over
    #[arg(long, value_name = "UID")]
    pub(crate) allow_predecessor_uid: Vec<u32>,

    /// Become this user once it serves; needs root, except where it is this user already
    #[arg(long, value_name = "UID")]
    pub(crate) run_as_uid: Option<u32>,

    /// Every deadline of a handoff this many times as long, before the settings above; tests have less time
    #[arg(long, value_name = "FACTOR", value_parser = factor, default_value = "1")]
    pub(crate) deadline_scale: f64,

    /// Pretend to need this long before it is ready
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "0")]
    pub(crate) warm_up: Duration,

    /// Pretend to be a broken version
    #[arg(long, value_name = "MODE")]
    pub(crate) fail_before_ready: Option<Failure>,
}

/// What a line of the log looks like.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Log {
    /// For people
    Text,
    /// One JSON object, for programs
    Json,
}

/// How a broken version fails.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Failure {
    /// Exit with status 1
    Exit,
    /// Exit with status 101
    Panic,
    /// Never become ready
    Hang,
}

impl Cli {
    pub(crate) fn control_path(&self) -> hotupdate::Result<PathBuf> {
        self.control.clone().map_or_else(|| hotupdate::control_path("axum-server"), Ok)
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

fn factor(text: &str) -> Result<f64, String> {
    let factor: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if factor > 0.0 && factor.is_finite() { Ok(factor) } else { Err("not a positive number".to_owned()) }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_flags_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn seconds_may_have_decimals_and_must_make_sense() {
        assert_eq!(seconds("0.25"), Ok(Duration::from_millis(250)));
        for wrong in ["", "x", "-1", "inf", "NaN"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
