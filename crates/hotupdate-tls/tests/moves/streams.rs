//! The stream over both: bytes in bulk, bytes that are not read, a transport that is slow, and speech.

use std::future::poll_fn;
use std::io::Write as _;

use hotupdate_tls::{Acceptor, State};
use rustls::CipherSuite::{
    self, TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384,
    TLS13_CHACHA20_POLY1305_SHA256,
};
use tokio::io::{AsyncReadExt as _, AsyncWrite as _, AsyncWriteExt as _};

use crate::forger::{ALERT, DATA, Forger, HANDSHAKE, key_update};
use crate::pair::{End, Options, Pair, Server, now};

const SUITES: [CipherSuite; 6] = [
    TLS13_AES_128_GCM_SHA256,
    TLS13_AES_256_GCM_SHA384,
    TLS13_CHACHA20_POLY1305_SHA256,
    TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
];

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|byte| (byte * 31 / 7) as u8).collect()
}

#[test]
fn two_megabytes_each_way_between_migrations() {
    let bytes = pattern(2_000_000);
    for suite in SUITES {
        let mut pair = Options::new(suite).connect();
        for _ in 0..3 {
            let mut heard = Vec::new();
            for chunk in bytes.chunks(50_000) {
                pair.client_says(chunk);
                heard.extend(pair.server.hears().0);
            }
            assert!(heard == bytes);
            let mut heard = Vec::new();
            for chunk in bytes.chunks(300_000) {
                pair.server.says(chunk);
                heard.extend(pair.client_hears());
            }
            assert!(heard == bytes);
            pair.server.migrate();
        }
    }
}

#[test]
fn a_long_record_is_read_in_few_pieces() {
    let mut pair = Options::new(SUITES[0]).connect();
    let bytes = pattern(1 << 14);
    pair.client_says(&bytes);
    pair.server.pipe.lock().reads = 0;
    assert!(pair.server.hears().0 == bytes);
    // Its beginning into a small buffer, and its rest.
    assert_eq!(pair.server.pipe.lock().reads, 2);
}

#[test]
fn a_hundred_migrations() {
    for suite in SUITES {
        let mut pair = Options::new(suite).connect();
        for _ in 0..100 {
            pair.server.migrate();
            pair.talk();
        }
    }
}

#[test]
fn what_is_unread_travels() {
    for suite in SUITES {
        let mut pair = Options::new(suite).connect();
        // One request that is half read, one that is not, and half a record.
        pair.client_says(b"first request");
        let mut half = [0; 6];
        now(pair.server.stream().read_exact(&mut half)).unwrap().unwrap();
        pair.client_says(b", second request");
        pair.client.writer().write_all(b", third").unwrap();
        let mut record = Vec::new();
        pair.client.write_tls(&mut record).unwrap();
        let (start, rest) = record.split_at(record.len() / 2);
        pair.server.pipe.lock().to_server.extend(start);
        for _ in 0..3 {
            pair.server.migrate();
        }
        pair.server.stream().give_back(&half[3..]);
        pair.server.migrate();
        pair.server.pipe.lock().to_server.extend(rest);
        assert_eq!(pair.server.hears().0, b"st request, second request, third");
        pair.talk();
    }
}

#[test]
fn what_is_unsent_travels_wherever_it_is_cut() {
    for suite in SUITES {
        let bytes = pattern(40_000);
        for sent in [0, 1, 4, 5, 6, 1_000, 16_000, 17_000, 40_000, 40_060] {
            let mut pair = Options::new(suite).connect();
            pair.server.pipe.lock().room = Some(sent);
            now(pair.server.stream().write_all(&bytes)).unwrap().unwrap();
            for _ in 0..3 {
                pair.server.migrate_unsent();
            }
            pair.server.pipe.lock().room = None;
            // A process sends it while it waits for the client, too.
            assert_eq!(pair.server.hears(), (vec![], End::Open));
            assert!(pair.client_hears() == bytes, "{suite:?}, {sent} sent before");
            pair.talk();
        }
    }
}

#[test]
fn a_state_waits_for_its_client_if_nothing_is_left_to_do() {
    let waits = |server: Server| {
        let pipe = server.pipe.clone();
        let (_, state) = server.into_stream().into_state().unwrap();
        (state.is_waiting(), Server::resume(pipe, state))
    };
    for suite in SUITES {
        let (server, mut client) = Forger::connect(&Options::new(suite));
        let (waiting, mut server) = waits(server);
        assert!(waiting);
        let record = client.to_server.seal(DATA, b"ping");
        for byte in &record[..record.len() - 1] {
            server.pipe.lock().to_server.push_back(*byte);
            assert_eq!(server.hears(), (vec![], End::Open));
            let waiting;
            (waiting, server) = waits(server);
            assert!(waiting, "part of a record");
        }
        server.pipe.lock().to_server.extend(record.last());
        assert_eq!(spoken(&mut server), Some(true));
        let (waiting, mut server) = waits(server);
        assert!(!waiting, "plaintext");
        assert_eq!(server.hears(), (b"ping".to_vec(), End::Open));
        // One is read, and another one came with it.
        let more = [client.to_server.seal(DATA, b"one"), client.to_server.seal(DATA, b"two")].concat();
        server.pipe.lock().to_server.extend(more);
        now(server.stream().read_exact(&mut [0; 3])).unwrap().unwrap();
        let (waiting, mut server) = waits(server);
        assert!(!waiting, "a whole record");
        assert_eq!(server.hears(), (b"two".to_vec(), End::Open));
        server.pipe.lock().room = Some(0);
        now(server.stream().write_all(b"pong")).unwrap().unwrap();
        assert!(!waits(server).0, "something is to be sent");
    }
}

#[test]
fn bytes_given_back_come_first() {
    for migrations in 0..2 {
        let mut pair = Options::new(TLS13_AES_128_GCM_SHA256).connect();
        for _ in 0..migrations {
            pair.server.migrate();
        }
        pair.client_says(b"middle last");
        let mut some = [0; 7];
        now(pair.server.stream().read_exact(&mut some)).unwrap().unwrap();
        pair.server.stream().give_back(&some);
        pair.server.stream().give_back(b"first ");
        pair.server.migrate();
        assert_eq!(pair.server.hears().0, b"first middle last");
    }
}

#[test]
fn byte_by_byte_both_ways() {
    for suite in SUITES {
        let mut pair = Options::new(suite).connect();
        for round in 0..3 {
            pair.client.writer().write_all(b"ping").unwrap();
            let mut record = Vec::new();
            pair.client.write_tls(&mut record).unwrap();
            let mut heard = Vec::new();
            for byte in record {
                pair.server.pipe.lock().to_server.push_back(byte);
                heard.extend(pair.server.hears().0);
                if round > 0 {
                    pair.server.migrate();
                }
            }
            assert_eq!(heard, b"ping");
            // As much as the transport takes.
            pair.server.pipe.lock().room = Some(0);
            now(pair.server.stream().write_all(b"pong")).unwrap().unwrap();
            let mut heard = Vec::new();
            for _ in 0..100 {
                pair.server.pipe.lock().room = Some(1);
                let _: Option<_> = now(pair.server.stream().flush());
                heard.extend(pair.client_hears());
            }
            assert_eq!(heard, b"pong");
            pair.server.pipe.lock().room = None;
            pair.server.migrate();
        }
    }
}

#[test]
fn a_transport_that_takes_nothing_holds_the_writer_back() {
    for migrations in 0..2 {
        let mut pair = Options::new(TLS13_AES_128_GCM_SHA256).connect();
        for _ in 0..migrations {
            pair.server.migrate();
        }
        pair.server.pipe.lock().room = Some(0);
        let bytes = pattern(300_000);
        let mut taken = 0;
        while let Some(count) = now(pair.server.stream().write(&bytes[taken..])) {
            taken += count.unwrap();
            assert!(taken <= 140_000, "more is kept than a client can want");
        }
        assert!(taken >= 60_000);
        pair.server.pipe.lock().room = None;
        pair.server.flushes();
        assert!(pair.client_hears() == bytes[..taken]);
    }
}

#[test]
fn pieces_are_one_record() {
    for migrations in 0..2 {
        let mut pair = Options::new(TLS13_AES_128_GCM_SHA256).connect();
        for _ in 0..migrations {
            pair.server.migrate();
        }
        pair.server.pipe.lock().to_client.clear();
        let pieces = [b"head".as_slice(), b"", b"body"].map(std::io::IoSlice::new);
        let server = pair.server.stream();
        assert!(server.is_write_vectored());
        let written = now(poll_fn(|cx| std::pin::Pin::new(&mut *server).poll_write_vectored(cx, &pieces)));
        assert_eq!(written.unwrap().unwrap(), 8);
        assert_eq!(pair.server.pipe.lock().to_client.len(), 5 + 8 + 17);
        assert_eq!(pair.client_hears(), b"headbody");
    }
}

#[test]
fn records_are_as_short_as_the_configuration_says() {
    for suite in SUITES {
        let (mut server, client) = Options::new(suite).configs();
        server.max_fragment_size = Some(100);
        let mut pair = Pair::accepted(&Acceptor::new(server).migratable(true), client);
        for _ in 0..2 {
            now(pair.server.stream().write_all(&pattern(1_000))).unwrap().unwrap();
            // Of plaintext, 95 bytes in each record.
            let records = pair.server.pipe.lock().to_client.windows(3).filter(|at| *at == [23, 3, 3]).count();
            assert!((11..14).contains(&records), "{records}");
            assert!(pair.client_hears() == pattern(1_000));
            pair.server.migrate();
        }
    }
}

fn spoken(server: &mut Server) -> Option<bool> {
    let server = server.stream();
    now(poll_fn(|cx| server.poll_spoken(cx))).map(Result::unwrap)
}

#[test]
fn speech_is_what_the_application_can_read() {
    for migrations in 0..2 {
        let (mut server, mut client) = Forger::connect(&Options::new(TLS13_AES_128_GCM_SHA256));
        for _ in 0..migrations {
            server.migrate();
        }
        let client = &mut client.to_server;
        assert_eq!(spoken(&mut server), None);
        let silence = [
            client.key_update(true),
            client.seal(ALERT, &[1, 90]),
            client.seal(DATA, b""),
            client.seal(HANDSHAKE, &key_update(false)[..3]),
        ];
        for record in silence {
            server.pipe.lock().to_server.extend(record);
            assert_eq!(spoken(&mut server), None);
        }
        let rest = client.seal(HANDSHAKE, &key_update(false)[3..]);
        client.update();
        let record = client.seal(DATA, b"ping");
        server.pipe.lock().to_server.extend(rest);
        server.pipe.lock().to_server.extend(&record[..10]);
        assert_eq!(spoken(&mut server), None);
        server.pipe.lock().to_server.extend(&record[10..]);
        assert_eq!(spoken(&mut server), Some(true));
        // The socket holds nothing any more, and it is still so, there and here.
        assert_eq!(spoken(&mut server), Some(true));
        server.migrate();
        assert_eq!(spoken(&mut server), Some(true));
        assert_eq!(server.hears(), (b"ping".to_vec(), End::Open));
        assert_eq!(spoken(&mut server), None);
        server.pipe.lock().to_server.extend(client.seal(ALERT, &[1, 0]));
        assert_eq!(spoken(&mut server), Some(false));
    }
}

#[test]
fn no_number_comes_twice_whatever_becomes_of_a_migration() {
    for suite in SUITES {
        let (mut server, client) = Forger::connect(&Options::new(suite));
        // All that any process has sent for this connection.
        let pipe = server.pipe.clone();
        for round in 0..10 {
            server.says(&pattern(round * 10));
            // Taken apart and refused: the process goes on with its own state, and the other one forgets its
            // copy.
            let (io, state) = server.into_stream().into_state().unwrap();
            let copy = State::from_bytes(&state.to_bytes()).unwrap();
            drop(copy);
            server = Server::resume(io, state);
            server.says(b"here again");
            // And moved.
            server.migrate();
            server.says(b"there");
            // With part of a record that was sent.
            pipe.lock().room = Some(4);
            now(server.stream().write_all(b"waits")).unwrap().unwrap();
            server.migrate_unsent();
            pipe.lock().room = None;
            server.flushes();
        }
        let said = std::mem::take(&mut pipe.lock().to_client);
        // It fails at the first record that has not the next number.
        let records = client.to_client.clone().open_all(&said);
        for word in [b"there", b"waits"] {
            assert_eq!(records.iter().filter(|(_, said)| said == word).count(), 10);
        }
    }
}

#[test]
fn nothing_secret_is_shown() {
    for suite in SUITES {
        let mut pair: Pair = Options::new(suite).connect();
        pair.client_says(b"a secret word");
        let before = format!("{:?}", pair.server.stream());
        let bytes = pair.server.migrate();
        let state = State::from_bytes(&bytes).unwrap();
        let shown = format!("{before} {state:?} {:?}", pair.server.stream());
        assert!(!shown.contains("secret word") && !shown.contains("115, 101, 99, 114, 101, 116"), "{shown}");
        assert!(!shown.contains("key:") && !shown.contains("iv:"), "{shown}");
        // No part of what follows the public fields: secrets are long numbers in any notation.
        assert!(!shown.contains("Secret("), "{shown}");
    }
}
