//! A terminal that closes says SIGHUP, too, and starts no successor.
//!
//! Deliberately absent: terminals of operators.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use rustix::fs::{Mode, OFlags, open};
use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::common::eventually;
use crate::stage::{Process, Serving, Stage, is_dead, signal, stat, who};

/// A terminal: the end of the person, and that of programs.
fn terminal() -> (OwnedFd, File) {
    let controlling = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&controlling).unwrap();
    unlockpt(&controlling).unwrap();
    let name = ptsname(&controlling, Vec::new()).unwrap().into_string().unwrap();
    let options = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    (controlling, open(name, options, Mode::empty()).unwrap().into())
}

/// A terminal, and what was started at it.
struct Terminal<'a> {
    stage: &'a Stage,
    controlling: Option<OwnedFd>,
    _process: Process<'a>,
    serving: Serving,
}

impl<'a> Terminal<'a> {
    /// Runs a shell of its own at a terminal: with these words, in which SERVER starts the service.
    async fn run(stage: &'a Stage, shell: &[&str]) -> Self {
        let (controlling, terminal) = terminal();
        // A shell cannot trap a signal that was ignored when it started (POSIX, `trap`), and these tests may
        // run under nohup(1). The words come after the shell's, so that they are the arguments of the service.
        let mut command = Command::new("setsid");
        let at_terminal = ["--ctty", "--wait", "env", "--default-signal=HUP"];
        command.args(at_terminal).args(shell).arg(stage.program());
        stage.prepare(&mut command).stdin(Stdio::from(terminal));
        let process = stage.run(&mut command);
        let serving = stage.serves(1).await;
        Self { stage, controlling: Some(controlling), _process: process, serving }
    }

    async fn closes(mut self) -> Serving {
        self.controlling = None;
        let words = ["SIGHUP is ignored: it says that the terminal of this process has closed"];
        self.stage.logs(&words).await;
        self.serving
    }
}

/// It serves on without a terminal, and an operator can ask for a new version now.
async fn serves_on(stage: &Stage, serving: Serving) {
    assert_eq!(who(serving.address).await, serving.pid);
    assert!(!stage.log().contains("started a successor"), "{}", stage.log());
}

#[tokio::test]
async fn that_of_a_process_in_the_foreground() {
    let stage = Stage::new();
    let terminal = Terminal::run(&stage, &["sh", "-c", r#"exec "$0" "$@""#]).await;
    let serving = terminal.closes().await;
    serves_on(&stage, serving).await;
}

/// The shell passes the signal on to its jobs.
#[tokio::test]
async fn that_of_a_job_in_the_background() {
    let stage = Stage::new();
    // The service may serve before the shell runs on, so the trap is there first. And a signal that comes
    // right before the shell waits for its jobs would not end that wait: it sleeps instead.
    let script = r#"set -m; trap 'kill -HUP $!; exit' HUP; "$0" "$@" & while :; do sleep 0.1; done"#;
    let terminal = Terminal::run(&stage, &["bash", "-c", script]).await;
    let [_, parent, ..] = stat(terminal.serving.pid).unwrap();
    let serving = terminal.closes().await;
    is_dead(parent.parse().unwrap()).await;
    serves_on(&stage, serving).await;
}

/// A shell that ends may say it before its terminal is gone.
#[tokio::test]
async fn that_of_a_shell_that_ends_first() {
    let stage = Stage::new();
    let script = r#"set -m; trap 'kill -HUP $!; exit' USR1; "$0" "$@" & while :; do sleep 0.1; done"#;
    let terminal = Terminal::run(&stage, &["bash", "-c", script]).await;
    let serving = terminal.serving;
    let [_, parent, ..] = stat(serving.pid).unwrap();
    signal(parent.parse().unwrap(), Signal::USR1);
    stage.logs(&["SIGHUP is ignored: it says that the terminal of this process has closed"]).await;
    serves_on(&stage, serving).await;
}

#[tokio::test]
async fn an_operator_asks_at_a_terminal_that_stays() {
    let stage = Stage::new();
    let terminal = Terminal::run(&stage, &["sh", "-c", r#"exec "$0" "$@""#]).await;
    let second = stage.sighup(terminal.serving).await;
    let third = stage.sighup(second).await;
    assert_eq!(who(third.address).await, third.pid);
}

/// As `ssh` leaves it: the terminal in which the service writes goes, and there is no signal, since it is
/// that of another session. Every line that is logged then is written nowhere, and none is a panic.
#[tokio::test]
async fn that_in_which_the_service_writes() {
    let stage = Stage::new();
    let (person, terminal) = terminal();
    let mut command = Command::new("setsid");
    command.arg(stage.program());
    let output = || Stdio::from(terminal.try_clone().unwrap());
    stage.prepare(&mut command).stdout(output()).stderr(output());
    let _first = stage.run(&mut command);
    drop((command, terminal));
    let serving = stage.serves(1).await;
    let leads_to = |fd: u32| fs::read_link(format!("/proc/{}/fd/{fd}", serving.pid)).unwrap();
    assert!([1, 2].iter().all(|fd| leads_to(*fd).starts_with("/dev/pts")), "{:?}", leads_to(1));
    drop(person);
    eventually("the output goes elsewhere", async || {
        [1, 2].iter().all(|fd| !leads_to(*fd).starts_with("/dev/pts")).then_some(())
    })
    .await;
    // The next version writes there, too.
    let second = stage.sighup(serving).await;
    assert_eq!(who(second.address).await, second.pid);
}

/// `./server | tee log`, and tee is gone.
#[tokio::test]
async fn a_pipe_whose_reader_has_gone() {
    let stage = Stage::new();
    let (reader, writer) = std::io::pipe().unwrap();
    let mut command = Command::new(stage.program());
    let output = || Stdio::from(writer.try_clone().unwrap());
    stage.prepare(&mut command).stdout(output()).stderr(output());
    let _first = stage.run(&mut command);
    drop((command, writer));
    let serving = stage.serves(1).await;
    drop(reader);
    let leads_to = |fd: u32| fs::read_link(format!("/proc/{}/fd/{fd}", serving.pid)).unwrap();
    eventually("the output goes elsewhere", async || {
        [1, 2].iter().all(|fd| !leads_to(*fd).to_string_lossy().starts_with("pipe:")).then_some(())
    })
    .await;
    let second = stage.sighup(serving).await;
    assert_eq!(who(second.address).await, second.pid);
}
