//! The machine: what it is, and what else it does meanwhile.

use std::fs;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

/// More than this share of the processors is not nothing.
pub(crate) const MUCH: f64 = 0.05;

/// How long this program does nothing itself, to see what other processes do.
const LOOK: Duration = Duration::from_millis(150);

/// The processor time of the whole machine since it was started, in ticks: proc_stat(5).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Used {
    all: u64,
    idle: u64,
    stolen: u64,
}

impl Used {
    pub(crate) fn now() -> Self {
        let text = fs::read_to_string("/proc/stat").unwrap_or_default();
        Self::parse(text.lines().next().unwrap_or_default())
    }

    fn parse(line: &str) -> Self {
        let fields: Vec<u64> =
            line.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
        let at = |n: usize| fields.get(n).copied().unwrap_or(0);
        // What guests use is counted in what users use.
        Self { all: fields.iter().take(8).sum(), idle: at(3) + at(4), stolen: at(7) }
    }

    fn since(self, before: Self) -> Self {
        let less = |now: u64, before: u64| now.saturating_sub(before);
        Self {
            all: less(self.all, before.all).max(1),
            idle: less(self.idle, before.idle),
            stolen: less(self.stolen, before.stolen),
        }
    }

    /// The share of the processors that the host took since then.
    pub(crate) fn stolen(self) -> f64 {
        let since = Self::now().since(self);
        since.stolen as f64 / since.all as f64
    }
}

/// The share of the processors that other processes use at the moment: nothing of this program may run.
pub(crate) fn others() -> f64 {
    let before = Used::now();
    sleep(LOOK);
    let since = Used::now().since(before);
    1.0 - (since.idle as f64 / since.all as f64).min(1.0)
}

/// Date, version of this project, machine.
pub(crate) fn about() -> String {
    let output = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().ok();
        output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
    };
    let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let processor = processor.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap_or_default();
    let memory: u64 = memory.trim().trim_end_matches(" kB").parse().unwrap_or(0);
    format!(
        "{date}, version {commit}; {cores} cores ({processor}), {memory} GiB, Linux {kernel}, {rustc}",
        date = output("date", &["--utc", "+%Y-%m-%d %H:%M UTC"]),
        commit = output("git", &["describe", "--always", "--dirty"]),
        cores = std::thread::available_parallelism().map_or(0, usize::from),
        processor = processor.trim_start_matches([' ', '\t', ':']),
        memory = memory.div_ceil(1024 * 1024),
        kernel = output("uname", &["-r"]),
        rustc = output("rustc", &["--version"]).split(" (").next().unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_machine_used_between_two_looks() {
        let before = Used::parse("cpu  100 0 100 700 50 0 0 50 9 9");
        let since = Used::parse("cpu  150 0 120 720 60 0 0 100 9 9").since(before);
        assert_eq!((since.all, since.idle, since.stolen), (150, 30, 50));
    }
}
