//! Every suite of every provider.

use crate::pair::Options;
use crate::provider::{PROVIDERS, provider};

#[test]
fn a_connection_migrates_and_both_sides_go_on() {
    for &provider_name in PROVIDERS {
        for suite in provider(provider_name).cipher_suites {
            let mut pair = Options { provider: provider_name, ..Options::new(suite.suite()) }.connect();
            pair.talk();
            for _ in 0..6 {
                pair.server.migrate();
                pair.talk();
            }
        }
    }
}
