//! What the kernel says of processes (proc(5)).
//!
//! Deliberately absent: waiting until something happens to them.

use std::{fs, process};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

/// What proc_pid_stat(5) says after the name, which may hold anything.
struct Stat {
    state: String,
    parent: u32,
    session: u32,
}

/// Our children, also those that other processes have left to us. None where the kernel shows no processes.
pub(super) fn children() -> impl Iterator<Item = u32> {
    all().filter(|pid| stat(*pid).is_some_and(|stat| stat.parent == process::id()))
}

/// Waits for the child if it has exited, as a parent has to.
pub(super) fn reap(pid: u32) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = waitpid(Some(pid), WaitOptions::NOHANG);
    }
}

/// Sends a signal.
pub(super) fn send(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // It may have exited in this moment.
        let _ = kill_process(pid, signal);
    }
}

/// Those of the session that run (setsid(2)), their leader among them.
pub(super) fn of_session(leader: u32) -> impl Iterator<Item = u32> {
    all().filter(move |pid| stat(*pid).is_some_and(|stat| stat.session == leader && stat.runs()))
}

/// Those that go on only when a signal or their debugger says so.
pub(super) fn stopped() -> impl Iterator<Item = u32> {
    all().filter(|pid| stat(*pid).is_some_and(|stat| matches!(stat.state.as_str(), "T" | "t")))
}

fn all() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Not if it has exited and its parent has not noticed yet.
pub(super) fn is_running(pid: u32) -> bool {
    stat(pid).is_some_and(|stat| stat.runs())
}

impl Stat {
    fn runs(&self) -> bool {
        !matches!(self.state.as_str(), "Z" | "X")
    }
}

fn stat(pid: u32) -> Option<Stat> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let (state, parent) = (fields.next()?.to_owned(), fields.next()?.parse().ok()?);
    // The process group lies in between.
    Some(Stat { state, parent, session: fields.nth(1)?.parse().ok()? })
}
