//! Clients that are programs.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, ensure};
use integration_tests::SOON;
use integration_tests::process::eventually;
use rustix::process::{Pid, Signal, kill_process};

use super::stage::{Asks, Place};

/// So many calls `calls.py` makes at a time.
pub(crate) const AT_A_TIME: usize = 4;

/// A client that runs, and how it is told to come to an end.
pub(crate) struct Client {
    child: Child,
    /// With a signal, and not with the end of its standard input.
    signal: Option<Signal>,
}

impl Client {
    pub(crate) fn start(command: &mut Command, signal: Option<Signal>) -> anyhow::Result<Self> {
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        Ok(Self { child, signal })
    }
}

impl Asks for Client {
    fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    fn end(mut self) -> anyhow::Result<String> {
        drop(self.child.stdin.take());
        if let Some(signal) = self.signal {
            kill_process(Pid::from_child(&self.child), signal)?;
        }
        let ended = eventually("the client ends", SOON, || self.child.try_wait().transpose())?;
        let mut said = String::new();
        self.child.stdout.take().context("it is piped")?.read_to_string(&mut said)?;
        ensure!(ended.success(), "the client has failed, {ended}: {said}");
        Ok(said)
    }
}

/// A test that fails leaves no client behind.
impl Drop for Client {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The number behind a word, as in `failed=3`.
pub(crate) fn number(said: &str, word: &str) -> anyhow::Result<u64> {
    let find = |token: &str| token.strip_prefix(word)?.strip_prefix('=')?.parse().ok();
    said.split_whitespace().find_map(find).with_context(|| format!("no {word} in {said:?}"))
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/connections/http2").join(name)
}

fn run(command: &mut Command, place: &Place<'_>) -> anyhow::Result<Client> {
    Client::start(command.arg(&place.address).args(&place.certificate), None)
}

/// A script of Python or of Node, which gets the address and perhaps the certificate.
pub(crate) fn script(name: &str, place: &Place<'_>) -> anyhow::Result<Client> {
    let language = if name.ends_with(".js") { "node" } else { "/usr/bin/python3" };
    run(Command::new(language).arg(source(name)), place)
}

/// A program of Go, which gets the same. What the compiler keeps lies where cargo builds.
pub(crate) fn go(name: &str, place: &Place<'_>) -> anyhow::Result<Client> {
    let program = place.sandbox.path().join(name);
    let mut build = Command::new("go");
    build.args(["build", "-o"]).arg(&program).arg(source(name).with_extension("go"));
    build.env("GOCACHE", Path::new(env!("CARGO_TARGET_TMPDIR")).join("go"));
    // Debian's packages are found there.
    build.envs([("GO111MODULE", "off"), ("GOPATH", "/usr/share/gocode")]);
    let built = build.output()?;
    ensure!(built.status.success(), "go: {}", String::from_utf8_lossy(&built.stderr));
    run(&mut Command::new(program), place)
}
