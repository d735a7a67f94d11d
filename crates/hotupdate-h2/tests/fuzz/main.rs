//! Every input: what the fuzz targets check (`make fuzz`), for the inputs that they have found and for random
//! ones.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]

mod targets;

use std::panic::catch_unwind;
use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;

/// Checks every file of `fuzz/corpus/<target>`.
fn replay(target: &str, check: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
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
fn the_corpora() {
    replay("bytes", targets::bytes::check);
    replay("relay", targets::relay::check);
    replay("state", targets::state::check);
}

/// A frame of any kind on one of a few streams, or a move.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop_oneof![
        vec(any::<u8>(), 0..20),
        Just(b"\x82\x86\x84".to_vec()),
        Just(b"\x82\x86\x84\x40\x01a\x01b".to_vec()),
        Just(b"\x82\x86\x84\xbe".to_vec()),
        Just(vec![0, 0, 0, 9]),
        Just(vec![0; 8]),
    ];
    let frame = (payload, 0..11_u8, any::<u8>(), 0..6_u8).prop_map(|(payload, kind, flags, stream)| {
        let mut bytes = vec![0, 0, payload.len() as u8, kind, flags & 0x2d, 0, 0, 0, stream];
        bytes.extend(payload);
        bytes
    });
    prop_oneof![6 => frame, 1 => Just(vec![0xf0]), 2 => Just(vec![0xf1]), 1 => Just(vec![0xf2])]
}

#[test]
fn random_frames() {
    let config = ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() };
    let moves = std::cell::Cell::new(0);
    proptest!(config, |(pieces in vec(piece(), 0..12))| {
        moves.set(moves.get() + targets::bytes::how_often_it_moves(&pieces.concat()));
    });
    assert!(moves.get() > 50, "hardly anything has moved: {}", moves.get());
}

#[test]
fn random_frames_of_the_version_before() {
    let config = ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(pieces in vec(piece(), 0..12))| targets::relay::check(&pieces.concat()));
}

#[test]
fn random_states() {
    let config = ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(bytes in vec(any::<u8>(), 0..200))| {
        for version in [1, 2] {
            targets::state::check(&[&[version], &bytes[..]].concat());
        }
    });
}
