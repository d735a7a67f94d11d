//! A folder of its own for each test: control socket, logs, and every process that was started in it.
//!
//! Deliberately absent: names and process groups as a way to find processes. A successor is detached, in a
//! session of its own, and no child of the test; but it inherits the environment, so a variable that holds
//! the sandbox's path finds the processes of this sandbox, and only those.
//!
//! Output goes to files, not through pipes: a successor that SIGHUP started writes where its predecessor did,
//! and a pipe would end with the reader.

use std::collections::HashSet;
use std::env;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};
use tempfile::TempDir;

use super::announced::Announced;
use super::announcement::{Drained, Serving};
use super::eventually::{SOON, eventually};

/// The variable that every process of a sandbox inherits.
const MARK: &str = "HOTUPDATE_TEST_SANDBOX";

/// A process that gets SIGKILL is gone within microseconds; the rest is for a machine under load.
const KILL_DEADLINE: Duration = Duration::from_secs(10);

/// A folder, mode 0700, with everything that is started in it. Dropped, it ends all of it; in a test that
/// fails it prints first what the processes wrote.
#[derive(Debug)]
pub struct Sandbox {
    dir: TempDir,
    started: AtomicU32,
    announced: Mutex<Announced>,
}

impl Sandbox {
    /// A fresh sandbox.
    ///
    /// # Panics
    ///
    /// If no folder can be made.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "it makes a folder, which a default should not")]
    pub fn new() -> Self {
        adopt_orphans();
        // The path of a Unix socket holds 107 bytes, so the folder has a short name.
        let dir = tempfile::Builder::new()
            .prefix("hot-")
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir()
            .expect("the temporary directory takes a folder");
        fs::create_dir(dir.path().join("logs")).expect("a fresh folder takes another");
        Self { dir, started: AtomicU32::new(0), announced: Mutex::default() }
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The path of the control socket.
    #[must_use]
    pub fn control(&self) -> PathBuf {
        self.path().join("control.sock")
    }

    /// A command in this sandbox: its folder, its mark, its own output files, and no setting of the
    /// surroundings. Both output paths are returned with it.
    ///
    /// # Panics
    ///
    /// If the output files cannot be made.
    #[must_use]
    pub fn command(&self, program: &Path) -> (Command, Output) {
        let name = program.file_name().map_or("unnamed".into(), |name| name.to_string_lossy().into_owned());
        let output = Output { stdout: self.log_path(&name, "out"), stderr: self.log_path(&name, "err") };
        let mut command = Command::new(program);
        command
            .current_dir(self.path())
            .env(MARK, self.path())
            .env_remove("HOTUPDATE_SOCKET")
            .env_remove("HOTUPDATE_ATTEMPT")
            .env_remove("LISTEN_FDS")
            .env_remove("LISTEN_PID")
            .env_remove("LISTEN_FDNAMES")
            .env_remove("NOTIFY_SOCKET")
            .env_remove("INVOCATION_ID")
            .env_remove("SYSTEMD_EXEC_PID")
            .env_remove("WATCHDOG_USEC")
            .stdin(Stdio::null())
            .stdout(open_to_append(&output.stdout))
            .stderr(open_to_append(&output.stderr));
        (command, output)
    }

    /// A path for one more log; whatever announces itself there is found by [`Sandbox::servings`].
    #[must_use]
    pub fn log_path(&self, name: &str, extension: &str) -> PathBuf {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        self.path().join("logs").join(format!("{number:03}-{name}.{extension}"))
    }

    /// Every `serving …` line so far, by generation.
    #[must_use]
    pub fn servings(&self) -> Vec<Serving> {
        self.announced().servings.clone()
    }

    /// Waits for the `serving …` line of this generation. Its process id is that of its own namespace.
    ///
    /// # Panics
    ///
    /// If it does not come.
    #[must_use]
    #[track_caller]
    pub fn wait_generation(&self, generation: u64) -> Serving {
        eventually(&format!("generation {generation} serves"), SOON, || {
            self.servings().into_iter().find(|serving| serving.generation == generation)
        })
    }

    /// Every `drained …` line so far, by generation.
    #[must_use]
    pub fn drained(&self) -> Vec<Drained> {
        self.announced().drained.clone()
    }

    /// The processes that run in this sandbox at the moment, also those that the test did not start.
    #[must_use]
    pub fn processes(&self) -> Vec<u32> {
        let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
        let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        pids.filter(|pid| self.has(*pid)).collect()
    }

    /// A process that ends loses its memory first, and its environment with it. Until its descriptors are
    /// closed, too, it holds its ports and locks: its output is a file of the sandbox.
    fn has(&self, pid: u32) -> bool {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        if !environment.is_empty() {
            let mark = format!("{MARK}={}", self.path().display());
            return environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes());
        }
        let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let descriptors = threads.filter_map(|thread| fs::read_dir(thread.path().join("fd")).ok()).flatten();
        let mut files = descriptors.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        files.any(|file| file.starts_with(self.path()))
    }

    /// Everything that the processes wrote, file by file, for people.
    #[must_use]
    pub fn transcript(&self) -> String {
        let mut transcript = String::new();
        for path in self.logs() {
            let text =
                fs::read(&path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
            if !text.is_empty() {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                transcript.push_str(&format!("---- {name}\n{}\n", text.trim_end()));
            }
        }
        transcript
    }

    fn announced(&self) -> MutexGuard<'_, Announced> {
        // A line that makes no sense fails the test in any case.
        let mut announced = self.announced.lock().unwrap_or_else(PoisonError::into_inner);
        announced.catch_up(&self.logs());
        announced
    }

    /// Forgets the processes that are gone, but for what they announced: reaps them, and removes the logs
    /// that no process writes to any more. For tests that start processes by the thousand.
    pub fn tidy(&self) {
        for serving in self.servings() {
            let _ended_or_not_ours = reap(serving.pid);
        }
        let links = |pid: u32| fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten();
        let open: HashSet<PathBuf> = self
            .processes()
            .into_iter()
            .flat_map(links)
            .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
            .collect();
        for path in self.logs().iter().filter(|path| !open.contains(*path)) {
            // Once more: it may have been written to until a moment ago.
            drop(self.announced());
            let _gone_already = fs::remove_file(path);
        }
    }

    fn logs(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.path().join("logs")) else { return Vec::new() };
        let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        paths.sort();
        paths
    }

    /// Ends everything and removes the folder: for a program that is interrupted and will not drop its
    /// sandbox.
    ///
    /// # Panics
    ///
    /// If a process cannot be ended.
    pub fn end(&self) {
        self.end_all();
        let _what_is_left_is_in_tmp = fs::remove_dir_all(self.path());
    }

    /// Also ends what the ending processes start meanwhile.
    fn end_all(&self) {
        eventually("an empty sandbox", KILL_DEADLINE, || {
            let left = self.processes();
            for pid in &left {
                signal(*pid, Signal::KILL);
                let _anothers_child = reap(*pid);
            }
            left.is_empty().then_some(())
        });
    }
}

impl Drop for Sandbox {
    #[expect(clippy::print_stderr, reason = "what the processes wrote is what a failed test has to say")]
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.transcript());
        }
        // Panicking twice would abort the test run, so what cannot be ended is only said.
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.end_all()));
        if ended.is_err() {
            eprintln!("these are left over: {:?}", self.processes());
        }
    }
}

/// Where a command's output goes.
#[derive(Clone, Debug)]
pub struct Output {
    /// Its standard output.
    pub stdout: PathBuf,
    /// Its standard error.
    pub stderr: PathBuf,
}

/// The path of a program of this workspace: beside this program, or one folder up for a test.
///
/// # Panics
///
/// If it was not built: `cargo test -p integration-tests` does not build the programs of other packages.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    let this = env::current_exe().expect("a running program has a path");
    let mut folder = this.parent().expect("a program lies in a folder");
    if folder.ends_with("deps") {
        folder = folder.parent().expect("`deps` lies in the folder of the profile");
    }
    let path = folder.join(name);
    assert!(path.exists(), "{} is missing: run `cargo build --workspace` first", path.display());
    path
}

/// Sends a signal; that the process is gone already is no error.
pub(super) fn signal(pid: u32, signal: Signal) {
    match rustix::process::kill_process(to_pid(pid), signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => panic!("signal {signal:?} to {pid}: {error}"),
    }
}

/// How the process ended, once it has; `None` while it runs, an error as long as it is another's child.
pub(super) fn reap(pid: u32) -> rustix::io::Result<Option<WaitStatus>> {
    let reaped = rustix::process::waitpid(Some(to_pid(pid)), WaitOptions::NOHANG)?;
    Ok(reaped.map(|(_, status)| status))
}

pub(super) fn to_pid(pid: u32) -> Pid {
    i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id is a positive i32")
}

/// Lets orphans become children of this process (`PR_SET_CHILD_SUBREAPER`, prctl(2)), so that the exit status
/// of a detached successor can be read, and none is left as a zombie where process 1 does not reap.
fn adopt_orphans() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let this = rustix::process::getpid();
        rustix::process::set_child_subreaper(Some(this)).expect("any process may adopt orphans");
    });
}

fn open_to_append(path: &Path) -> File {
    File::options().create(true).append(true).open(path).expect("the sandbox takes a log file")
}

#[cfg(test)]
mod tests {
    use super::super::facts::is_alive;
    use super::super::needs::{PYTHON, have};
    use super::*;

    #[test]
    fn ends_what_was_started_in_it_even_if_detached() {
        let sandbox = Sandbox::new();
        let (mut command, _) = sandbox.command(Path::new("/bin/sh"));
        let mut shell =
            command.args(["-c", "setsid sleep 1000 & setsid sleep 1000 &"]).spawn().expect("a shell");
        shell.wait().expect("the shell ends");
        let started = eventually("two detached processes", Duration::from_secs(5), || {
            let pids = sandbox.processes();
            (pids.len() == 2).then_some(pids)
        });
        drop(sandbox);
        assert!(started.iter().all(|pid| !is_alive(*pid)));
    }

    /// The first thread has ended, so the process has no environment, and looks like one that has been killed.
    #[test]
    fn a_process_is_there_until_its_descriptors_are_closed() {
        if !have(&[PYTHON]) {
            return;
        }
        let sandbox = Sandbox::new();
        let (mut command, output) = sandbox.command(Path::new("python3"));
        let script = "import ctypes, threading, time\n\
            threading.Thread(target=time.sleep, args=(1000,)).start()\n\
            print('runs', flush=True)\n\
            ctypes.CDLL(None).pthread_exit(None)";
        let mut python = command.args(["-c", script]).spawn().expect("Python starts");
        let pid = python.id();
        eventually("its first thread has ended", Duration::from_secs(20), || {
            let is_started = fs::read_to_string(&output.stdout).is_ok_and(|text| text == "runs\n");
            (is_started && !is_alive(pid)).then_some(())
        });
        assert_eq!(sandbox.processes(), [pid]);
        drop(sandbox);
        let _reaped_by_the_sandbox_perhaps = python.wait();
    }

    #[test]
    fn collects_announcements_of_complete_lines() {
        let sandbox = Sandbox::new();
        let (mut command, output) = sandbox.command(Path::new("/bin/sh"));
        let script =
            "echo noise; echo serving generation=2 pid=7 http=127.0.0.1:1; printf 'serving generation='";
        command.args(["-c", script]).spawn().expect("a shell").wait().expect("the shell ends");
        assert_eq!(sandbox.servings().iter().map(|serving| serving.pid).collect::<Vec<_>>(), [7]);
        assert!(sandbox.transcript().contains("noise"));
        assert!(output.stdout.exists() && fs::read(output.stderr).expect("a log").is_empty());
    }

    #[test]
    fn only_the_owner_may_look_into_it() {
        let sandbox = Sandbox::new();
        let mode = fs::metadata(sandbox.path()).expect("a folder").permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        assert!(sandbox.control().as_os_str().len() < 108);
    }
}
