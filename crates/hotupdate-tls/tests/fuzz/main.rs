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
    let files = corpus.read_dir().unwrap_or_else(|error| panic!("{}: {error}", corpus.display()));
    let mut replayed = 0;
    for file in files {
        let path = file.expect("it is a directory").path();
        let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(catch_unwind(|| check(&bytes)).is_ok(), "{} fails, see above", path.display());
        replayed += 1;
    }
    assert!(replayed > 0, "{} is empty", corpus.display());
}

macro_rules! targets {
    ($($target:ident: $cases:expr, up to $length:expr;)+) => {
        mod corpus {
            $(#[test] fn $target() { super::replay(stringify!($target), super::targets::$target::check); })+
        }

        mod random {
            use super::*;
            $(proptest! {
                #![proptest_config(ProptestConfig {
                    cases: $cases,
                    failure_persistence: None,
                    ..ProptestConfig::default()
                })]

                #[test]
                fn $target(bytes in vec(any::<u8>(), 0..$length)) {
                    targets::$target::check(&bytes);
                }
            })+
        }
    };
}

targets! {
    tls_moves: 1_000, up to 300;
    tls_rustls: 200, up to 300;
    tls_state: 1_000, up to 500;
    tls_tickets: 200, up to 200;
}
