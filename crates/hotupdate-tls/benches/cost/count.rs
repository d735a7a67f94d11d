//! Instructions, as callgrind counts them.

use std::fs;
use std::process::{Command, ExitCode};

use crate::peers::{Engine, Peers, Server};
use crate::wire::{Pair, now};
use crate::work::Work;

/// The argument of a process in which one thing is counted.
pub(crate) const COUNTED: &str = "counted";

/// Without a migration a connection may cost so much more than tokio-rustls; after one nothing more.
const MOST_BEFORE: f64 = 1.02;
const MOST_AFTER: f64 = 1.;

const TIMES: usize = 500;
const TIMES_OF_A_CHUNK: usize = 50;

pub(crate) fn compare() -> ExitCode {
    let mut rose = false;
    println!("{:<20} {:>12} {:>12} {:>12}", "instructions for a", "tokio-rustls", "before", "after");
    for (index, work) in Work::ALL.into_iter().enumerate() {
        let [theirs, before, after] = Engine::ALL.map(|engine| count(index, engine));
        let (before_ratio, after_ratio) = (before / theirs, after / theirs);
        rose |= before_ratio > MOST_BEFORE || after_ratio > MOST_AFTER;
        println!("{:<20} {theirs:>12.0} {before:>12.0} {after:>12.0}", work.name());
        println!("{:<20} {:>12} {before_ratio:>12.3} {after_ratio:>12.3}", "", "");
    }
    if rose {
        println!(
            "cost: more than {MOST_BEFORE} of tokio-rustls before a migration, or {MOST_AFTER} after one"
        );
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Instructions for one time of this work.
fn count(work: usize, engine: Engine) -> f64 {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("counts");
    let output = Command::new("valgrind")
        .args([
            "--tool=callgrind",
            "--quiet",
            "--collect-atstart=no",
            "--toggle-collect=*do_what_is_counted*",
        ])
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(std::env::current_exe().unwrap())
        .args([COUNTED, &work.to_string(), engine.name()])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let counts = fs::read_to_string(&file).unwrap();
    if let Some(keep) = std::env::var_os("KEEP") {
        fs::copy(&file, std::path::Path::new(&keep).join(format!("{work}-{}", engine.name()))).unwrap();
    }
    let sum =
        counts.lines().find_map(|line| line.strip_prefix("totals: ").or(line.strip_prefix("summary: ")));
    let sum: u64 = sum.unwrap().trim().parse().unwrap();
    assert!(sum > 0, "callgrind does not find what is to be counted");
    sum as f64 / times(Work::ALL[work]) as f64
}

fn times(work: Work) -> usize {
    if work == Work::Exchange { TIMES } else { TIMES_OF_A_CHUNK }
}

pub(crate) fn counted(arguments: &[String]) {
    let [work, engine] = arguments else { panic!("{COUNTED} what, and with which engine") };
    let work = Work::ALL[work.parse::<usize>().unwrap()];
    let engine = Engine::ALL.into_iter().find(|candidate| candidate.name() == engine).unwrap();
    let mut pair = Pair::of(&Peers::new(), engine);
    let text = vec![7; work.requested()];
    let mut prepare = |times| {
        for _ in 0..times {
            if !text.is_empty() {
                pair.client_says(&text);
            }
        }
    };
    // The first ones are different: buffers grow, and code is bound.
    prepare(10 + times(work));
    now(work.run(&mut pair.server, 10)).unwrap();
    do_what_is_counted(&mut pair.server, work);
}

#[inline(never)]
fn do_what_is_counted(server: &mut Server, work: Work) {
    now(work.run(server, times(work))).unwrap();
}
