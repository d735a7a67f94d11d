//! Where processes are started, watched, and ended whatever happens.
//!
//! Deliberately absent: pids that are believed. A process is one of this stage if its environment says so.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, getpid, kill_process, set_child_subreaper};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::common::{Folder, SOON, eventually};
use crate::service::{ANSWER, FOLDER, SAID};

/// What would make a process believe that it has a service manager.
const OF_MANAGERS: [&str; 9] = [
    "NOTIFY_SOCKET",
    "FDSTORE",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_PID",
    "INVOCATION_ID",
    "SYSTEMD_EXEC_PID",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
];

/// A process that said that it serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Serving {
    pub(crate) pid: u32,
    pub(crate) address: SocketAddr,
}

/// A folder with the program, its log and its control socket.
pub(crate) struct Stage(Folder);

impl Stage {
    pub(crate) fn new() -> Self {
        // This program is what systemd is elsewhere: orphans become its children.
        set_child_subreaper(Some(getpid())).unwrap();
        let stage = Self(Folder::new());
        stage.install(&std::env::current_exe().unwrap());
        stage
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.file(name)
    }

    pub(crate) fn control(&self) -> PathBuf {
        self.0.control()
    }

    /// Where the program is.
    pub(crate) fn program(&self) -> PathBuf {
        self.file("server")
    }

    /// Puts this program where the service was started from, as an update of a package does.
    pub(crate) fn install(&self, program: &Path) {
        let new = self.file("server.new");
        symlink(program, &new).unwrap();
        fs::rename(new, self.program()).unwrap();
    }

    /// A copy of this program under this name. This process does not write it: a child that another test
    /// starts meanwhile would hold it open for writing, so that it could not be executed (execve(2),
    /// `ETXTBSY`).
    pub(crate) fn copy_program(&self, name: &str) -> PathBuf {
        let copy = self.file(name);
        let copied = Command::new("cp").arg(std::env::current_exe().unwrap()).arg(&copy).status().unwrap();
        assert!(copied.success());
        copy
    }

    /// Puts a script there.
    pub(crate) fn install_script(&self, script: &str) {
        use std::os::unix::fs::PermissionsExt;
        let path = self.file("script");
        let write = r#"printf '%s\n' '#!/bin/sh' "$1" >"$0""#;
        let written = Command::new("sh").args(["-c", write]).arg(&path).arg(script).status().unwrap();
        assert!(written.success());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        self.install(&path);
    }

    /// Makes a command start the service: arguments, environment, output.
    pub(crate) fn prepare<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        for name in OF_MANAGERS {
            command.env_remove(name);
        }
        let log = File::options().append(true).create(true).open(self.file("log")).unwrap();
        command
            .args(["--exact", "service::service", "--ignored", "--nocapture", "--test-threads=1"])
            .env(FOLDER, self.0.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
    }

    /// Starts the service with these additions to its environment.
    pub(crate) fn start(&self, environment: &[(&str, &str)]) -> Process<'_> {
        let mut command = Command::new(self.program());
        self.prepare(&mut command).envs(environment.iter().copied());
        self.run(&mut command)
    }

    pub(crate) fn run(&self, command: &mut Command) -> Process<'_> {
        Process { child: command.spawn().unwrap(), stage: self }
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.file("log")).unwrap_or_default()
    }

    /// A line with all of these words is in the log, or comes.
    pub(crate) async fn logs(&self, words: &[&str]) {
        let has = |line: &str| words.iter().all(|word| line.contains(word));
        let says = async || self.log().lines().any(has).then_some(());
        eventually(&format!("a line with {words:?} in the log"), says).await;
    }

    pub(crate) fn said(&self) -> String {
        fs::read_to_string(self.file(SAID)).unwrap_or_default()
    }

    /// The newest of so many processes that said that they serve.
    pub(crate) async fn serves(&self, count: usize) -> Serving {
        eventually(&format!("{count} processes have said that they serve"), async || {
            self.said().lines().filter_map(serving).nth(count - 1)
        })
        .await
    }

    /// SIGHUP to the process that serves; returns when its successor does.
    pub(crate) async fn sighup(&self, serving: Serving) -> Serving {
        let count = self.said().lines().filter_map(self::serving).count();
        signal(serving.pid, Signal::HUP);
        let next = self.serves(count + 1).await;
        assert_eq!(next.address, serving.address, "the listener was not inherited");
        assert_eq!(who(next.address).await, next.pid, "a new connection is for the new process");
        next
    }

    fn processes(&self) -> impl Iterator<Item = u32> {
        let ours = format!("{FOLDER}={}\0", self.0.path().display()).into_bytes();
        let pids = fs::read_dir("/proc").unwrap().flatten();
        pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(move |pid| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.windows(ours.len()).any(|window| window == ours)
        })
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for pid in self.processes() {
            signal(pid, Signal::KILL);
        }
        if std::thread::panicking() {
            eprint_all(&self.log());
        }
    }
}

#[allow(clippy::print_stderr, reason = "a test that fails shows what its processes said")]
fn eprint_all(log: &str) {
    eprintln!("---- what the processes logged\n{log}");
}

fn serving(line: &str) -> Option<Serving> {
    let (pid, address) = line.strip_prefix("serving ")?.split_once(' ')?;
    Some(Serving { pid: pid.parse().ok()?, address: address.parse().ok()? })
}

/// A process that a test has started itself.
pub(crate) struct Process<'a> {
    child: Child,
    stage: &'a Stage,
}

impl Process<'_> {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, which: Signal) {
        signal(self.pid(), which);
    }

    /// Waits until it has ended.
    pub(crate) async fn end(&mut self) -> ExitStatus {
        let what = format!("{} has ended", self.pid());
        eventually(&what, async || self.child.try_wait().unwrap()).await
    }

    /// Waits until it has drained and ended as it should; so many connections were cut off.
    pub(crate) async fn drains(&mut self, forced: u64) {
        assert!(self.end().await.success(), "{}", self.stage.log());
        let line = format!("drained {} {forced}\n", self.pid());
        assert!(self.stage.said().contains(&line), "{line:?} is not in {:?}", self.stage.said());
    }
}

pub(crate) fn signal(pid: u32, which: Signal) {
    // It may have ended.
    let _ = kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), which);
}

/// What proc_pid_stat(5) says of a process after its name: state, parent, group, session.
pub(crate) fn stat(pid: u32) -> Option<[String; 4]> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().take(4).map(str::to_owned).collect();
    fields.try_into().ok()
}

/// Waits until nothing is left of it but, at most, its entry in the table of processes.
pub(crate) async fn is_dead(pid: u32) {
    eventually(&format!("{pid} has ended"), async || {
        stat(pid).is_none_or(|[state, ..]| state == "Z").then_some(())
    })
    .await;
}

/// A client that has its connection.
pub(crate) struct Client(TcpStream);

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self(timeout(SOON, TcpStream::connect(address)).await.expect("it connects in time").unwrap())
    }

    /// Who answers.
    pub(crate) async fn ask(&mut self) -> u32 {
        let mut answer = [0; ANSWER];
        self.0.write_all(b"?").await.unwrap();
        timeout(SOON, self.0.read_exact(&mut answer)).await.expect("an answer in time").unwrap();
        String::from_utf8_lossy(&answer).trim().parse().unwrap()
    }

    /// Waits until it is cut off.
    pub(crate) async fn end(mut self) {
        let read = timeout(SOON, self.0.read(&mut [0])).await.expect("the connection ends in time");
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    }
}

/// Who answers a new connection.
pub(crate) async fn who(address: SocketAddr) -> u32 {
    Client::connect(address).await.ask().await
}
