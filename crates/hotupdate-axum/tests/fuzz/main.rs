//! Every input: what the fuzz targets check (`make fuzz`), for the inputs that they have found and for random
//! ones.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]

mod targets;

use std::panic::catch_unwind;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use proptest::collection::vec;
use proptest::prelude::*;

use targets::http1::{check, how_often_it_migrates};

#[test]
fn the_corpus() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/http1");
    let mut replayed = 0;
    for file in corpus.read_dir().unwrap() {
        let path = file.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        assert!(catch_unwind(|| check(&bytes)).is_ok(), "{} fails, see above", path.display());
        replayed += 1;
    }
    assert!(replayed > 0, "{} is empty", corpus.display());
}

#[test]
fn random_bytes() {
    let config = ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() };
    let migrated = AtomicU64::new(0);
    proptest!(config, |(bytes in vec(any::<u8>(), 0..300))| {
        migrated.fetch_add(how_often_it_migrates(&bytes), Relaxed);
    });
    assert!(migrated.into_inner() > 100, "hardly anything has migrated");
}
