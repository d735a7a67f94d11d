//! Any records that rustls and the record layer deal with alike, in any pieces: a connection that
//! migrates, again and again, does what one does that stays in rustls.

use rustls::CipherSuite::{TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS13_AES_128_GCM_SHA256};

use super::common::forger::{ALERT, Forger, HANDSHAKE, Record, key_update};
use super::common::pair::{End, Options};
use super::script::{Kind, Outcome, run, script};

pub(crate) fn check(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else { return };
    let suite =
        if first % 2 == 0 { TLS13_AES_128_GCM_SHA256 } else { TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 };
    let options = Options::new(suite);
    let (server, mut client) = Forger::connect(&options);
    let said = script(rest, &mut client.to_server, Kind::Alike);
    let moved = run(server, client.to_client, &said, true);
    let (server, mut client) = Forger::connect_reference(&options);
    let said = script(rest, &mut client.to_server, Kind::Alike);
    let mut unmoved = run(server, client.to_client, &said, false);
    unmoved.said.extend(only_we_say(&moved, &unmoved));
    assert_eq!(moved, unmoved);
}

/// Where rustls leaves without a word, because a client makes too much work, interrupts itself or announces a
/// message that is too long, the record layer says unexpected_message or decode_error; and before it the
/// answer that the client was promised, as before any word.
fn only_we_say(moved: &Outcome, unmoved: &Outcome) -> Vec<Record> {
    let more = moved.said.get(unmoved.said.len()..).unwrap_or_default();
    let reasons = [10, 50].map(|alert| (ALERT, vec![2, alert]));
    let answer = (HANDSHAKE, key_update(false).to_vec());
    match more {
        [reason] if reasons.contains(reason) => {}
        [first, reason] if *first == answer && reasons.contains(reason) => {}
        _ => return Vec::new(),
    }
    if unmoved.end == End::Failed { more.to_vec() } else { Vec::new() }
}
