//! Completions, man pages and help come from one definition, and all say what an operator needs.

use std::process::Command;

use crate::support::run::{Ran, start};

fn hotctl(arguments: &[&str]) -> Ran {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    start(folder.path(), None, arguments).end().code(0)
}

#[test]
fn completions_know_every_command_and_nothing_hidden() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = hotctl(&["completions", shell]).stdout;
        for word in ["handoff", "rollback", "connections", "until", "socket"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
        assert!(
            ["__detach", "__listen", "__become"].iter().all(|hidden| !script.contains(hidden)),
            "{shell}"
        );
    }
}

#[test]
fn bash_takes_its_completions() {
    let script = hotctl(&["completions", "bash"]).stdout;
    let check = Command::new("bash").args(["-n", "-c", &script]).output().unwrap();
    assert!(check.status.success(), "{check:?}");
}

#[test]
fn there_is_a_man_page_for_hotctl_and_for_each_command() {
    let page = hotctl(&["man"]).stdout;
    for part in [".TH hotctl 1", "HOTUPDATE_SOCKET", "130  interrupted", "rollback"] {
        assert!(page.contains(part), "{part}: {page}");
    }
    let page = hotctl(&["man", "handoff"]).stdout;
    for part in [".TH hotctl-handoff 1", "HOTUPDATE_ATTEMPT", "drained"] {
        assert!(page.contains(part), "{part}: {page}");
    }
}

#[test]
fn long_help_has_examples_and_exit_codes_and_short_help_is_short() {
    let long = hotctl(&["--help"]).stdout;
    assert!(long.contains("Examples:") && long.contains("Exit codes:"), "{long}");
    let long = hotctl(&["handoff", "--help"]).stdout;
    assert!(long.contains("hotctl handoff -- ./server-v2") && long.contains("Exit codes:"), "{long}");
    let short = hotctl(&["-h"]).stdout;
    assert!(short.lines().count() <= 30 && !short.contains("Examples:"), "{short}");
}

/// The first column of the table under a heading.
fn first_column(readme: &str, heading: &str) -> Vec<String> {
    let (_, section) = readme.split_once(&format!("\n## {heading}\n")).expect(heading);
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| ")).skip(1);
    rows.map(|row| row.split(" | ").next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn the_readme_has_every_command_and_exit_code() {
    let readme = include_str!("../../README.md");
    let help = hotctl(&["--help"]).stdout;
    let (_, commands) = help.split_once("Commands:\n").unwrap();
    let (commands, rest) = commands.split_once("\n\n").unwrap();
    // Wrapped lines are indented further.
    let commands = commands.lines().filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    let mut commands: Vec<_> = commands.filter(|name| !name.is_empty() && *name != "help").collect();
    let in_readme = first_column(readme, "Commands");
    let mut in_readme: Vec<_> =
        in_readme.iter().filter_map(|cell| cell.trim_matches('`').split(' ').nth(1)).collect();
    commands.sort_unstable();
    in_readme.sort_unstable();
    assert_eq!(in_readme, commands);

    let (_, codes) = rest.split_once("Exit codes:\n").unwrap();
    let codes = codes.lines().map_while(|line| line.trim().split_once("  "));
    let codes: Vec<_> = codes.map(|(code, meaning)| format!("| {code} | {meaning} |")).collect();
    assert_eq!(codes.len(), 6);
    for line in codes {
        assert!(readme.contains(&line), "{line}");
    }
}
