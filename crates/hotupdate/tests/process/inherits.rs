//! What a successor that SIGHUP started has from the process before: environment, limits, umask, priority,
//! output.
//!
//! Deliberately absent: what it has from an operator who starts it by `hotctl handoff`: all of it is the
//! operator's then.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use crate::service::STAYS_HERE;
use crate::stage::{Serving, Stage, stat};

fn read(process: Serving, name: &str) -> String {
    fs::read_to_string(format!("/proc/{}/{name}", process.pid)).unwrap()
}

/// The line of a table in /proc that begins with this.
fn line(text: &str, begin: &str) -> String {
    text.lines().find(|line| line.starts_with(begin)).unwrap_or_else(|| panic!("{begin}: {text}")).to_owned()
}

fn variable(process: Serving, name: &str) -> Option<String> {
    let environment = read(process, "environ");
    let value = environment.split('\0').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    value.map(str::to_owned)
}

/// What nice(1) sets.
fn priority(process: Serving) -> String {
    let stat = read(process, "stat");
    stat.rsplit_once(')').unwrap().1.split_whitespace().nth(16).unwrap().to_owned()
}

/// Through two generations, so that what the first one had from its starter is not what the test sees.
#[tokio::test]
async fn what_the_process_before_had() {
    let stage = Stage::new();
    let program = stage.program();
    let folder = program.parent().unwrap();
    let script = r#"ulimit -f 2000000; umask 027; exec nice -n 5 "$0" "$@""#;
    let mut command = Command::new("sh");
    command.args(["-c", script]).arg(&program).current_dir(folder).env("PWD", folder).env(STAYS_HERE, "");
    command.env("DATABASE", "one").env("LISTEN_PID", "1").env("LISTEN_FDS", "3");
    let _first = stage.run(stage.prepare(&mut command));
    let mut process = stage.serves(1).await;
    let limit = line(&read(process, "limits"), "Max file size");
    let nice = priority(process);
    for _ in 0..2 {
        process = stage.sighup(process).await;
        assert_eq!(variable(process, "DATABASE").as_deref(), Some("one"));
        assert_eq!(variable(process, "PWD").as_deref(), folder.to_str());
        for name in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] {
            assert_eq!(variable(process, name), None, "{name} speaks of descriptors of another process");
        }
        assert_eq!(line(&read(process, "limits"), "Max file size"), limit);
        assert_eq!(line(&read(process, "status"), "Umask"), "Umask:\t0027");
        assert_eq!(priority(process), nice);
        let at = |name: &str| fs::read_link(format!("/proc/{}/{name}", process.pid)).unwrap();
        assert_eq!(at("cwd"), folder);
        assert_eq!(at("fd/0").to_str(), Some("/dev/null"));
        for output in ["fd/1", "fd/2"] {
            assert_eq!(at(output), stage.file("log"));
        }
        let [_, _, _, session] = stat(process.pid).unwrap();
        assert_eq!(session, process.pid.to_string());
    }
}

/// What rotates logs renames them, makes new ones, and says SIGHUP to most daemons. Here that starts a new
/// version, and its output goes to the open file that it inherits.
#[tokio::test]
async fn after_a_rotation_of_logs_the_output_stays_where_it_was() {
    let stage = Stage::new();
    let _first = stage.start(&[]);
    let serving = stage.serves(1).await;
    fs::rename(stage.file("log"), stage.file("log.1")).unwrap();
    fs::write(stage.file("log"), "").unwrap();
    let second = stage.sighup(serving).await;
    let output = fs::metadata(format!("/proc/{}/fd/1", second.pid)).unwrap();
    assert_eq!(output.ino(), fs::metadata(stage.file("log.1")).unwrap().ino());
    assert_eq!(stage.log(), "");
}
