//! What TLS refuses is refused, with the alert that it asks for, by rustls and by the record layer alike.

use rustls::CipherSuite::{
    self, TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    TLS13_AES_128_GCM_SHA256, TLS13_CHACHA20_POLY1305_SHA256,
};

use crate::cuts::{Outcome, Script, run};
use crate::forger::{ALERT, CHANGE_CIPHER_SPEC, DATA, Forger, HANDSHAKE, key_update};
use crate::pair::{End, Options, Pipe, Server};

const UNEXPECTED_MESSAGE: u8 = 10;
const BAD_RECORD_MAC: u8 = 20;
const RECORD_OVERFLOW: u8 = 22;
const ILLEGAL_PARAMETER: u8 = 47;
const DECODE_ERROR: u8 = 50;

const TLS13: [CipherSuite; 2] = [TLS13_AES_128_GCM_SHA256, TLS13_CHACHA20_POLY1305_SHA256];
const TLS12: [CipherSuite; 2] =
    [TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256];

fn both() -> impl Iterator<Item = CipherSuite> {
    TLS13.into_iter().chain(TLS12)
}

fn in_rustls(suite: CipherSuite, script: Script) -> Outcome {
    let (server, mut client) = Forger::connect_reference(&Options::new(suite));
    let bytes = script(&mut client.to_server);
    run(server, &client, &bytes, 0, false, false)
}

fn in_record_layer(suite: CipherSuite, script: Script) -> Outcome {
    let (mut server, mut client) = Forger::connect(&Options::new(suite));
    server.migrate();
    let bytes = script(&mut client.to_server);
    run(server, &client, &bytes, 0, false, false)
}

/// Both fail, and the record layer says `alert`; so does rustls, if it says anything.
fn refused(suites: impl IntoIterator<Item = CipherSuite>, alert: u8, script: Script) {
    for suite in suites {
        let (rustls, ours) = (in_rustls(suite, script), in_record_layer(suite, script));
        assert_eq!(ours.end, End::Failed, "{suite:?}");
        assert_eq!(ours.said.last(), Some(&(ALERT, vec![2, alert])), "{suite:?}");
        assert_eq!((rustls.end, &rustls.heard), (ours.end, &ours.heard), "{suite:?}");
        if let Some((ALERT, said)) = rustls.said.last() {
            assert_eq!(*said, [2, alert], "{suite:?}");
        }
    }
}

/// Only the record layer: rustls lets it pass, or says something else.
fn refused_by_us(suites: impl IntoIterator<Item = CipherSuite>, alert: u8, script: Script) {
    for suite in suites {
        let ours = in_record_layer(suite, script);
        assert_eq!((ours.end, ours.said.last()), (End::Failed, Some(&(ALERT, vec![2, alert]))), "{suite:?}");
    }
}

#[test]
fn each_flipped_bit() {
    for suite in both() {
        let (mut server, mut client) = Forger::connect(&Options::new(suite));
        let state = server.migrate();
        let record = client.to_server.seal(DATA, b"GET /");
        for position in 0..record.len() * 8 {
            let mut bytes = record.clone();
            bytes[position / 8] ^= 1 << (position % 8);
            let longer = u16::from_be_bytes([bytes[3], bytes[4]]) as usize + 5 > record.len();
            let outcome = run(Server::arrive(Pipe::default(), &state), &client, &bytes, 0, true, false);
            assert!(outcome.heard.is_empty(), "{suite:?}, bit {position}");
            match outcome.end {
                End::Failed => assert_eq!(outcome.said.len(), 1),
                // It waits for the rest of a longer record, until the end.
                End::Truncated => assert!(longer),
                end => panic!("{suite:?}, bit {position}: {end:?}"),
            }
            if position >= 5 * 8 {
                assert_eq!(outcome.said, [(ALERT, vec![2, BAD_RECORD_MAC])]);
            }
        }
    }
}

#[test]
fn a_record_that_comes_again() {
    refused(both(), BAD_RECORD_MAC, |client| {
        let record = client.seal(DATA, b"one");
        [record.clone(), record].concat()
    });
}

#[test]
fn records_in_another_order() {
    refused(both(), BAD_RECORD_MAC, |client| {
        let (one, two) = (client.seal(DATA, b"one"), client.seal(DATA, b"two"));
        [two, one].concat()
    });
}

#[test]
fn a_record_that_is_left_out() {
    refused(both(), BAD_RECORD_MAC, |client| {
        client.seal(DATA, b"one");
        client.seal(DATA, b"two")
    });
}

#[test]
fn a_record_under_the_key_before_an_update() {
    refused(TLS13, BAD_RECORD_MAC, |client| {
        let mut old = client.clone();
        let mut bytes = client.key_update(false);
        old.seal(HANDSHAKE, &key_update(false));
        bytes.extend(old.seal(DATA, b"one"));
        bytes
    });
}

#[test]
fn a_record_that_is_shorter_than_its_tag() {
    refused(both(), BAD_RECORD_MAC, |_| vec![DATA, 3, 3, 0, 3, 1, 2, 3]);
}

#[test]
fn too_much_plaintext() {
    refused(both(), RECORD_OVERFLOW, |client| client.seal(DATA, &[7; (1 << 14) + 1]));
    refused(TLS13, RECORD_OVERFLOW, |client| client.seal_padded(DATA, &[7; 1 << 14], 1));
}

#[test]
fn the_most_plaintext() {
    for suite in both() {
        let script: Script = |client| client.seal(DATA, &[7; 1 << 14]);
        assert_eq!(in_record_layer(suite, script), in_rustls(suite, script));
        assert_eq!(in_record_layer(suite, script).heard, [7; 1 << 14]);
    }
}

#[test]
fn a_length_that_no_record_has() {
    // rustls says decode_error.
    refused_by_us(both(), RECORD_OVERFLOW, |_| vec![DATA, 3, 3, 0xff, 0xff]);
}

/// The header alone says whether a record can be so long.
#[test]
fn the_longest_record() {
    fn header(length: u16) -> Vec<u8> {
        [&[DATA, 3, 3][..], &length.to_be_bytes()].concat()
    }
    for suite in TLS13 {
        assert_eq!(in_record_layer(suite, |_| header((1 << 14) + 256)).end, End::Open);
    }
    refused_by_us(TLS13, RECORD_OVERFLOW, |_| header((1 << 14) + 257));
    for suite in TLS12 {
        assert_eq!(in_record_layer(suite, |_| header((1 << 14) + 2048)).end, End::Open);
    }
    refused_by_us(TLS12, RECORD_OVERFLOW, |_| header((1 << 14) + 2049));
}

#[test]
fn what_is_no_record() {
    refused(both(), DECODE_ERROR, |_| b"GET / HTTP/1.1\r\n\r\n".to_vec());
    refused(both(), DECODE_ERROR, |_| vec![DATA, 4, 3, 0, 1, 0]);
    refused(both(), DECODE_ERROR, |_| vec![99, 3, 3, 0, 1, 0]);
}

#[test]
fn what_is_not_protected() {
    refused(both(), UNEXPECTED_MESSAGE, |_| vec![CHANGE_CIPHER_SPEC, 3, 3, 0, 1, 1]);
    refused_by_us(TLS13, UNEXPECTED_MESSAGE, |_| vec![ALERT, 3, 3, 0, 2, 1, 0]);
    refused_by_us(TLS13, UNEXPECTED_MESSAGE, |client| {
        // As rustls reads it: the type outside is not looked at.
        let mut record = client.seal(DATA, b"one");
        record[0] = HANDSHAKE;
        record
    });
}

#[test]
fn zeros_alone() {
    refused(TLS13, UNEXPECTED_MESSAGE, |client| client.seal_bare(DATA, &[0; 20]));
    refused(TLS13, UNEXPECTED_MESSAGE, |client| client.seal_bare(DATA, &[]));
}

#[test]
fn a_type_that_has_no_place() {
    refused(TLS13, UNEXPECTED_MESSAGE, |client| client.seal(CHANGE_CIPHER_SPEC, &[1]));
    refused_by_us(TLS13, UNEXPECTED_MESSAGE, |client| client.seal(24, b"heartbeat"));
}

#[test]
fn handshake_messages_after_the_handshake() {
    // A Finished, a NewSessionTicket, a ClientHello.
    for message in [20, 4, 1] {
        for suite in TLS13 {
            let (mut server, mut client) = Forger::connect(&Options::new(suite));
            server.migrate();
            let bytes = client.to_server.seal(HANDSHAKE, &[message, 0, 0, 1, 0]);
            let outcome = run(server, &client, &bytes, 0, false, false);
            assert_eq!(outcome.said, [(ALERT, vec![2, UNEXPECTED_MESSAGE])]);
        }
    }
    refused(TLS12, UNEXPECTED_MESSAGE, |client| client.seal(HANDSHAKE, &[14, 0, 0, 0]));
}

#[test]
fn an_empty_handshake_record() {
    refused_by_us(both(), UNEXPECTED_MESSAGE, |client| client.seal(HANDSHAKE, b""));
}

#[test]
fn key_updates_that_are_none() {
    refused(TLS13, ILLEGAL_PARAMETER, |client| client.seal(HANDSHAKE, &[24, 0, 0, 1, 2]));
    refused(TLS13, DECODE_ERROR, |client| client.seal(HANDSHAKE, &[24, 0, 0, 2, 0, 0]));
    refused(TLS13, UNEXPECTED_MESSAGE, |client| client.seal(HANDSHAKE, &[24, 0, 0, 1, 0, 24]));
    refused(TLS13, UNEXPECTED_MESSAGE, |client| client.seal(HANDSHAKE, &[24, 0, 0, 1, 0, 24, 0, 0, 1, 0]));
}

#[test]
fn a_record_inside_a_handshake_message() {
    refused(both(), UNEXPECTED_MESSAGE, |client| {
        let first = if client.is_tls13() { [24, 0] } else { [1, 0] };
        let mut bytes = client.seal(HANDSHAKE, &first);
        bytes.extend(client.seal(DATA, b"one"));
        bytes
    });
}

#[test]
fn a_33rd_key_update_without_data() {
    refused(TLS13, UNEXPECTED_MESSAGE, |client| (0..33).flat_map(|_| client.key_update(false)).collect());
    for suite in TLS13 {
        let script: Script = |client| {
            let mut bytes: Vec<u8> = (0..32).flat_map(|_| client.key_update(true)).collect();
            bytes.extend(client.seal(DATA, b"one"));
            bytes.extend((0..32).flat_map(|_| client.key_update(false)));
            bytes.extend(client.seal(DATA, b"two"));
            bytes
        };
        let outcome = in_record_layer(suite, script);
        assert_eq!(outcome.heard, b"onetwo");
        assert_eq!(outcome, in_rustls(suite, script));
    }
}

#[test]
fn a_33rd_empty_record() {
    refused(both(), UNEXPECTED_MESSAGE, |client| (0..33).flat_map(|_| client.seal(DATA, b"")).collect());
    for suite in both() {
        let script: Script = |client| (0..32).flat_map(|_| client.seal(DATA, b"")).collect();
        assert_eq!(in_record_layer(suite, script).end, End::Open);
        assert_eq!(in_rustls(suite, script).end, End::Open);
    }
}

#[test]
fn alerts_that_are_none() {
    refused(both(), DECODE_ERROR, |client| client.seal(ALERT, &[2]));
    refused(both(), DECODE_ERROR, |client| client.seal(ALERT, &[2, 80, 0]));
    refused(both(), ILLEGAL_PARAMETER, |client| client.seal(ALERT, &[3, 80]));
    refused(TLS13, DECODE_ERROR, |client| client.seal(ALERT, &[1, 41]));
    refused(both(), UNEXPECTED_MESSAGE, |client| (0..5).flat_map(|_| client.seal(ALERT, &[1, 90])).collect());
}

#[test]
fn a_fatal_alert_is_not_answered() {
    for suite in both() {
        let script: Script = |client| client.seal(ALERT, &[2, 40]);
        let outcome = in_record_layer(suite, script);
        assert_eq!((outcome.end, outcome.said.len()), (End::Failed, 0));
        assert_eq!(outcome, in_rustls(suite, script));
    }
}

/// The end is the end, whatever its level (RFC 8446, section 6).
#[test]
fn a_close_notify_of_either_level() {
    for suite in both() {
        let scripts: [Script; 2] = [
            |client| [client.seal(DATA, b"one"), client.seal(ALERT, &[1, 0])].concat(),
            |client| [client.seal(DATA, b"one"), client.seal(ALERT, &[2, 0])].concat(),
        ];
        for script in scripts {
            let outcome = in_record_layer(suite, script);
            assert_eq!((&outcome.heard[..], outcome.end), (&b"one"[..], End::Closed), "{suite:?}");
            assert_eq!(outcome, in_rustls(suite, script), "{suite:?}");
        }
    }
}
