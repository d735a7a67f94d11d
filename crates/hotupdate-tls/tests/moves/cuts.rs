//! A stream of bytes from a client that is cut anywhere, with a migration there: what the server hears, says
//! and does is what it would do without one.

use hotupdate_tls::MigrationBlock;
use rustls::CipherSuite::{
    self, TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384,
    TLS13_CHACHA20_POLY1305_SHA256,
};

use crate::forger::{ALERT, DATA, Forger, HANDSHAKE, Record, Side, key_update};
use crate::pair::{End, Options, Pipe, Server};
use crate::provider::PROVIDERS;
use crate::reference::Serve;

/// What a client sees of a server, and what the server's application hears.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) heard: Vec<u8>,
    pub(crate) said: Vec<Record>,
    pub(crate) end: End,
}

/// The client's bytes.
pub(crate) type Script = fn(&mut Side) -> Vec<u8>;

/// The bytes up to `cut`, perhaps a migration, and the rest.
pub(crate) fn run(
    mut server: impl Serve,
    client: &Forger,
    bytes: &[u8],
    cut: usize,
    ended: bool,
    migrates: bool,
) -> Outcome {
    let mut outcome = Outcome { heard: Vec::new(), said: Vec::new(), end: End::Open };
    let (first, second) = bytes.split_at(cut);
    hear(&mut server, first, &mut outcome);
    if migrates {
        match (server.try_migrate(), outcome.end) {
            (Ok(_), End::Open) => {}
            (Err(MigrationBlock::Closing), end) if end != End::Open => {}
            (migrated, end) => panic!("{end:?}, and {migrated:?}"),
        }
    }
    server.pipe().lock().ended = ended;
    hear(&mut server, second, &mut outcome);
    if outcome.end == End::Closed {
        // The other half is open.
        server.says(b"goodbye");
    }
    let said = std::mem::take(&mut server.pipe().lock().to_client);
    outcome.said = client.to_client.clone().open_all(&said);
    outcome
}

/// Some bytes arrive, and the application says them back.
fn hear(server: &mut impl Serve, bytes: &[u8], outcome: &mut Outcome) {
    server.pipe().lock().to_server.extend(bytes);
    let (heard, end) = server.hears();
    outcome.end = end;
    outcome.heard.extend_from_slice(&heard);
    if end != End::Failed {
        server.says(&heard);
    }
}

/// How often rustls shakes hands for one script; the record layer alone is cut everywhere.
const HANDSHAKES: usize = 25;

/// unexpected_message, bad_record_mac, illegal_parameter and decode_error.
const WHY: [u8; 4] = [10, 20, 47, 50];

fn cut_everywhere(suite: CipherSuite, script: Script) {
    for ended in [false, true] {
        // The record layer against itself.
        let (mut server, mut client) = Forger::connect(&Options::new(suite));
        let state = server.migrate();
        let again = || Server::arrive(Pipe::default(), &state);
        let bytes = script(&mut client.to_server);
        for cut in 0..=bytes.len() {
            let unmoved = run(again(), &client, &bytes, cut, ended, false);
            assert_eq!(run(again(), &client, &bytes, cut, ended, true), unmoved, "{suite:?}, cut at {cut}");
        }
        for &provider in PROVIDERS {
            beside_rustls(&Options { provider, ..Options::new(suite) }, script, bytes.len(), ended);
        }
    }
}

/// rustls against the record layer, whose answer goes for rustls, too, if it says anything.
fn beside_rustls(options: &Options, script: Script, length: usize, ended: bool) {
    let step = (length / HANDSHAKES).max(1);
    for cut in (0..=length).step_by(step) {
        let (server, mut client) = Forger::connect(options);
        let bytes = script(&mut client.to_server);
        let moved = run(server, &client, &bytes, cut, ended, true);
        let (server, mut client) = Forger::connect_reference(options);
        let bytes = script(&mut client.to_server);
        let mut unmoved = run(server, &client, &bytes, cut, ended, false);
        if unmoved.end == End::Failed && moved.said.len() == unmoved.said.len() + 1 {
            // rustls leaves without a word where the record layer says why.
            let why = moved.said.last().expect("it is longer").clone();
            assert!(WHY.map(|alert| (ALERT, vec![2, alert])).contains(&why), "{options:?}: {why:?}");
            unmoved.said.push(why);
        }
        assert_eq!(moved, unmoved, "{options:?}, beside rustls, moved at {cut}");
    }
}

fn in_tls13(script: Script) {
    cut_everywhere(TLS13_AES_128_GCM_SHA256, script);
    cut_everywhere(TLS13_AES_256_GCM_SHA384, script);
    cut_everywhere(TLS13_CHACHA20_POLY1305_SHA256, script);
}

fn in_tls12(script: Script) {
    cut_everywhere(TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, script);
    cut_everywhere(TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, script);
    cut_everywhere(TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, script);
}

fn everywhere(script: Script) {
    in_tls13(script);
    in_tls12(script);
}

#[test]
fn requests_one_after_the_other_and_the_end() {
    everywhere(|client| {
        let mut bytes = client.seal(DATA, b"GET / HTTP/1.1\r\n");
        bytes.extend(client.seal(DATA, b""));
        bytes.extend(client.seal(DATA, b"\r\nGET /a"));
        bytes.extend(client.seal(DATA, b" HTTP/1.1\r\n\r\n"));
        bytes.extend(client.seal(ALERT, &[1, 0]));
        bytes.extend(client.seal(DATA, b"to be ignored"));
        bytes
    });
}

#[test]
fn padding() {
    in_tls13(|client| {
        let mut bytes = client.seal_padded(DATA, b"one\0", 1);
        bytes.extend(client.seal_padded(DATA, b"two", 80));
        bytes.extend(client.seal_padded(DATA, b"", 20));
        bytes.extend(client.seal_padded(HANDSHAKE, &key_update(true), 9));
        client.update();
        bytes.extend(client.seal_padded(ALERT, &[1, 0], 3));
        bytes
    });
}

#[test]
fn key_updates() {
    in_tls13(|client| {
        let mut bytes = client.key_update(false);
        bytes.extend(client.seal(DATA, b"one"));
        bytes.extend(client.key_update(true));
        bytes.extend(client.key_update(true));
        bytes.extend(client.seal(DATA, b""));
        bytes.extend(client.key_update(false));
        bytes.extend(client.seal(DATA, b"two"));
        bytes
    });
}

#[test]
fn key_updates_over_several_records() {
    in_tls13(|client| {
        let mut bytes = client.seal(DATA, b"one");
        bytes.extend(client.seal(HANDSHAKE, &[24, 0]));
        bytes.extend(client.seal(HANDSHAKE, &[0, 1, 1]));
        client.update();
        for byte in key_update(false) {
            bytes.extend(client.seal(HANDSHAKE, &[byte]));
        }
        client.update();
        bytes.extend(client.seal(DATA, b"two"));
        bytes
    });
}

#[test]
fn warnings_and_another_end() {
    in_tls13(|client| {
        let mut bytes = client.seal(ALERT, &[1, 90]);
        bytes.extend(client.seal(DATA, b"one"));
        bytes.extend(client.seal(ALERT, &[2, 80]));
        bytes
    });
    in_tls12(|client| {
        let mut bytes = client.seal(ALERT, &[1, 41]);
        bytes.extend(client.seal(DATA, b"one"));
        bytes.extend(client.seal(ALERT, &[2, 80]));
        bytes
    });
}

#[test]
fn renegotiation() {
    // A ClientHello that rustls understands.
    fn hello() -> Vec<u8> {
        let body = [&[3, 3][..], &[7; 32], &[0], &[0, 2, 0xc0, 0x2b], &[1, 0]].concat();
        [&[1, 0, 0, body.len() as u8][..], &body].concat()
    }
    in_tls12(|client| {
        let mut bytes = client.seal(HANDSHAKE, &hello());
        bytes.extend(client.seal(DATA, b"one"));
        bytes.extend(client.seal(HANDSHAKE, &hello()));
        bytes
    });
    in_tls12(|client| {
        let mut bytes = client.seal(HANDSHAKE, &hello()[..7]);
        bytes.extend(client.seal(HANDSHAKE, &hello()[7..]));
        bytes.extend(client.seal(DATA, b"one"));
        bytes
    });
}

#[test]
fn alerts_that_are_refused() {
    everywhere(|client| {
        let mut bytes = client.seal(DATA, b"one");
        // In pieces, which no version allows.
        bytes.extend(client.seal(ALERT, &[1]));
        bytes.extend(client.seal(ALERT, &[0]));
        bytes.extend(client.seal(DATA, b"two"));
        bytes
    });
    everywhere(|client| {
        let mut bytes = client.seal(ALERT, &[3, 80]);
        bytes.extend(client.seal(DATA, b"one"));
        bytes
    });
}

#[test]
fn key_updates_that_are_refused() {
    in_tls13(|client| {
        let mut bytes = client.seal(HANDSHAKE, &[24, 0]);
        bytes.extend(client.seal(DATA, b"inside of a message"));
        bytes
    });
    in_tls13(|client| {
        let mut bytes = client.seal(DATA, b"one");
        bytes.extend(client.seal(HANDSHAKE, &[24, 0, 0, 1, 2]));
        bytes.extend(client.seal(DATA, b"two"));
        bytes
    });
}

/// A record that was changed, and one that is sent again.
#[test]
fn records_that_do_not_open() {
    everywhere(|client| {
        let mut bytes = client.seal(DATA, b"one");
        let mut changed = client.seal(DATA, b"two");
        let last = changed.len() - 1;
        changed[last] ^= 1;
        bytes.extend(changed);
        bytes.extend(client.seal(DATA, b"three"));
        bytes
    });
    everywhere(|client| {
        let record = client.seal(DATA, b"one");
        [record.clone(), record].concat()
    });
}
