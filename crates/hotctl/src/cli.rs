//! What can be asked on the command line: one definition for parsing, help, completions and the man page.
//!
//! Deliberately absent: the inner half of `handoff -- COMMAND`, see [`crate::commands::detach`].

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::commands::hold::Place;

const ABOUT: &str = "\
See and steer hot updates of running services.

A service that was built with hotupdate listens on a control socket. hotctl asks it who serves, replaces it by a new \
version while no client notices, and takes that back.";

const EXAMPLES: &str = "\
Examples:
  # What is there?
  hotctl list
  # Who serves, who drains, what went wrong last?
  hotctl status
  # See it live
  hotctl watch
  # Replace the running version; if this fails, it serves on
  hotctl handoff -- ./server-v2 --port 80
  # Clients wait instead of being refused, even if the last process crashes
  hotctl hold --socket ./control.sock --listen http=0.0.0.0:80 -- ./server
  # The new version is bad: the old one serves again
  hotctl rollback
  # Do not wait longer for the old version's connections
  hotctl drain --deadline 10";

const EXIT_CODES: &str = "\
Exit codes:
    0  done
    1  refused, failed or rolled back: the old version still serves
    2  usage
    3  nobody listens there
    4  timed out
  130  interrupted

Data goes to stdout, talk to stderr. An error is one line that says who serves now.";

const HANDOFF: &str = "\
Examples:
  # Start a new version, wait until it serves
  hotctl handoff -- ./server-v2 --port 80
  # The same with its output in a file
  hotctl handoff --log v2.log -- ./server-v2
  # Wait until the old version is gone, too
  hotctl handoff --until drained -- ./server-v2
  # Release the successor that stands by
  hotctl handoff
  # For how many nanoseconds did nobody accept?
  hotctl --json handoff --log v2.log -- ./server-v2 | jq .gap_ns

COMMAND runs in a session of its own and outlives hotctl. It may be a wrapper script: hotctl recognises the new \
version by the environment variable HOTUPDATE_ATTEMPT, which the library passes on.";

const HOLD: &str = "\
What it does, and it does nothing else:
  * It opens the listening sockets and never accepts from them. As long as it runs, a client that connects waits in the \
queue of the socket instead of being refused, whatever becomes of the service.
  * It starts COMMAND, which gets the sockets as a socket unit of systemd passes them (LISTEN_FDS, LISTEN_FDNAMES, \
LISTEN_PID): a service built with hotupdate that asks for a listener of that name has it, and every later version, \
whoever starts it, gets the same socket from the version before.
  * It watches the lock of the control socket (--socket, required). When the lock is free nobody serves, whichever \
process it was. If the control socket is still there, the service crashed: COMMAND is started again, the first time at \
once, then after 0.1 s and twice as long each time, up to 5 s. Who serves for 10 s makes that start anew. After \
--restarts it gives up.
  * If the control socket is gone, the service was stopped on purpose (`hotctl stop`, SIGTERM): the sockets are closed, \
and hold ends as COMMAND did. That COMMAND ends after a hot update is no reason for anything: the new version serves.
  * A COMMAND that ends with status 0 before it served is finished, and so is hold: it has to stay in the foreground.
  * SIGTERM and SIGINT are passed on to COMMAND; if another process serves by now, it is told to stop, as by `hotctl \
stop`. Then hold waits for both. A second signal does not wait for what COMMAND did not start.

COMMAND runs in a session of its own. If hold itself is killed, the service goes on, without a keeper. COMMAND should be \
a path that a deploy replaces: after a crash it is what is started.

Examples:
  hotctl hold --socket /run/shop/control.sock --listen http=0.0.0.0:80 -- /opt/shop/server
  hotctl hold --socket ./c.sock --listen http=[::]:80 --listen admin=/run/shop/admin.sock -- ./server

Exit codes:
  those of COMMAND (128 + N if signal N killed it), and
    1  it could not begin: somebody serves already, an address is taken, COMMAND cannot be run
    2  usage
    3  it gave up: nobody serves";

const ROLLBACK: &str = "\
For some seconds after a handoff (its probation) the old version keeps the listening sockets and takes over again \
when asked. `hotctl status` says whether it still can. After that, hand off to the old version: \
hotctl handoff -- ./server-v1";

fn examples(examples: &str) -> String {
    format!("{examples}\n\n{EXIT_CODES}")
}

/// See and steer hot updates of running services.
#[derive(Debug, Parser)]
#[command(name = "hotctl", version, long_about = ABOUT, after_long_help = examples(EXAMPLES), max_term_width = 100)]
pub(crate) struct Cli {
    /// The control socket [default: the only one in $XDG_RUNTIME_DIR or /run, or one level below]
    #[arg(long, global = true, env = "HOTUPDATE_SOCKET", hide_env_values = true, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,

    /// JSON lines on stdout, each with a `type`
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// Colour on stdout
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value_t = Color::Auto)]
    pub(crate) color: Color,

    /// How long to wait [default: 90 for a handoff or another change, 5 for an answer]
    #[arg(long, global = true, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) timeout: Option<Duration>,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// When to use colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Who serves, who waits, who drains, and how the last handoff went
    Status,
    /// Every open connection, of every generation that is left
    Connections,
    /// Replace the running version, by COMMAND or by the successor that stands by
    #[command(after_long_help = examples(HANDOFF))]
    Handoff(Handoff),
    /// Hold the listening sockets, and start COMMAND again when nobody serves any more
    #[command(after_long_help = HOLD)]
    Hold(Hold),
    /// End the handoff that is under way, before its release; the running version serves on
    Abort,
    /// Give the service back to the version that served before
    #[command(after_long_help = examples(ROLLBACK))]
    Rollback,
    /// Make the versions that drain finish in time; what is open then is closed
    Drain(Drain),
    /// Stop the service: no more connections, drain, exit
    Stop(Stop),
    /// The service as it changes: generations, rates, drains, events; `q` quits
    Watch,
    /// Every control socket in $XDG_RUNTIME_DIR and /run, and who serves there
    List,
    /// Shell completions on stdout
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// The man page on stdout, of hotctl or of one of its commands
    Man {
        /// The command
        command: Option<String>,
    },
}

impl Command {
    /// The word on the command line, for error lines.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Connections => "connections",
            Self::Handoff(_) => "handoff",
            Self::Hold(_) => "hold",
            Self::Abort => "abort",
            Self::Rollback => "rollback",
            Self::Drain(_) => "drain",
            Self::Stop(_) => "stop",
            Self::Watch => "watch",
            Self::List => "list",
            Self::Completions { .. } => "completions",
            Self::Man { .. } => "man",
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Handoff {
    /// What to wait for
    #[arg(long, value_enum, value_name = "STATE", default_value_t = Until::Serving)]
    pub(crate) until: Until,

    /// Append the output of COMMAND to this file [default: where hotctl's own output goes]
    #[arg(long, value_name = "FILE", requires = "command")]
    pub(crate) log: Option<PathBuf>,

    /// The new version and its arguments; without it, the successor that stands by is released
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct Hold {
    /// A listening socket: its name, and HOST:PORT or the path of a Unix socket; may be given several times
    #[arg(long, value_name = "NAME=ADDRESS", required = true, value_parser = Place::parse)]
    pub(crate) listen: Vec<Place>,

    /// How often in a row COMMAND is started again
    #[arg(long, value_name = "NUMBER", default_value_t = 10)]
    pub(crate) restarts: u32,

    /// The service and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

/// How far a handoff is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Until {
    /// The new version serves
    Serving,
    /// The old version has nothing left and is gone
    Drained,
}

#[derive(Debug, Args)]
pub(crate) struct Drain {
    /// How long the open connections may still take
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "0")]
    pub(crate) deadline: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct Stop {
    /// How long the open connections may take [default: the service's own]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) deadline: Option<Duration>,

    /// Wait until nobody listens on the control socket any more
    #[arg(long)]
    pub(crate) wait: bool,
}

/// A year is for ever, and it keeps `now + timeout` in range.
fn seconds(text: &str) -> Result<Duration, String> {
    let number: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    match Duration::try_from_secs_f64(number) {
        Ok(span) if span <= Duration::from_secs(366 * 86_400) => Ok(span),
        _ => Err("not between 0 and a year".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn names_are_those_of_the_command_line() {
        let names =
            ["status", "connections", "handoff", "abort", "rollback", "drain", "stop", "watch", "list"];
        for name in names.into_iter().chain(["man"]) {
            let cli = Cli::try_parse_from(["hotctl", name]).unwrap();
            assert_eq!(cli.command.name(), name);
        }
    }

    #[test]
    fn seconds_are_checked() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for wrong in ["", "x", "-1", "nan", "inf", "1e30"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
