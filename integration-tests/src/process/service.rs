//! One process of the service under test: `axum-server`, started here or by another process.
//!
//! Deliberately absent: killing on drop. The sandbox ends everything, so a `Service` may be forgotten.

use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use rustix::process::{Signal, WaitStatus};

use super::announcement::{Drained, Serving};
use super::eventually::eventually;
use super::facts::{Facts, is_alive, is_frozen, sleeps};
use super::sandbox::{Sandbox, binary, reap, signal};

/// From the start of the program to its `serving …` line, on a machine that has much else to do.
const SERVING_DEADLINE: Duration = Duration::from_secs(20);

/// From being told to go to the exit: the longest request of a test and a probation lie in it.
const EXIT_DEADLINE: Duration = Duration::from_secs(60);

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this status.
    Status(i32),
    /// By this signal.
    Signal(i32),
    /// Another process reaped it, so its exit status is unknown.
    Unknown,
}

/// A process of the service.
#[derive(Debug)]
pub struct Service<'a> {
    sandbox: &'a Sandbox,
    pid: u32,
    exit: OnceLock<Exit>,
}

impl<'a> Service<'a> {
    /// Starts `axum-server` by hand, on `127.0.0.1:0`; more `arguments` come after the usual ones.
    ///
    /// # Panics
    ///
    /// If the program is missing or does not start.
    #[must_use]
    pub fn start(sandbox: &'a Sandbox, version: &str, arguments: &[&str]) -> Self {
        Self::spawn(sandbox, &binary("axum-server"), &Self::arguments(sandbox, version, arguments))
    }

    /// Starts any program in the sandbox.
    ///
    /// # Panics
    ///
    /// If the program does not start.
    #[must_use]
    pub fn spawn(sandbox: &'a Sandbox, program: &Path, arguments: &[String]) -> Self {
        let (mut command, _) = sandbox.command(program);
        Self::run(sandbox, command.args(arguments))
    }

    /// Runs a command of the sandbox.
    ///
    /// # Panics
    ///
    /// If the program does not start.
    #[must_use]
    pub fn run(sandbox: &'a Sandbox, command: &mut Command) -> Self {
        Self::of(sandbox, start(command))
    }

    /// A process that was started in the sandbox by another one.
    #[must_use]
    pub fn of(sandbox: &'a Sandbox, pid: u32) -> Self {
        Self { sandbox, pid, exit: OnceLock::new() }
    }

    /// The arguments of `axum-server` in this sandbox.
    #[must_use]
    pub fn arguments(sandbox: &Sandbox, version: &str, more: &[&str]) -> Vec<String> {
        let control = sandbox.control().to_string_lossy().into_owned();
        let usual = ["--listen", "127.0.0.1:0", "--control", &control, "--app-version", version];
        usual.iter().chain(more).map(|argument| (*argument).to_owned()).collect()
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// What the kernel says of it.
    ///
    /// # Panics
    ///
    /// If it does not run any more.
    #[must_use]
    #[track_caller]
    pub fn facts(&self) -> Facts {
        Facts::of(self.pid).unwrap_or_else(|| panic!("process {} is gone", self.pid))
    }

    /// How often its threads went to sleep, so far; `None` if it does not run any more.
    #[must_use]
    pub fn sleeps(&self) -> Option<u64> {
        sleeps(self.pid)
    }

    /// Whether it runs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        is_alive(self.pid)
    }

    /// Sends it a signal.
    ///
    /// # Panics
    ///
    /// If the system refuses. That the process has gone is no error.
    pub fn signal(&self, which: Signal) {
        if self.exit.get().is_none() {
            signal(self.pid, which);
        }
    }

    /// Kills it, and waits until it is gone.
    #[track_caller]
    pub fn kill(&self) {
        self.signal(Signal::KILL);
        self.wait_exit();
    }

    /// Stops it (SIGSTOP), and waits until it does nothing any more: the signal alone only begins that.
    ///
    /// # Panics
    ///
    /// If it goes on, or has ended.
    #[track_caller]
    pub fn freeze(&self) {
        assert!(self.try_freeze(), "process {} ended before it could be stopped", self.pid);
    }

    /// The same with a process that may end by itself: `false` if it has.
    ///
    /// # Panics
    ///
    /// If it goes on.
    #[must_use]
    #[track_caller]
    pub fn try_freeze(&self) -> bool {
        self.signal(Signal::STOP);
        let what = format!("process {} stands still", self.pid);
        eventually(&what, SERVING_DEADLINE, || {
            if self.try_exit().is_some() { Some(false) } else { is_frozen(self.pid).then_some(true) }
        })
    }

    /// Waits for its `serving …` line.
    ///
    /// # Panics
    ///
    /// If it exits or if the deadline passes.
    #[track_caller]
    pub fn wait_serving(&self) -> Serving {
        let what = format!("process {} announces that it serves", self.pid);
        eventually(&what, SERVING_DEADLINE, || {
            let alive = self.try_exit().is_none();
            let announced = self.sandbox.servings().into_iter().find(|serving| serving.pid == self.pid);
            assert!(alive || announced.is_some(), "{} ended instead: {:?}", self.pid, self.exit.get());
            announced
        })
    }

    /// Waits for its `drained …` line and for its end.
    ///
    /// # Panics
    ///
    /// If it ends in another way, or if the deadline passes.
    #[track_caller]
    pub fn wait_drained(&self) -> Drained {
        let exit = self.wait_exit();
        assert!(matches!(exit, Exit::Status(0) | Exit::Unknown), "{} did not end well: {exit:?}", self.pid);
        let drained = self.sandbox.drained().into_iter().find(|drained| drained.pid == self.pid);
        drained.unwrap_or_else(|| panic!("process {} did not say that it had drained", self.pid))
    }

    /// Waits for its end.
    ///
    /// # Panics
    ///
    /// If the deadline passes.
    #[track_caller]
    pub fn wait_exit(&self) -> Exit {
        eventually(&format!("process {} ends", self.pid), EXIT_DEADLINE, || self.try_exit())
    }

    /// How it ended, if it has. Reaps it.
    #[must_use]
    pub fn try_exit(&self) -> Option<Exit> {
        if self.exit.get().is_none() {
            // In this order: of a process that is dead before the second look, only its parent learns the
            // status.
            let alive = is_alive(self.pid);
            let exit = match reap(self.pid) {
                // A child whose first thread has ended looks dead until its last one has.
                Ok(reaped) => reaped.map(to_exit),
                Err(_) => (!alive).then_some(Exit::Unknown),
            };
            if let Some(exit) = exit {
                return Some(*self.exit.get_or_init(|| exit));
            }
        }
        self.exit.get().copied()
    }
}

/// Starts a command and forgets the handle; its process id is enough to wait for it.
pub(super) fn start(command: &mut Command) -> u32 {
    match command.spawn() {
        Ok(child) => child.id(),
        Err(error) => panic!("{}: {error}", command.get_program().to_string_lossy()),
    }
}

fn to_exit(status: WaitStatus) -> Exit {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(status), _) => Exit::Status(status),
        (_, Some(signal)) => Exit::Signal(signal),
        (None, None) => Exit::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, sandbox: &Sandbox, check: impl FnOnce(&Service<'_>)) {
        let arguments = ["-c".to_owned(), script.to_owned()];
        check(&Service::spawn(sandbox, Path::new("/bin/sh"), &arguments));
    }

    #[test]
    fn reads_announcements_and_the_exit_status() {
        let sandbox = Sandbox::new();
        let script =
            "echo serving generation=1 pid=$$ http=127.0.0.1:1; echo drained generation=1 pid=$$ forced=2";
        shell(script, &sandbox, |service| {
            assert_eq!(service.wait_serving().generation, 1);
            assert_eq!(service.wait_drained().forced, 2);
            assert_eq!(service.try_exit(), Some(Exit::Status(0)));
        });
    }

    #[test]
    fn tells_exits_from_signals() {
        let sandbox = Sandbox::new();
        shell("exit 3", &sandbox, |service| assert_eq!(service.wait_exit(), Exit::Status(3)));
        shell("exec sleep 1000", &sandbox, |service| {
            assert!(service.is_alive() && service.try_exit().is_none());
            service.kill();
            assert_eq!(service.wait_exit(), Exit::Signal(9));
        });
    }

    #[test]
    #[should_panic(expected = "ended instead: Some(Status(4))")]
    fn does_not_wait_for_the_dead() {
        let sandbox = Sandbox::new();
        shell("exit 4", &sandbox, |service| {
            let _never = service.wait_serving();
        });
    }

    #[test]
    fn learns_the_exit_status_of_a_detached_process() {
        let sandbox = Sandbox::new();
        let script =
            "setsid sh -c 'echo serving generation=2 pid=$$ http=127.0.0.1:1; sleep 0.2; exit 5' & exit 0";
        shell(script, &sandbox, |service| {
            assert_eq!(service.wait_exit(), Exit::Status(0));
        });
        let second =
            eventually("the announcement", Duration::from_secs(5), || sandbox.servings().first().copied());
        let exit = Service::of(&sandbox, second.pid).wait_exit();
        assert!(matches!(exit, Exit::Status(5)), "{exit:?}");
    }
}
