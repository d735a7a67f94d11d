//! What keeps a connection where it is, and that nothing happens to it.

use std::io::Write as _;

use hotupdate_tls::{Acceptor, MigrationBlock};
use rustls::CipherSuite::{TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS13_AES_128_GCM_SHA256};
use tokio::io::AsyncWriteExt as _;

use crate::pair::{Options, Pair, now};

/// Before and after a migration alike.
fn everywhere(test: fn(&mut Pair)) {
    for suite in [TLS13_AES_128_GCM_SHA256, TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256] {
        for migrations in 0..=2 {
            let mut pair = Options::new(suite).connect();
            for _ in 0..migrations {
                pair.talk();
                pair.migrate();
            }
            test(&mut pair);
        }
    }
}

fn stays(pair: &mut Pair) -> MigrationBlock {
    let stays = pair.take_server().into_state().expect_err("something keeps it");
    pair.set_server(stays.stream);
    stays.why
}

#[test]
fn what_was_not_sent() {
    everywhere(|pair| {
        pair.pipe.lock().room = Some(3);
        now(pair.server().write_all(b"pong")).unwrap().unwrap();
        assert_eq!(stays(pair), MigrationBlock::Unwritten);
        pair.pipe.lock().room = None;
        pair.server_flushes();
        assert_eq!(pair.client_reads(), b"pong");
        pair.migrate();
        pair.talk();
    });
}

#[test]
fn a_close_notify_of_the_client() {
    everywhere(|pair| {
        pair.client.send_close_notify();
        pair.send();
        assert_eq!(pair.server_reads().unwrap(), (vec![], true));
        assert_eq!(stays(pair), MigrationBlock::Closing);
        // The other half is open.
        pair.server_writes(b"pong");
        assert_eq!(pair.client_reads(), b"pong");
    });
}

#[test]
fn a_close_notify_of_the_server() {
    everywhere(|pair| {
        now(pair.server().shutdown()).unwrap().unwrap();
        assert_eq!(stays(pair), MigrationBlock::Closing);
        assert!(pair.pipe.lock().shut);
        pair.receive().unwrap();
        pair.client.writer().write_all(b"ping").unwrap();
        pair.send();
        assert_eq!(pair.server_reads().unwrap(), (b"ping".to_vec(), false));
    });
}

#[test]
fn a_failure() {
    everywhere(|pair| {
        pair.pipe.lock().to_server.extend(b"GET / HTTP/1.1\r\n\r\n");
        pair.server_reads().unwrap_err();
        assert_eq!(stays(pair), MigrationBlock::Closing);
        pair.server_reads().unwrap_err();
        pair.receive().unwrap_err();
    });
}

#[test]
fn that_it_was_not_asked_for() {
    let (server, client) = Options::new(TLS13_AES_128_GCM_SHA256).configs();
    let mut pair = Pair::accepted(&Acceptor::new(server), client);
    assert_eq!(stays(&mut pair), MigrationBlock::Disabled);
    pair.talk();
}
