//! What keeps a connection where it is, and that nothing happens to it.

use std::io::Write as _;

use hotupdate_tls::{Acceptor, MigrationBlock};
use rustls::CipherSuite::{TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS13_AES_128_GCM_SHA256};
use tokio::io::AsyncWriteExt as _;

use crate::pair::{End, Options, Pair, now};

/// Before and after a migration alike.
fn everywhere(test: fn(&mut Pair)) {
    for suite in [TLS13_AES_128_GCM_SHA256, TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256] {
        for migrations in 0..=2 {
            let mut pair = Options::new(suite).connect();
            for _ in 0..migrations {
                pair.talk();
                pair.server.migrate();
            }
            test(&mut pair);
        }
    }
}

fn stays(pair: &mut Pair) -> MigrationBlock {
    pair.server.try_migrate().expect_err("something keeps it")
}

#[test]
fn a_close_notify_of_the_client() {
    everywhere(|pair| {
        pair.client.send_close_notify();
        pair.client_sends();
        assert_eq!(pair.server.hears(), (vec![], End::Closed));
        assert_eq!(stays(pair), MigrationBlock::Closing);
        // The other half is open.
        pair.server.says(b"pong");
        assert_eq!(pair.client_hears(), b"pong");
    });
}

#[test]
fn a_close_notify_of_the_server() {
    everywhere(|pair| {
        now(pair.server.stream().shutdown()).unwrap().unwrap();
        assert_eq!(stays(pair), MigrationBlock::Closing);
        assert!(pair.server.pipe.lock().shut);
        pair.client_hears();
        pair.client.writer().write_all(b"ping").unwrap();
        pair.client_sends();
        assert_eq!(pair.server.hears(), (b"ping".to_vec(), End::Open));
    });
}

#[test]
fn a_failure() {
    everywhere(|pair| {
        pair.server.pipe.lock().to_server.extend(b"GET / HTTP/1.1\r\n\r\n");
        assert_eq!(pair.server.hears(), (vec![], End::Failed));
        assert_eq!(stays(pair), MigrationBlock::Closing);
        assert_eq!(pair.server.hears(), (vec![], End::Failed));
        pair.client_tries().unwrap_err();
    });
}

#[test]
fn that_it_was_not_asked_for() {
    let (server, client) = Options::new(TLS13_AES_128_GCM_SHA256).configs();
    let mut pair = Pair::accepted(&Acceptor::new(server), client);
    assert_eq!(stays(&mut pair), MigrationBlock::Disabled);
    pair.talk();
}
