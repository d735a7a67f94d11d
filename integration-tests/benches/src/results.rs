//! What a scenario found: shown, and kept for programs and for the next reader.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, ensure};
use serde::Deserialize as _;
use serde_json::{Value, json};

use crate::machine::{self, MUCH};
use crate::report::{self, Round};
use crate::say;

/// The results of one scenario.
pub(crate) struct Findings {
    /// Of its files.
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    /// Tables in Markdown, and what there is to say of them.
    pub(crate) text: String,
    pub(crate) figures: Value,
    pub(crate) plot: Option<String>,
    /// What else was going on, if it was too much.
    pub(crate) disturbed: Option<String>,
}

/// Runs a scenario, prints what it found, and keeps it in this folder, if there is one.
pub(crate) fn keep(
    out: Option<&Path>,
    scenario: impl FnOnce() -> anyhow::Result<Findings>,
) -> anyhow::Result<()> {
    let (about, before) = (machine::about(), machine::others());
    let found = scenario()?;
    let others = before.max(machine::others());
    let busy = (MUCH < others).then(|| {
        format!("other processes used {:.0} % of the processors before or after it", others * 100.0)
    });
    let disturbed: Vec<_> = busy.into_iter().chain(found.disturbed).collect();
    let warning = match disturbed.join("; ") {
        none if none.is_empty() => String::new(),
        what => format!("**This run was disturbed: {what}. Take times with care.**\n\n"),
    };
    let Findings { name, title, text, figures, plot, .. } = found;
    let command: Vec<_> = std::env::args().skip(1).collect();
    let command = format!("bench {}", command.join(" "));
    let text = format!("# {title}\n\n{about}. `{command}`\n\n{warning}{text}");
    say(&format!("\n{text}"))?;
    let Some(out) = out else { return Ok(()) };
    fs::create_dir_all(out).with_context(|| format!("making {}", out.display()))?;
    let all = json!({ "about": about, "command": command, "disturbed": disturbed, "figures": figures });
    write(&out.join(format!("{name}.md")), &text)?;
    write(&out.join(format!("{name}.json")), &format!("{}\n", serde_json::to_string_pretty(&all)?))?;
    plot.map_or(Ok(()), |plot| write(&out.join(format!("{name}.svg")), &plot))
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

const BEGIN: &str = "<!-- results: begin, written by `bench report` -->\n";
const END: &str = "<!-- results: end -->\n";

/// Writes the table of the upgrades into a file, between two lines that are there.
pub(crate) fn report(results: &Path, readme: &Path) -> anyhow::Result<()> {
    let path = results.join("upgrades.json");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let all: Value = serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))?;
    let rounds = Vec::<Round>::deserialize(&all["figures"]["rounds"])?;
    let about = all["about"].as_str().context("it says where it was measured")?;
    let disturbed = all["disturbed"].as_array().is_some_and(|disturbed| !disturbed.is_empty());
    let table = format!(
        "{}\nMedians (latencies, times) and sums of {} upgrades each; {about}.{}\n",
        report::summary(&rounds),
        rounds.iter().filter(|round| round.system == rounds[0].system).count(),
        if disturbed { " The machine had other work, so take latencies with care." } else { "" },
    );
    let text = fs::read_to_string(readme).with_context(|| format!("reading {}", readme.display()))?;
    write(readme, &between(&text, &table).with_context(|| format!("changing {}", readme.display()))?)
}

fn between(text: &str, new: &str) -> anyhow::Result<String> {
    let (before, rest) = text.split_once(BEGIN).context("there is no line that begins the results")?;
    let (_, after) = rest.split_once(END).context("there is no line that ends the results")?;
    ensure!(!new.is_empty(), "there is nothing to write");
    Ok(format!("{before}{BEGIN}{new}{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_lines_is_replaced() {
        let text = format!("before\n{BEGIN}old\n{END}after\n");
        let new = between(&text, "new\n").unwrap();
        assert_eq!(new, format!("before\n{BEGIN}new\n{END}after\n"));
        assert_eq!(between(&new, "new\n").unwrap(), new);
        assert!(between("before\n", "new\n").is_err() && between(&text, "").is_err());
    }
}
