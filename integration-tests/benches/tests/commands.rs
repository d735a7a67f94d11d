//! Every scenario, with as little of everything as says whether it works: figures are none of a test.

use std::fs;
use std::process::Command;

use serde_json::Value;

/// Runs it; its figures.
fn bench(arguments: &[&str]) -> Value {
    let folder = tempfile::tempdir().expect("there is room for a folder");
    let mut command = Command::new(env!("CARGO_BIN_EXE_bench"));
    let output = command.arg("--out").arg(folder.path()).args(arguments).output().expect("it was built");
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "bench {}:\n{out}\n{error}", arguments.join(" "));
    let read = |extension: &str| {
        let path = folder.path().join(format!("{}.{extension}", arguments[0]));
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    let text = read("md");
    assert!(text.starts_with("# ") && text.contains("\n| "), "{text}");
    let all: Value = serde_json::from_str(&read("json")).expect("figures are JSON");
    assert!(all["about"].is_string() && all["disturbed"].is_array(), "{all}");
    all["figures"].clone()
}

#[test]
fn moves() {
    let figures = bench(&["moves", "--connections", "1,120", "--rounds", "1"]);
    assert_eq!(
        (&figures["rows"][0]["old_us"], &figures["rows"][1]["connections"]),
        (&Value::Null, &120.into())
    );
    assert!(figures["rows"][1]["old_us"].is_f64(), "{figures}");
}

#[test]
fn listeners() {
    let figures = bench(&["listeners", "--listeners", "1,5", "--rounds", "1"]);
    assert!(figures["rows"][1]["gap_us"].as_f64().is_some_and(|gap| gap > 0.0), "{figures}");
}

#[test]
fn gap() {
    let figures = bench(&["gap", "--handoffs", "2"]);
    assert!(figures["gap_us"]["median"].as_f64().is_some_and(|gap| gap > 0.0), "{figures}");
}

#[test]
fn steady() {
    let figures = bench(&["steady", "--rounds", "1", "--millis", "30", "--idle", "20"]);
    // Eight kinds of requests, to three servers.
    assert_eq!(figures["rounds"].as_array().map(Vec::len), Some(24));
}

#[test]
fn upgrades() {
    let load = ["--", "--closed", "8", "--idle", "10", "--ask", "100", "--streams", "2"];
    let figures = bench(&[&["saturated", "--quick", "--systems", "hotupdate,control"], &load[..]].concat());
    let rounds = figures["rounds"].as_array().unwrap();
    assert_eq!(rounds.len(), 2, "{figures}");
    for round in rounds {
        assert_eq!(round["lost"]["closed_loop"], 0, "{round}");
        assert_eq!(round["raw"]["cut"], 0, "{round}");
    }
    let idle = |round: &Value| (round["idle"]["old"].clone(), round["idle"]["new"].clone());
    assert_eq!(rounds.iter().map(idle).collect::<Vec<_>>(), [(10.into(), 0.into()), (0.into(), 10.into())]);
}
