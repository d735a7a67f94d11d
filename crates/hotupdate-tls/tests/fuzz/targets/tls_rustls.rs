//! Any records that rustls and the record layer deal with alike, in any pieces: a connection that migrates out of
//! rustls, and on from there, does what one does that stays in rustls.

use rustls::CipherSuite::{TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS13_AES_128_GCM_SHA256};

use super::common::forger::{ALERT, Forger};
use super::common::pair::{End, Options};
use super::script::{Kind, Outcome, run, script};

pub(crate) fn check(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else { return };
    let suite =
        if first % 2 == 0 { TLS13_AES_128_GCM_SHA256 } else { TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 };
    let run = |migrates| {
        let (server, mut client) = Forger::connect(&Options::new(suite));
        let script = script(rest, &mut client.to_server, Kind::Alike);
        run(server, client.to_client, &script, migrates)
    };
    let moved = run(true);
    let mut unmoved = run(false);
    if let Some(reason) = only_we_say_why(&moved, &unmoved) {
        unmoved.said.push(reason);
    }
    assert_eq!(moved, unmoved);
}

/// Where rustls leaves without a word, because a client makes too much work, interrupts itself or announces a
/// message that is too long, the record layer says unexpected_message or decode_error.
fn only_we_say_why(moved: &Outcome, unmoved: &Outcome) -> Option<(u8, Vec<u8>)> {
    let silent = unmoved.end == End::Failed && moved.said.len() == unmoved.said.len() + 1;
    let reasons = [10, 50].map(|alert| (ALERT, vec![2, alert]));
    moved.said.last().filter(|last| silent && reasons.contains(last)).cloned()
}
