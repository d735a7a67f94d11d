//! The command line: one definition for parsing, help, completions and the man page.
//!
//! Deliberately absent: the hidden arguments with which hotctl starts itself. Users never type them.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use hotupdate_proto::environment;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};

use crate::commands::{ReadyTarget, unit_name};
use crate::listen_spec::ListenSpec;
use crate::report::Color;

const ABOUT: &str = "\
See and steer hot updates of running services.

A service that was built with hotupdate listens on a control socket. hotctl shows which process serves, \
replaces it by a new version while no client notices, and rolls that back.";

const EXAMPLES: &str = "\
Examples:
  # Find running services
  hotctl list
  # Which process serves, which are draining, why the last handoff failed
  hotctl status
  # The same, live
  hotctl watch
  # Replace the running version; if this fails, the running version keeps serving
  hotctl handoff -- ./server-v2 --port 80
  # Any program that takes its listeners as descriptors
  hotctl run --socket ./control.sock --listen http=0.0.0.0:80 -- gunicorn app:app
  # Clients wait instead of being refused, even if the last process crashes
  hotctl hold --socket ./control.sock --listen http=0.0.0.0:80 -- ./server
  # The new version is bad: return to the old one
  hotctl rollback
  # Close what the old version still has open, in 10 s at the latest
  hotctl drain --deadline 10";

const EXIT_CODES: &str = "\
Exit codes:
    0  done
    1  refused, failed or rolled back: the old version still serves
    2  usage error
    3  no service listens on the control socket, or it is stopping
    4  timed out
  130  interrupted

Data goes to stdout, messages go to stderr. An error is one line that also says which process serves now.";

const STATUS: &str = "\
Probes:
  --ready and --live ask for one process, by the name that it has from HOTUPDATE_NAME or from its program \
(Builder::name). Without a name it is called HOST/PID, and answers to HOST, too. The process that serves \
knows each that has joined: one that is still starting is not ready although the service runs, and one that \
has not joined yet is not there. Give names where several processes share the name of the host. A probe \
exits with 0 (yes), 1 (no), 3 (no service listens) or 4 (no answer within --timeout).

Examples:
  # Kubernetes: readinessProbe, with HOTUPDATE_NAME from metadata.name
  hotctl --socket /run/shop/control.sock status --ready
  # livenessProbe
  hotctl --socket /run/shop/control.sock status --live
  # A script that waits for version 2 under systemd
  until hotctl status --ready --name shop@v2; do sleep 1; done";

const HANDOFF: &str = "\
Examples:
  # Start a new version and wait until it serves
  hotctl handoff -- ./server-v2 --port 80
  # The same, with its output in a file
  hotctl handoff --log v2.log -- ./server-v2
  # Wait until the old version has drained, too
  hotctl handoff --until drained -- ./server-v2
  # Release the successor that is in standby
  hotctl handoff
  # How many nanoseconds did new connections wait, at most?
  hotctl --json handoff --log v2.log -- ./server-v2 | jq .gap_ns

COMMAND runs in a session of its own, and outlives hotctl once it serves. Until then the attempt belongs to \
hotctl: if that is killed or interrupted, times out or loses its terminal, the attempt is aborted and \
COMMAND ends. COMMAND may be a wrapper script, or put itself into the background: hotctl recognises the new \
version by the environment variable HOTUPDATE_ATTEMPT, which the library passes on. Where a program of \
`hotctl run` serves, COMMAND is run in the same way, unless it is hotctl or --native is given. One that asks \
another program to start it (`docker run -d`) has to stay until it serves.

Without --log, COMMAND writes where hotctl does if that is a terminal, as long as it is there, or a file. If \
it is a pipe, as in `$(…)`, over ssh or in a deployment tool, hotctl passes on what COMMAND writes until it \
serves or fails; from then on it goes to the journal if there is one, or else to /dev/null.

With --until drained, exit code 4 means that the new version serves and the old one is not through: it is \
still draining, or has drained and its `main`, or a task, goes on. `hotctl status` shows it until it ends. \
The default drain of a service takes 60 s at most, and --timeout is 90.";

const INSTALL_UNITS: &str = "\
NAME.service is one unit: `systemctl reload NAME` starts the new version in it. NAME@.service is a template: \
each version is an instance, and `systemctl start NAME@v2` takes over from NAME@v1, which drains and ends. All \
of them meet at /run/NAME/control.sock (HOTUPDATE_SOCKET), so one may even take over from the other kind. They \
are shut in; `systemd-analyze security NAME` says how well.

The service has to find its control socket by HOTUPDATE_SOCKET, as hotupdate::control_path does, and cannot \
open ports below 1024 by itself: give it those by a socket unit, or allow them to it with `systemctl edit`.

Examples:
  # Look first
  hotctl install-units --name shop --exec '/opt/shop/{version}/server --port 8080' --dry-run
  # Write them
  hotctl install-units --name shop --exec '/opt/shop/{version}/server --port 8080'";

const HOLD: &str = "\
What it does:
  * It opens the listening sockets and never accepts from them. As long as it runs, a client that connects \
while the service is down waits in the queue of the socket instead of being refused.
  * It starts COMMAND, which gets the sockets as a socket unit of systemd passes them (LISTEN_FDS, \
LISTEN_FDNAMES, LISTEN_PID): a service built with hotupdate that opens a listener of that name gets this \
socket, and every later version gets the same socket from the version before it, however it is started.
  * It watches the lock of the control socket (--socket, required), which the serving process holds. When \
the lock is free, the service has crashed: COMMAND is started again, \
the first time at once, then after 0.1 s and twice as long each time, up to 5 s. A service that ran for 10 \
s is stable; the restart count resets. After --restarts restarts in a row hold gives up.
  * Unless the lock says that the service was stopped on purpose (`hotctl stop`, SIGTERM), which the service \
writes there itself: then hold closes the sockets and exits as COMMAND did. That files are missing means \
nothing. That COMMAND exits after a hot update changes nothing: \
the new version serves.
  * A COMMAND that exits with status 0 before it served ends hold, too: it has to stay in the foreground.
  * On SIGTERM and SIGINT the version that serves is told to stop, as by `hotctl stop`; a COMMAND that does \
not serve yet gets the signal. Then hold waits until every version has drained. SIGINT again goes to \
COMMAND, and hold waits for it alone.
  * As process 1 of a container it also reaps orphans, passes SIGHUP, SIGQUIT, SIGUSR1 and SIGUSR2 on to the \
version that serves, and ends last: what a version has left behind gets SIGTERM. Start later versions with \
`podman exec CONTAINER hotctl handoff --log /proc/1/fd/1 -- COMMAND`.
  * In a unit with Type=notify it is the main process, for good: it says READY=1 when a version serves, and in \
STATUS= which one. Leave NotifyAccess= out, so that no version says that it is the main process.

COMMAND runs in a session of its own. If hold itself is killed, the service keeps running, without a \
keeper. COMMAND should be a path that a deploy replaces, because it is started again after a crash.

Examples:
  hotctl hold --socket /run/shop/control.sock --listen http=0.0.0.0:80 -- /opt/shop/server
  hotctl hold --socket ./c.sock --listen http=[::]:80 --listen admin=/run/shop/admin.sock -- ./server

Exit codes:
  those of COMMAND (128 + N if signal N killed it), and
    1  it could not begin: a service is running already, an address is in use, COMMAND cannot be run
    2  usage error
    3  it gave up: the service is down";

const RUN: &str = "\
What it promises: no connection is refused. A request in flight ends as well as COMMAND's own stop does. \
Idle keep-alive connections are COMMAND's affair: most programs close them, and a client that is just \
sending on one loses that request.

What it does:
  * It opens the listeners, or takes them from the version before, and passes them to COMMAND: descriptor 3 \
is the first, 4 the second (LISTEN_FDS, LISTEN_FDNAMES, LISTEN_PID; sd_listen_fds). They are non-blocking, \
since two versions accept for a while; see --blocking.
  * It speaks the protocol for COMMAND. `hotctl handoff -- COMMAND` starts another `hotctl run` for the new \
COMMAND, with the listeners and the options of this one; `hotctl handoff -- hotctl run …` says other \
options. A second `hotctl run` at the same control socket does the same. A service that was built with \
hotupdate takes over with `hotctl handoff --native -- ./server`, and `hotctl run` from it.
  * The new COMMAND accepts from its start on, beside the old one. When it is ready it has to go on for \
--settle and be ready still; then the old one is asked to stop (--stop-signal), and killed after \
--stop-within.
  * A COMMAND that ends, or is not ready in time, loses nothing: the old one serves on, and `hotctl handoff` \
exits with 1 and says why. One that ends within 5 s after that is taken back: the old COMMAND is started \
again, and clients wait in the queue until it accepts. `hotctl rollback` does the same. Without a wait: hand \
off to the old COMMAND.
  * When COMMAND ends, this process ends as it did, as after exec. It is not started again; `hotctl hold` or a \
service manager does that.
  * SIGTERM and SIGINT stop the service; SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2 and SIGWINCH are passed on.
  * It can be process 1 of a container, where it reaps orphans, and the main process of a unit with Type=notify.
  * If it is killed itself (SIGKILL), the kernel asks COMMAND to stop (PR_SET_PDEATHSIG), so that it does \
not go on without a keeper. A COMMAND that changes its user loses that.

COMMAND may be a script that ends with `exec program`. Without `exec`, LISTEN_PID is that of the shell, and \
a program that looks at it takes no listener. What COMMAND has started in its session and leaves behind is \
asked to stop, too.

Examples:
  hotctl run --socket ./c.sock --listen http=0.0.0.0:8080 --ready-http / -- gunicorn app:app
  hotctl run --socket ./c.sock --listen http=0.0.0.0:8080 -- uvicorn --fd 3 app:app
  # Node, with server.listen({fd: 3}) and a listener of its own at descriptor 4 for the question
  hotctl run --socket ./c.sock --listen http=[::]:80 --ready-http /health -- node server.js
  # The next version; hotctl finds the rest
  hotctl handoff --log v2.log -- gunicorn app:app

Exit codes:
  those of COMMAND (128 + N if signal N killed it, but 0 if it was asked to stop by that signal, or if another \
version serves), and
    1  it could not begin, or the version before serves on
    2  usage error";

const ROLLBACK: &str = "\
For some seconds after a handoff (its probation) the old version keeps the listening sockets and can take \
over again. `hotctl status` says whether it still can. After that, hand off to the old version: hotctl \
handoff -- ./server-v1";

const ABORT: &str = "\
A successor that is in standby or warming up ends, and so does the `hotctl handoff` that started it, with exit \
code 1. One that is released already is not aborted: it serves in a moment; `hotctl rollback` undoes that.";

const DRAIN: &str = "\
Without --deadline everything that the old versions have open is closed at once, requests in flight among it. \
The version that serves is not touched. Tasks of an old version, and its `main`, go on; SIGINT twice to that \
process ends it.

Examples:
  # In ten seconds at the latest
  hotctl drain --deadline 10";

const STOP: &str = "\
The service is over then: no version before serves again, and `hotctl hold` does not start it again. \
(SIGTERM to the version that serves is something else: in its probation the version before serves again.) \
Requests in flight have the time of --deadline, or else that of the service, which is 60 s by default; then \
they are closed. Without --wait, hotctl returns when the service has been told. With it, exit code 4 means \
that the process is still there.

Examples:
  # Until the process has ended; requests have 30 s
  hotctl stop --wait --deadline 30";

/// Over the options that every command has, so that its own come first.
const EVERY: &str = "Options of every command";

fn examples(examples: &str) -> String {
    format!("{examples}\n\n{EXIT_CODES}")
}

/// See and steer hot updates of running services.
#[derive(Debug, Parser)]
#[command(name = "hotctl", version, max_term_width = 100)]
#[command(long_about = ABOUT, after_long_help = examples(EXAMPLES))]
pub(crate) struct Cli {
    /// The control socket [default: the only one]
    ///
    /// It is looked for in $XDG_RUNTIME_DIR or /run, and one directory below. `run` and `hold` have no default.
    #[arg(long, global = true, env = environment::SOCKET, hide_env_values = true, value_name = "PATH")]
    #[arg(help_heading = EVERY)]
    pub(crate) socket: Option<PathBuf>,

    /// JSON lines on stdout, each with a `type`
    #[arg(long, global = true, help_heading = EVERY)]
    pub(crate) json: bool,

    /// Colour on stdout
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value_t = Color::Auto)]
    #[arg(help_heading = EVERY)]
    pub(crate) color: Color,

    /// How long to wait [default: 90 for a change, 5 for an answer]
    #[arg(long, global = true, value_name = "SECONDS", value_parser = seconds, help_heading = EVERY)]
    pub(crate) timeout: Option<Duration>,

    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Cli {
    /// Parses the command line.
    pub(crate) fn of(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let arguments: Vec<_> = arguments.into_iter().collect();
        let ends_with_dashes = arguments.last().is_some_and(|last| last == "--");
        let cli = Self::try_parse_from(arguments)?;
        let command = match &cli.command {
            Command::Handoff(Handoff { command, .. })
            | Command::Hold(Hold { command, .. })
            | Command::Run(Run { command, .. }) => command.as_slice(),
            _ => &[],
        };
        // A variable of a script that is empty: without COMMAND, `handoff` would release a successor.
        let is_missing = matches!(cli.command, Command::Handoff(_)) && command.is_empty() && ends_with_dashes;
        match is_missing || command.first().is_some_and(|program| program.is_empty()) {
            true => Err(Self::command().error(ErrorKind::InvalidValue, "COMMAND is empty")),
            false => Ok(cli),
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Every generation with its connections, the listeners, and how the last handoff went
    #[command(after_long_help = examples(STATUS))]
    Status(Status),
    /// Every open connection, of every generation that still runs
    Connections,
    /// Replace the running version by COMMAND, or by the successor that is in standby
    #[command(after_long_help = examples(HANDOFF))]
    Handoff(Handoff),
    /// Hold the listening sockets, and start COMMAND again when the service crashes
    #[command(after_long_help = HOLD)]
    Hold(Hold),
    /// Run any program that takes its listeners as descriptors, so that it can be updated
    #[command(after_long_help = RUN)]
    Run(Run),
    /// Abort the handoff that is under way, before its release; the old version serves on
    #[command(after_long_help = examples(ABORT))]
    Abort,
    /// Return to the version that served before
    #[command(after_long_help = examples(ROLLBACK))]
    Rollback,
    /// Give the versions that are draining a deadline; what is open then is closed
    #[command(after_long_help = examples(DRAIN))]
    Drain(Drain),
    /// Stop the service: stop accepting, drain, exit
    #[command(after_long_help = examples(STOP))]
    Stop(Stop),
    /// The service as it changes: generations, rates, drains, events; `q` quits
    Watch,
    /// Every control socket in $XDG_RUNTIME_DIR and /run, and which process serves there
    List,
    /// Write unit files for systemd
    #[command(after_long_help = examples(INSTALL_UNITS))]
    InstallUnits(InstallUnits),
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
            Self::Status(_) => "status",
            Self::Connections => "connections",
            Self::Handoff(_) => "handoff",
            Self::Hold(_) => "hold",
            Self::Run(_) => "run",
            Self::Abort => "abort",
            Self::Rollback => "rollback",
            Self::Drain(_) => "drain",
            Self::Stop(_) => "stop",
            Self::Watch => "watch",
            Self::List => "list",
            Self::InstallUnits(_) => "install-units",
            Self::Completions { .. } => "completions",
            Self::Man { .. } => "man",
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Succeed only when the process of this name serves: a readiness probe
    #[arg(long, group = "probe")]
    pub(crate) ready: bool,

    /// Succeed when the process of this name is there, also idle after its drain: a liveness probe
    #[arg(long, group = "probe")]
    pub(crate) live: bool,

    /// The process that is meant [default: $HOTUPDATE_NAME, or the name of this host]
    #[arg(long, value_name = "NAME", requires = "probe", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) name: Option<String>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Handoff {
    /// What to wait for
    #[arg(long, value_enum, value_name = "STATE", default_value_t = Until::Serving)]
    pub(crate) until: Until,

    /// Append the output of COMMAND to this file [default: where hotctl's own output goes, but not to a pipe]
    #[arg(long, value_name = "FILE", requires = "command")]
    pub(crate) log: Option<PathBuf>,

    /// COMMAND joins by itself, although the version that serves is a program of `hotctl run`
    #[arg(long, requires = "command")]
    pub(crate) native: bool,

    /// The new version and its arguments; without it, the successor that is in standby is released
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct InstallUnits {
    /// The service: its units, its user, and its directory in /run
    #[arg(long, value_name = "NAME", value_parser = unit_name)]
    pub(crate) name: String,

    /// The service and its arguments, as systemd takes them; `{version}` is the instance, or `current`
    #[arg(long, value_name = "COMMAND")]
    pub(crate) exec: String,

    /// The user that it runs as [default: one that systemd makes up, of the name of the service]
    #[arg(long, value_name = "USER", value_parser = unit_name)]
    pub(crate) user: Option<String>,

    /// Where the units go
    #[arg(long, value_name = "DIRECTORY", default_value = "/etc/systemd/system")]
    pub(crate) directory: PathBuf,

    /// Where hotctl is when the unit is reloaded [default: where it is now]
    #[arg(long, value_name = "PATH")]
    pub(crate) hotctl: Option<PathBuf>,

    /// Print the units instead
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Replace units that say something else
    #[arg(long, conflicts_with = "dry_run")]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Hold {
    /// A listening socket: its name, and HOST:PORT or the path of a Unix socket; may be given several times
    #[arg(long, value_name = "NAME=ADDRESS", required = true, value_parser = ListenSpec::parser())]
    pub(crate) listen: Vec<ListenSpec>,

    /// How often in a row COMMAND is started again
    #[arg(long, value_name = "NUMBER", default_value_t = 10)]
    pub(crate) restarts: u32,

    /// The service and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

/// What is not said is as in the version before, or else the default.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// A listener: its name, and HOST:PORT or the path of a Unix socket; several are descriptors 3, 4, … in
    /// this order
    /// [default: those of the version before]
    #[arg(long, value_name = "NAME=ADDRESS", value_parser = ListenSpec::parser())]
    pub(crate) listen: Vec<ListenSpec>,

    /// COMMAND is ready when it says READY=1 (sd_notify), as gunicorn does
    #[arg(long, group = "readiness")]
    pub(crate) ready_notify: bool,

    /// COMMAND is ready when a GET is answered with 2xx or 3xx: of a PATH on one more listener, which only
    /// this version has, called `ready` and passed as the last one; or of a URL at which no other version
    /// answers
    #[arg(long, group = "readiness", value_name = "PATH|URL", value_parser = ready_target)]
    pub(crate) ready_http: Option<String>,

    /// How long COMMAND may take until it is ready [default: 60]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) ready_within: Option<Duration>,

    /// How long COMMAND has to go on after that, and be ready still, before the version before is told to
    /// stop
    /// [default: 3]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) settle: Option<Duration>,

    /// What asks COMMAND to stop gracefully [default: TERM]
    #[arg(long, value_name = "SIGNAL", value_parser = stop_signal)]
    pub(crate) stop_signal: Option<i32>,

    /// How long COMMAND may take to stop; then it is killed [default: 60]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) stop_within: Option<Duration>,

    /// Pass sockets on which accept(2) waits, for programs that do not use poll(2) first
    #[arg(long)]
    pub(crate) blocking: bool,

    /// The version, as operators see it [default: COMMAND]
    #[arg(long, value_name = "TEXT")]
    pub(crate) label: Option<String>,

    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

/// Which state of a handoff `handoff` waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Until {
    /// The new version serves
    Serving,
    /// The old version has drained and exited, or stays for its supervisor alone
    Drained,
}

#[derive(Debug, Args)]
pub(crate) struct Drain {
    /// How long the open connections may still take; 0 closes them now
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "0")]
    pub(crate) deadline: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct Stop {
    /// How long the open connections may take [default: the service's own]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) deadline: Option<Duration>,

    /// Wait until the process has drained and ended
    #[arg(long)]
    pub(crate) wait: bool,
}

/// The signals that programs take for a wish to stop.
const STOP_SIGNALS: [(&str, i32); 7] = [
    ("TERM", SIGTERM),
    ("INT", SIGINT),
    ("QUIT", SIGQUIT),
    ("HUP", SIGHUP),
    ("USR1", SIGUSR1),
    ("USR2", SIGUSR2),
    ("WINCH", SIGWINCH),
];

fn stop_signal(text: &str) -> Result<i32, String> {
    let name = text.strip_prefix("SIG").unwrap_or(text);
    let found = STOP_SIGNALS.into_iter().find(|(known, number)| name == *known || text == number.to_string());
    found
        .map(|(_, number)| number)
        .ok_or_else(|| format!("not one of {}", STOP_SIGNALS.map(|(name, _)| name).join(", ")))
}

fn ready_target(text: &str) -> Result<String, String> {
    ReadyTarget::parse(text).map(|_| text.to_owned())
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
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_options_of_a_command_come_before_those_of_every_command() {
        let mut cli = Cli::command();
        cli.build();
        let shown = cli.get_subcommands_mut().filter(|command| !command.is_hide_set());
        for command in shown.filter(|command| command.get_name() != "help") {
            let help = command.render_long_help().to_string();
            let (own, every) = help.split_once(EVERY).unwrap_or_else(|| panic!("{help}"));
            for option in ["--socket <PATH>", "--json", "--color <WHEN>", "--timeout <SECONDS>"] {
                let lines = |text: &str| text.lines().filter(|line| line.trim_start() == option).count();
                assert_eq!((lines(own), lines(every)), (0, 1), "{option} in {help}");
            }
        }
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
