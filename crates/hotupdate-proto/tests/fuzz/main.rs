//! Every input: what the fuzz targets check (`make fuzz`), for the inputs that they have found and for random
//! ones.

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
    frame: 100, up to 500;
    incumbent: 2_000, up to 400;
    message: 256, up to 500;
    migration: 2_000, up to 400;
    successor: 2_000, up to 400;
}
