//! The threat model names tests; they exist.
//!
//! Deliberately absent: whether they show what is said.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]

use std::fs;
use std::path::Path;

/// The text of a test program, or of a part of one.
fn source(program: &str) -> Option<String> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    ["tests", "tests/callers", "tests/skew", "../../integration-tests/tests"]
        .iter()
        .find_map(|folder| fs::read_to_string(here.join(folder).join(program).with_extension("rs")).ok())
}

#[test]
fn every_test_that_the_threat_model_names_exists() {
    let readme = include_str!("../README.md");
    let rows = readme.lines().filter(|line| line.starts_with("| ")).skip(1);
    for row in rows {
        let shown_by = row.trim_end_matches('|').rsplit('|').next().unwrap();
        let names: Vec<_> = shown_by.split('`').filter_map(|name| name.split_once("::")).collect();
        assert!(!names.is_empty(), "nothing shows this: {row}");
        for (program, test) in names {
            let text = match source(program) {
                Some(text) => text,
                // A package holds this crate alone.
                None if !Path::new(env!("CARGO_MANIFEST_DIR")).join("../../integration-tests").exists() => {
                    continue;
                }
                None => panic!("no test program {program:?}"),
            };
            assert!(text.contains(&format!("fn {test}(")), "no test {test:?} in {program}.rs");
        }
    }
}
