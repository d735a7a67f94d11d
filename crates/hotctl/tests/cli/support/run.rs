//! Runs the built binary in a folder of its own, with its output in files: a successor that inherits them
//! must not keep the test waiting.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use super::eventually;
use super::fake::Fake;

/// A fresh folder with a service in it.
pub(crate) struct Place {
    // Dropped in this order: the service ends before its folder goes.
    pub(crate) fake: Fake,
    pub(crate) folder: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let fake = Fake::serve(folder.path().join("control.sock"));
        fs::write(folder.path().join("keep"), "").expect("the folder is ours");
        Self { fake, folder }
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs hotctl to its end on this service.
    pub(crate) fn hotctl(&self, arguments: &[&str]) -> Ran {
        self.start(arguments).end()
    }

    /// Starts hotctl on this service.
    pub(crate) fn start(&self, arguments: &[&str]) -> Running {
        start(self.folder.path(), Some(&self.fake.path), arguments)
    }

    /// A shell script for `handoff -- sh -c`: says who it is in `started`, then stays until the test ends.
    pub(crate) fn server(&self) -> String {
        let folder = self.folder.path().display();
        format!(
            "cd {folder}; echo out; echo err >&2; echo \"$HOTUPDATE_ATTEMPT $$\" > new; mv new started; \
             while [ -e keep ]; do sleep 0.05; done"
        )
    }

    /// The attempt id and pid of the started script.
    pub(crate) fn started(&self) -> (String, u32) {
        let text = eventually("the successor starts", || fs::read_to_string(self.file("started")).ok());
        let (attempt, pid) = text.trim().split_once(' ').expect("the script writes two words");
        (attempt.to_owned(), pid.parse().expect("$$ is a number"))
    }

    /// Ends the script and waits until it is gone.
    pub(crate) fn end_server(&self, pid: u32) {
        fs::remove_file(self.file("keep")).expect("it is there once");
        eventually("the successor ends", || (!is_alive(pid)).then_some(()));
    }
}

/// Alive, and not a zombie.
pub(crate) fn is_alive(pid: u32) -> bool {
    stat(pid).is_some_and(|stat| stat.state != 'Z')
}

pub(crate) struct Stat {
    pub(crate) state: char,
    pub(crate) session: u32,
}

/// proc_pid_stat(5): the fields after the name in parentheses are state, ppid, pgrp, session.
pub(crate) fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit(") ").next()?.split(' ');
    let state = fields.next()?.chars().next()?;
    Some(Stat { state, session: fields.nth(2)?.parse().ok()? })
}

/// hotctl on its way.
pub(crate) struct Running {
    child: Child,
    arguments: Vec<String>,
    out: PathBuf,
    err: PathBuf,
}

/// Starts hotctl with nothing of the user's environment that it looks at.
pub(crate) fn start(folder: &Path, socket: Option<&Path>, arguments: &[&str]) -> Running {
    let output = tempfile::tempdir_in(folder).expect("the folder is ours").keep();
    let (out, err) = (output.join("stdout"), output.join("stderr"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_hotctl"));
    command
        .env_remove("HOTUPDATE_SOCKET")
        .env_remove("HOTUPDATE_NAME")
        .env_remove("NO_COLOR")
        .env("XDG_RUNTIME_DIR", folder);
    if let Some(path) = socket {
        command.arg("--socket").arg(path);
    }
    command.args(arguments).stdin(Stdio::null());
    command.stdout(File::create(&out).expect("the folder is ours"));
    command.stderr(File::create(&err).expect("the folder is ours"));
    let child = command.spawn().expect("hotctl was built");
    Running { child, arguments: arguments.iter().map(ToString::to_string).collect(), out, err }
}

impl Running {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written so far.
    pub(crate) fn stdout(&self) -> String {
        fs::read_to_string(&self.out).expect("hotctl writes UTF-8")
    }

    pub(crate) fn end(mut self) -> Ran {
        let status = eventually("hotctl ends", || self.child.try_wait().expect("it is our child"));
        let read = |path: &Path| fs::read_to_string(path).expect("hotctl writes UTF-8");
        Ran {
            code: status.code(),
            stdout: read(&self.out),
            stderr: read(&self.err),
            arguments: self.arguments.clone(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // After `end` there is nothing to kill, and a test that failed leaves nothing behind.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What hotctl came to.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    #[expect(dead_code, reason = "a test that fails shows it")]
    pub(crate) arguments: Vec<String>,
}

impl Ran {
    /// Checks the exit code, and shows everything where it is another.
    #[track_caller]
    pub(crate) fn code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self
    }

    /// The one line on stderr that is hotctl's own.
    #[track_caller]
    pub(crate) fn line(&self) -> &str {
        assert_eq!(self.stderr.lines().count(), 1, "{self:#?}");
        self.stderr.trim_end()
    }

    /// Checks the one line on stderr.
    #[track_caller]
    pub(crate) fn says(self, line: &str) -> Self {
        assert_eq!(self.line(), line);
        self
    }

    /// The JSON lines on stdout.
    #[track_caller]
    pub(crate) fn json(&self) -> Vec<Value> {
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {self:#?}"));
        self.stdout.lines().map(parse).collect()
    }
}
