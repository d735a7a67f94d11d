//! Instructions of an exchange, as callgrind counts them.

use std::fs;
use std::process::{Command, ExitCode};

use crate::peers::{Engine, Peers, Server};
use crate::wire::{Pair, now};
use crate::work::{REQUEST, Work};

/// The argument of a process in which one engine is counted.
pub(crate) const COUNTED: &str = "counted";

/// What an exchange may cost if the connection stays, and before and after a migration, of what it costs in
/// tokio-rustls.
const MOST: [f64; 3] = [1.02, 1., 1.];

/// The first exchanges are different: buffers grow, and code is bound.
const WARM_UP: usize = 10;
const TIMES: usize = 500;

pub(crate) fn compare() -> ExitCode {
    let [theirs, ours @ ..] = Engine::ALL.map(count);
    let ratios = ours.map(|ours| ours / theirs);
    print!("instructions for a TLS exchange: tokio-rustls {theirs:.0}");
    for (engine, (ours, ratio)) in Engine::ALL[1..].iter().zip(ours.iter().zip(ratios)) {
        print!(", {} {ours:.0} ({ratio:.3})", engine.name());
    }
    println!();
    if ratios.iter().zip(MOST).any(|(&ratio, most)| ratio > most) {
        println!("cost: they may be {MOST:?} of what they are in tokio-rustls");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// For one exchange.
fn count(engine: Engine) -> f64 {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("counts");
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--quiet", "--collect-atstart=no"])
        .arg("--toggle-collect=*do_what_is_counted*")
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(std::env::current_exe().unwrap())
        .args([COUNTED, engine.name()])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let counts = fs::read_to_string(&file).unwrap();
    let sum =
        counts.lines().find_map(|line| line.strip_prefix("totals: ").or(line.strip_prefix("summary: ")));
    let sum: u64 = sum.unwrap().trim().parse().unwrap();
    assert!(sum > 0, "callgrind does not find what is to be counted");
    sum as f64 / TIMES as f64
}

pub(crate) fn counted(arguments: &[String]) {
    let [engine] = arguments else { panic!("{COUNTED} with which engine") };
    let engine = Engine::ALL.into_iter().find(|candidate| candidate.name() == engine).unwrap();
    let mut pair = Pair::of(&Peers::new(), engine);
    (0..WARM_UP + TIMES).for_each(|_| pair.client_says(&[7; REQUEST]));
    now(Work::Exchange.run(&mut pair.server, WARM_UP)).unwrap();
    do_what_is_counted(&mut pair.server);
}

#[inline(never)]
fn do_what_is_counted(server: &mut Server) {
    now(Work::Exchange.run(server, TIMES)).unwrap();
}
