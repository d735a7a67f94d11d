//! What the kernel says of processes (proc(5)).
//!
//! Deliberately absent: waiting for them.

use std::{fs, process};

/// Our children, also those that other processes have left to us. None where the kernel shows no processes.
pub(super) fn children() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| stat(*pid).is_some_and(|(_, parent)| parent == process::id()))
}

/// Not if it has exited and its parent has not noticed yet.
pub(super) fn is_running(pid: u32) -> bool {
    stat(pid).is_some_and(|(state, _)| !matches!(state.as_str(), "Z" | "X"))
}

/// State and parent, after the name, which may hold anything (proc_pid_stat(5)).
fn stat(pid: u32) -> Option<(String, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
}
