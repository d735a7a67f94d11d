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
        assert!(!script.contains("__detach") && !script.contains("__listen"), "{shell}");
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
