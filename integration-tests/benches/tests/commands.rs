//! Every scenario, with as little of everything as says whether it works: figures are none of a test.

#![cfg(target_os = "linux")]

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Runs a scenario; its figures.
fn bench(arguments: &[&str]) -> Value {
    bench_in(tempfile::tempdir().expect("there is room for a folder").path(), arguments)
}

/// The same, and its files stay in this folder.
fn bench_in(folder: &Path, arguments: &[&str]) -> Value {
    run(Command::new(env!("CARGO_BIN_EXE_bench")).arg("--out").arg(folder).args(arguments));
    let read = |extension: &str| {
        let path = folder.join(format!("{}.{extension}", arguments[0]));
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    let text = read("md");
    assert!(text.starts_with("# ") && text.contains("\n| "), "{text}");
    let all: Value = serde_json::from_str(&read("json")).expect("figures are JSON");
    assert!(all["about"].is_string() && all["disturbed"].is_array(), "{all}");
    all["figures"].clone()
}

fn run(command: &mut Command) {
    let output = command.output().expect("it was built");
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}:\n{out}\n{error}");
}

#[test]
fn moves() {
    let silent = ["--silent", "1200"];
    let figures = bench(
        &[&["moves", "--connections", "1,120", "--http2", "100", "--rounds", "1"][..], &silent].concat(),
    );
    assert_eq!(
        (&figures["rows"][0]["old_us"], &figures["rows"][1]["connections"]),
        (&Value::Null, &120.into())
    );
    for (n, what) in [(1, "HTTP/1.1"), (2, "HTTP/2"), (3, "HTTP/2, once more"), (4, "HTTP/2, a stream stays")]
    {
        let row = &figures["rows"][n];
        assert!(row["what"] == what && row["old_us"].is_f64(), "{figures}");
    }
    assert!(figures["rows"][4]["stays_bytes"].is_f64(), "{figures}");
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
    // Eight kinds of requests, to four servers.
    assert_eq!(figures["rounds"].as_array().map(Vec::len), Some(32));
}

#[test]
fn upgrades_and_their_table_in_the_readme() {
    let folder = tempfile::tempdir().unwrap();
    let load = ["--", "--closed", "8", "--idle", "10", "--ask", "100", "--streams", "2"];
    let scenario = ["saturated", "--quick", "--systems", "hotupdate,control"];
    let figures = bench_in(folder.path(), &[&scenario[..], &load[..]].concat());
    let rounds = figures["rounds"].as_array().unwrap();
    assert_eq!(rounds.len(), 2, "{figures}");
    for round in rounds {
        assert_eq!(round["lost"]["closed_loop"], 0, "{round}");
        assert_eq!(round["raw"]["cut"], 0, "{round}");
    }
    let idle = |round: &Value| (round["idle"]["old"].clone(), round["idle"]["new"].clone());
    assert_eq!(rounds.iter().map(idle).collect::<Vec<_>>(), [(10.into(), 0.into()), (0.into(), 10.into())]);

    let image = fs::read_to_string(folder.path().join("saturated.svg")).unwrap();
    assert!(image.contains("0 lost") && image.contains("idle: moved"), "{image}");
    fs::rename(folder.path().join("saturated.json"), folder.path().join("upgrades.json")).unwrap();
    let readme = folder.path().join("README.md");
    fs::copy("../../README.md", &readme).unwrap();
    run(Command::new(env!("CARGO_BIN_EXE_bench")).arg("report").args([folder.path(), &readme]));
    let text = fs::read_to_string(readme).unwrap();
    assert!(text.contains("| hotupdate | 0 | all 10 in the new version | 0 of 2 |"), "{text}");
}
