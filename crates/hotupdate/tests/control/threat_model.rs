//! The threat model names tests; they exist.
//!
//! Deliberately absent: whether they show what is said.

use std::fs;
use std::path::Path;

/// The text of the tests of this name, anywhere below the folder.
fn source(folder: &Path, name: &str) -> Option<String> {
    let mut folders = Vec::new();
    for path in fs::read_dir(folder).ok()?.map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            folders.push(path);
        } else if path.file_name().is_some_and(|file| *file == *format!("{name}.rs")) {
            return fs::read_to_string(path).ok();
        }
    }
    folders.iter().find_map(|folder| source(folder, name))
}

#[test]
fn every_test_that_the_threat_model_names_exists() {
    let readme = include_str!("../../README.md");
    let rows = readme.lines().filter(|line| line.starts_with("| ")).skip(1);
    for row in rows {
        let shown_by = row.trim_end_matches('|').rsplit('|').next().unwrap();
        let names: Vec<_> = shown_by.split('`').filter_map(|name| name.split_once("::")).collect();
        assert!(!names.is_empty(), "nothing shows this: {row}");
        for (file, test) in names {
            let here = Path::new(env!("CARGO_MANIFEST_DIR"));
            let real = here.join("../../integration-tests");
            let text = match source(&here.join("tests"), file).or_else(|| source(&real.join("tests"), file)) {
                Some(text) => text,
                // A package holds this crate alone.
                None if !real.exists() => continue,
                None => panic!("no tests {file:?}"),
            };
            assert!(text.contains(&format!("fn {test}(")), "no test {test:?} in {file}.rs");
        }
    }
}
