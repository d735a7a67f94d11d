//! Every wait of the crates is in one table, `hotupdate_proto::timing`, with its name and its reason.
//!
//! Deliberately absent: tests, which wait as they like, and spans that are computed or come over the wire.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// What stands elsewhere, and why: file, how many.
const ELSEWHERE: [(&str, usize, &str); 7] = [
    ("hotctl/src/cli.rs", 1, "the longest time that an option takes"),
    ("hotctl/src/client.rs", 1, "the shortest timeout that the kernel takes"),
    ("hotctl/src/commands/watch.rs", 1, "what is drawn"),
    ("hotctl/src/commands/watch/model.rs", 4, "what is drawn"),
    ("hotctl/src/progress.rs", 1, "what is drawn"),
    ("hotupdate-tls/src/tickets.rs", 1, "how long a key makes tickets, for which nothing waits"),
    ("hotupdate/src/testing/table.rs", 2, "of a connection in a test"),
];

#[test]
fn no_crate_has_a_wait_of_its_own() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates").canonicalize().unwrap();
    let mut found = BTreeMap::new();
    for folder in fs::read_dir(&crates).unwrap() {
        for file in sources(&folder.unwrap().path().join("src")) {
            let waits: Vec<_> = waits(&fs::read_to_string(&file).unwrap()).map(str::to_owned).collect();
            let name = file.strip_prefix(&crates).unwrap().display().to_string();
            if !waits.is_empty() && !name.starts_with("hotupdate-proto/src/timing") {
                found.insert(name, waits);
            }
        }
    }
    for (name, count, why) in ELSEWHERE {
        let waits = found.remove(name).unwrap_or_default();
        assert_eq!(waits.len(), count, "{name}: {waits:#?}; what is known there: {why}");
    }
    assert!(found.is_empty(), "these belong into hotupdate-proto/src/timing: {found:#?}");
}

/// All files of Rust below a folder, but for modules that are compiled for tests alone.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    let is_rust = |path: &&PathBuf| path.extension().is_some_and(|extension| extension == "rs");
    let texts: Vec<_> = paths.iter().filter(is_rust).map(|path| fs::read_to_string(path).unwrap()).collect();
    paths
        .iter()
        .flat_map(|path| if path.is_dir() { sources(path) } else { vec![path.clone()] })
        .filter(|path| is_rust(&path))
        .filter(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap();
            let only_tested = format!("#[cfg(test)]\nmod {name};");
            !texts.iter().any(|text| text.contains(&only_tested))
        })
        .collect()
}

/// The lines that make a span of time out of a number, above the tests of a file.
fn waits(source: &str) -> impl Iterator<Item = &str> {
    let is_end = |text: &&str| text.lines().next().is_some_and(|line| line.ends_with("mod tests {"));
    let parts = source.split("\n#[cfg(test)]\n");
    let above = parts.take_while(move |part| !is_end(part));
    above.flat_map(str::lines).map(str::trim).filter(|line| {
        let made = line.split("Duration::from_").skip(1);
        let mut arguments = made.filter_map(|rest| Some(rest.split_once('(')?.1));
        !line.starts_with("//")
            && arguments.any(|argument| argument.starts_with(|c: char| c.is_ascii_digit()))
    })
}

#[test]
fn a_wait_is_found() {
    let source = "/// Duration::from_secs(1)\nconst A: Duration = Duration::from_millis(20);\n\
                  fn b(ms: u64) -> Duration { Duration::from_millis(ms) }\n\n#[cfg(test)]\nmod tests {\n\
                  const C: Duration = Duration::from_secs(1);\n}\n";
    assert_eq!(waits(source).collect::<Vec<_>>(), ["const A: Duration = Duration::from_millis(20);"]);
}
