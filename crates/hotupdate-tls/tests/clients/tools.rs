//! Programs that this machine may have.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use crate::server::Server;

/// How long a program may take for one step.
const STEP: Duration = Duration::from_secs(60);

/// Whether the program is there. If not, the calling test is skipped: it has to return, and the list has it
/// that `make test` shows.
#[allow(clippy::print_stdout, reason = "a test that is skipped says so, with and without a list")]
pub(crate) fn exists(tool: &str) -> bool {
    let version = if matches!(tool, "openssl" | "go") { "version" } else { "--version" };
    let status = Command::new(tool).arg(version).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if status.is_ok_and(|status| status.success()) {
        return true;
    }
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    println!("skipped, since it takes {tool}: {test}");
    let package = if tool == "go" { "golang-go" } else { tool };
    if let Some(list) = std::env::var_os("HOTUPDATE_SKIPPED") {
        let mut list = std::fs::File::options().append(true).open(list).unwrap();
        list.write_all(format!("{test}\t{tool}\tapt {package}\n").as_bytes()).unwrap();
    }
    false
}

/// Runs the program to its end, which has to be a good one.
pub(crate) fn output_of(tool: &str, arguments: impl IntoIterator<Item = String>) -> String {
    let output = Command::new(tool).args(arguments).stdin(Stdio::null()).output().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{tool}: {stdout}{}", String::from_utf8_lossy(&output.stderr));
    stdout
}

/// Builds a program of Go. What the compiler keeps lies where cargo builds.
pub(crate) fn build_go(source: &Path, program: &Path) {
    let output = Command::new("go")
        .args(["build", "-o"])
        .args([program, source])
        .env("GOCACHE", Path::new(env!("CARGO_TARGET_TMPDIR")).join("go"))
        .env("GO111MODULE", "off")
        .output()
        .unwrap();
    assert!(output.status.success(), "go: {}", String::from_utf8_lossy(&output.stderr));
}

/// `openssl s_client`, which takes commands and data.
pub(crate) struct SClient {
    child: Child,
    output: Receiver<Vec<u8>>,
    /// All that it has said.
    said: String,
    /// How much of it was waited for.
    at: usize,
}

impl SClient {
    pub(crate) fn start(server: &Server, options: &[&str]) -> Self {
        let mut child = Command::new("openssl")
            .args([
                "s_client",
                "-connect",
                &format!("127.0.0.1:{}", server.port()),
                "-servername",
                "localhost",
            ])
            .arg("-CAfile")
            .arg(server.certificate())
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, output) = channel();
        let streams: [Box<dyn std::io::Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for mut stream in streams {
            let sender = sender.clone();
            std::thread::spawn(move || {
                let mut bytes = [0; 4096];
                while let Ok(count @ 1..) = stream.read(&mut bytes) {
                    let _ = sender.send(bytes[..count].to_vec());
                }
            });
        }
        let mut client = Self { child, output, said: String::new(), at: 0 };
        client.waits_for("Verify return code: 0");
        client
    }

    pub(crate) fn says(&mut self, text: &str) {
        self.child.stdin.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    }

    pub(crate) fn waits_for(&mut self, text: &str) {
        while !self.said[self.at..].contains(text) {
            match self.output.recv_timeout(STEP) {
                Ok(bytes) => self.said.push_str(&String::from_utf8_lossy(&bytes)),
                Err(_) => panic!("no {text:?} in {}", self.said),
            }
        }
        self.at += self.said[self.at..].find(text).unwrap() + text.len();
    }

    /// It is told to quit. Returns all that it has said.
    pub(crate) fn ends(mut self) -> String {
        self.says("Q\n");
        while let Ok(bytes) = self.output.recv_timeout(STEP) {
            self.said.push_str(&String::from_utf8_lossy(&bytes));
        }
        assert!(self.child.wait().unwrap().success(), "{}", self.said);
        std::mem::take(&mut self.said)
    }
}

impl Drop for SClient {
    fn drop(&mut self) {
        // After a failure it still runs.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
