//! Keys that change, before, at and after migrations.

use rustls::CipherSuite::{
    self, TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384,
    TLS13_CHACHA20_POLY1305_SHA256,
};
use tokio::io::AsyncWriteExt as _;

use crate::forger::{DATA, Forger, HANDSHAKE, Side, key_update};
use crate::pair::{End, Options, Pair, now};

const TLS13: [CipherSuite; 3] =
    [TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256];

#[test]
fn the_client_changes_its_keys_before_each_migration() {
    for suite in TLS13 {
        let mut pair = Options::new(suite).connect();
        for _ in 0..5 {
            pair.client.refresh_traffic_keys().unwrap();
            pair.talk();
            pair.server.migrate();
            pair.talk();
        }
    }
}

#[test]
fn the_client_changes_its_keys_at_each_migration() {
    for suite in TLS13 {
        let mut pair = Options::new(suite).connect();
        for _ in 0..5 {
            pair.client.refresh_traffic_keys().unwrap();
            pair.client_sends();
            assert_eq!(pair.server.hears(), (vec![], End::Open));
            // The answer waits for a flush.
            pair.server.migrate();
            pair.talk();
        }
    }
}

#[test]
fn the_server_changes_its_keys() {
    for suite in TLS13 {
        let mut pair = Options::new(suite).connect();
        for _ in 0..5 {
            pair.server.stream().refresh_traffic_keys().unwrap();
            pair.talk();
            pair.server.migrate();
            // The client's answer arrives after the migration.
            pair.talk();
        }
    }
}

#[test]
fn keys_do_not_change_where_there_is_no_message_for_it() {
    let mut pair = Options::new(TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256).connect();
    for _ in 0..2 {
        pair.server.stream().refresh_traffic_keys().unwrap_err();
        pair.talk();
        pair.server.migrate();
    }
    let mut pair = Options::new(TLS13_AES_128_GCM_SHA256).connect();
    pair.server.migrate();
    now(pair.server.stream().shutdown()).unwrap().unwrap();
    pair.server.stream().refresh_traffic_keys().unwrap_err();
}

/// The record layer has each of them: there is no limit beyond which a connection could not migrate.
#[test]
fn keys_that_have_changed_five_thousand_times() {
    let (mut server, mut client) = Forger::connect(&Options::new(TLS13_AES_128_GCM_SHA256));
    for _ in 0..5_000 {
        let padding = client.to_server.seal_padded(DATA, b"", 3);
        let bytes = [padding, client.to_server.key_update(true), client.to_server.seal(DATA, b"x")].concat();
        server.pipe.lock().to_server.extend(bytes);
        assert_eq!(server.hears(), (b"x".to_vec(), End::Open));
        server.flushes();
        let said = std::mem::take(&mut server.pipe.lock().to_client);
        assert_eq!(client.to_client.open_all(&said), [(HANDSHAKE, key_update(false).to_vec())]);
    }
    server.migrate();
    server.says(b"pong");
    let said = std::mem::take(&mut server.pipe.lock().to_client);
    assert_eq!(client.to_client.open_all(&said), [(DATA, b"pong".to_vec())]);
}

/// What a client says behind its Finished, in the same segment, is nothing that rustls sees.
#[test]
fn words_in_the_segment_of_finished() {
    for suite in TLS13 {
        let speak = |client: &mut Side| {
            let mut bytes = client.seal_padded(HANDSHAKE, &key_update(true)[..2], 7);
            bytes.extend(client.seal(HANDSHAKE, &key_update(true)[2..]));
            client.update();
            bytes.extend(client.seal_padded(DATA, b"one", 5));
            bytes.extend(client.key_update(false));
            bytes.extend(client.seal(DATA, b"two"));
            bytes
        };
        let length = Forger::connect_speaking(&Options::new(suite), 0, speak).2.len();
        for cut in 0..=length {
            for heard_before in [false, true] {
                let (mut server, mut client, rest) =
                    Forger::connect_speaking(&Options::new(suite), cut, speak);
                let mut heard = if heard_before { server.hears().0 } else { Vec::new() };
                server.try_migrate().unwrap();
                server.pipe.lock().to_server.extend(rest);
                heard.extend(server.hears().0);
                assert_eq!(heard, b"onetwo", "{suite:?}, cut at {cut}");
                server.says(b"pong");
                let said = std::mem::take(&mut server.pipe.lock().to_client);
                let said = client.to_client.open_all(&said);
                let last = [(HANDSHAKE, key_update(false).to_vec()), (DATA, b"pong".to_vec())];
                assert!(said.ends_with(&last), "{suite:?}, cut at {cut}: {said:?}");
            }
        }
    }
}

/// A client that asks for new keys and reads nothing.
#[test]
fn answers_that_are_not_read_are_not_piled_up() {
    let (mut server, mut client) = Forger::connect(&Options::new(TLS13_AES_128_GCM_SHA256));
    server.pipe.lock().room = Some(0);
    for _ in 0..5_000 {
        let bytes = [client.to_server.key_update(true), client.to_server.seal(DATA, b"x")].concat();
        server.pipe.lock().to_server.extend(bytes);
        assert_eq!(server.hears(), (b"x".to_vec(), End::Open));
        assert!(now(server.stream().flush()).is_none());
        assert!(server.stream().unsent() < 66_000, "more is kept than a client can want");
    }
    server.migrate_unsent();
    server.pipe.lock().room = None;
    server.says(b"pong");
    let said = std::mem::take(&mut server.pipe.lock().to_client);
    assert_eq!(client.to_client.open_all(&said).last(), Some(&(DATA, b"pong".to_vec())));
}

#[test]
fn half_a_message_is_not_lost_while_something_waits_to_be_sent() {
    let (mut server, mut client) = Forger::connect(&Options::new(TLS13_AES_128_GCM_SHA256));
    server.pipe.lock().room = Some(1);
    now(server.stream().write_all(b"pong")).unwrap().unwrap();
    let first = client.to_server.seal(HANDSHAKE, &key_update(false)[..2]);
    server.pipe.lock().to_server.extend(first);
    assert_eq!(server.hears(), (vec![], End::Open));
    server.migrate_unsent();
    server.pipe.lock().room = None;
    server.flushes();
    let said = std::mem::take(&mut server.pipe.lock().to_client);
    assert_eq!(client.to_client.open_all(&said), [(DATA, b"pong".to_vec())]);
    let mut rest = client.to_server.seal(HANDSHAKE, &key_update(false)[2..]);
    client.to_server.update();
    rest.extend(client.to_server.seal(DATA, b"ping"));
    server.pipe.lock().to_server.extend(rest);
    assert_eq!(server.hears(), (b"ping".to_vec(), End::Open));
}

/// A state whose next record of the server has this number.
fn numbered(pair: &mut Pair, number: u64) {
    let mut state = pair.server.migrate();
    // The second sequence number of the state stands before the exporter (absent), ALPN and SNI.
    let name = [&[0, 0, 0, 0][..], &[1, 0, 0, 0, 8], b"http/1.1", &[1, 0, 0, 0, 9], b"localhost"].concat();
    let at = state.windows(name.len()).position(|window| window == name).unwrap() - 8;
    state[at..at + 8].copy_from_slice(&number.to_be_bytes());
    let pipe = pair.server.pipe.clone();
    pair.server = crate::pair::Server::arrive(pipe, &state);
}

#[test]
fn a_key_of_aes_gcm_ends_after_two_to_the_24_records() {
    for suite in [TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384] {
        let mut pair = Options::new(suite).connect();
        numbered(&mut pair, (1 << 24) - 3);
        for text in ["one", "two", "third!", "four"] {
            now(pair.server.stream().write_all(text.as_bytes())).unwrap().unwrap();
        }
        let said = std::mem::take(&mut pair.server.pipe.lock().to_client);
        // Two records of data, the KeyUpdate takes the last number, and two with the next key.
        let lengths: Vec<u16> = lengths(&said).collect();
        assert_eq!(lengths, [3, 3, 5, 6, 4].map(|length| length + 17));
    }
}

#[test]
fn a_key_of_tls12_ends_the_connection_with_it() {
    let mut pair = Options::new(TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256).connect();
    numbered(&mut pair, (1 << 24) - 1);
    pair.server.says(b"last");
    let error = now(pair.server.stream().write_all(b"one more")).unwrap().unwrap_err();
    assert_eq!(error.to_string(), "the keys of the connection are used up");
    let said = std::mem::take(&mut pair.server.pipe.lock().to_client);
    // The close_notify is the last.
    assert_eq!(lengths(&said).collect::<Vec<_>>(), [4 + 24, 2 + 24]);
}

fn lengths(mut bytes: &[u8]) -> impl Iterator<Item = u16> {
    std::iter::from_fn(move || {
        let length = u16::from_be_bytes([*bytes.get(3)?, bytes[4]]);
        bytes = &bytes[5 + usize::from(length)..];
        Some(length)
    })
}

/// Half a KeyUpdate that was read together with data is in the state.
#[test]
fn half_a_key_update_read_with_data() {
    for suite in TLS13 {
        for padding in [0, 9, 3000] {
            let (mut server, mut client) = Forger::connect(&Options::new(suite));
            let client = &mut client.to_server;
            let mut bytes = client.seal_padded(DATA, b"one", padding);
            bytes.extend(client.seal_padded(DATA, b"two", padding));
            bytes.extend(client.seal_padded(HANDSHAKE, &key_update(false)[..2], padding));
            server.pipe.lock().to_server.extend(bytes);
            assert_eq!(server.hears(), (b"onetwo".to_vec(), End::Open));
            server.try_migrate().unwrap();
            let mut bytes = client.seal_padded(HANDSHAKE, &key_update(false)[2..], padding);
            client.update();
            bytes.extend(client.seal(DATA, b"three"));
            server.pipe.lock().to_server.extend(bytes);
            assert_eq!(server.hears(), (b"three".to_vec(), End::Open));
            server.try_migrate().unwrap();
        }
    }
}

#[test]
fn half_a_key_update_in_a_long_record() {
    let (mut server, mut client) = Forger::connect(&Options::new(TLS13_AES_128_GCM_SHA256));
    let client = &mut client.to_server;
    let mut bytes = client.seal(DATA, &[7; 16_000]);
    bytes.extend(client.seal_padded(HANDSHAKE, &key_update(false)[..2], 16_000));
    server.pipe.lock().to_server.extend(bytes);
    assert_eq!(server.hears(), (vec![7; 16_000], End::Open));
    server.try_migrate().unwrap();
    let mut bytes = client.seal(HANDSHAKE, &key_update(false)[2..]);
    client.update();
    bytes.extend(client.seal(DATA, b"two"));
    server.pipe.lock().to_server.extend(bytes);
    assert_eq!(server.hears(), (b"two".to_vec(), End::Open));
    server.try_migrate().unwrap();
}
