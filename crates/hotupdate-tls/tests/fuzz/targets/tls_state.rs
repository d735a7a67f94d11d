//! Any bytes as a state, and a true one that is damaged: refused, or understood in one way alone.

use std::sync::OnceLock;

use hotupdate_tls::{Read, Records, State};
use rustls::CipherSuite::{TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384};

use super::common::pair::Options;

fn states() -> &'static [Vec<u8>; 2] {
    static STATES: OnceLock<[Vec<u8>; 2]> = OnceLock::new();
    STATES.get_or_init(|| {
        [TLS13_AES_256_GCM_SHA384, TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256].map(|suite| {
            let options = Options { keep_exporter: true, client_certificate: true, ..Options::new(suite) };
            options.connect().server.migrate()
        })
    })
}

pub(crate) fn check(bytes: &[u8]) {
    understood(bytes);
    let Some((which, edits)) = bytes.split_first() else { return };
    let mut state = states()[usize::from(*which) % 2].clone();
    for edit in edits.chunks_exact(3) {
        let at = usize::from(u16::from_be_bytes([edit[0], edit[1]])) % state.len();
        state[at] ^= edit[2];
    }
    understood(&state);
}

fn understood(bytes: &[u8]) {
    let Ok(state) = State::from_bytes(bytes) else { return };
    assert_eq!(state.to_bytes()[..], *bytes);
    assert!(format!("{state:?}").starts_with("State {"));
    let Ok(mut records) = Records::new(state) else { return };
    let mut heard = [0; 100];
    for _ in 0..20 {
        match records.read(&mut heard) {
            Ok(Read::Plaintext(count)) => assert!(count > 0),
            Ok(Read::Wanting | Read::Closed) | Err(_) => break,
        }
    }
    let _ = records.write(b"some words");
    records.update_keys();
    records.close();
    let sent = records.output().len();
    records.sent(sent);
}
