//! A spinner on stderr that says how far a handoff is; none where stderr is no terminal, or with `--json`.

use std::io::{self, IsTerminal};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::report::Report;

/// The spinner; cleared when dropped.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    pub(crate) fn new(report: &Report) -> Self {
        let wanted = !report.json() && io::stderr().is_terminal();
        Self { bar: wanted.then(spinner) }
    }

    /// Shows how far the handoff is.
    pub(crate) fn at(&self, text: impl Into<String>) {
        if let Some(bar) = &self.bar {
            bar.set_message(crate::text::plain(&text.into()).into_owned());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn spinner() -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {elapsed:>4} {msg}");
    let bar =
        ProgressBar::new_spinner().with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}
