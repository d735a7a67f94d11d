//! When the machine itself stood still: a real-time thread that wants to wake every millisecond, and how late
//! it was. No load of ours can delay it; what does is the host.

use std::fmt::Write as _;
use std::io::{self, Read as _, Write as _};
use std::ops::Range;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use std::{env, fs, thread};

use anyhow::Context as _;

use crate::load::now;

/// This late is a stall.
const LATE: u64 = 1_000_000;

/// Runs until standard input ends; writes a line with begin and end of each stall.
pub(crate) fn run(path: &Path) -> anyhow::Result<()> {
    let (mut stalls, is_over) = (String::new(), AtomicBool::new(false));
    writeln!(io::stdout(), "ready")?;
    thread::scope(|scope| {
        scope.spawn(|| {
            let _ = io::stdin().read_to_end(&mut Vec::new());
            is_over.store(true, Relaxed);
        });
        while !is_over.load(Relaxed) {
            let due = now() + 1_000_000;
            thread::sleep(Duration::from_millis(1));
            let woke = now();
            if due + LATE < woke {
                // Writing to a string does not fail.
                let _ = writeln!(stalls, "{due} {woke}");
            }
        }
    });
    fs::write(path, stalls).with_context(|| format!("writing {}", path.display()))
}

/// The thread in a process of its own, real-time by `chrt`.
pub(crate) struct Watch(Child);

impl Watch {
    /// `None` where no process may be real-time.
    pub(crate) fn start(path: &Path) -> Option<Self> {
        let program = env::current_exe().ok()?;
        let mut command = Command::new("chrt");
        command.args(["--fifo", "50"]).arg(program).arg("stalls").arg(path);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()?;
        let mut ready = [0];
        let said = child.stdout.take()?.read(&mut ready).is_ok_and(|n| n == 1);
        if said {
            return Some(Self(child));
        }
        let _ = child.wait();
        None
    }

    pub(crate) fn end(mut self, path: &Path) -> anyhow::Result<Vec<Range<u64>>> {
        drop(self.0.stdin.take());
        self.0.wait()?;
        let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let stall = |line: &str| {
            let (begin, end) = line.split_once(' ')?;
            Some(begin.parse().ok()?..end.parse().ok()?)
        };
        Ok(text.lines().filter_map(stall).collect())
    }
}
