//! Any records in any pieces, with migrations between them: nothing shows that there were some.

use std::sync::OnceLock;

use rustls::CipherSuite::{
    self, TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    TLS13_AES_128_GCM_SHA256, TLS13_CHACHA20_POLY1305_SHA256,
};

use super::common::forger::Forger;
use super::common::pair::{Options, Pipe, Server};
use super::script::{Kind, run, script};

const SUITES: [CipherSuite; 4] = [
    TLS13_AES_128_GCM_SHA256,
    TLS13_CHACHA20_POLY1305_SHA256,
    TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
];

/// The states of connections that have just migrated, with their clients.
fn connections() -> &'static [(Vec<u8>, Forger)] {
    static CONNECTIONS: OnceLock<Vec<(Vec<u8>, Forger)>> = OnceLock::new();
    CONNECTIONS.get_or_init(|| {
        let connect = |suite| {
            let (mut server, client) = Forger::connect(&Options::new(suite));
            (server.migrate(), client)
        };
        SUITES.into_iter().map(connect).collect()
    })
}

pub(crate) fn check(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else { return };
    let (state, client) = &connections()[usize::from(*first) % SUITES.len()];
    let mut to_server = client.to_server.clone();
    let script = script(rest, &mut to_server, Kind::Wild);
    let run = |migrates| {
        let server = Server::arrive(Pipe::default(), state);
        run(server, client.to_client.clone(), &script, migrates)
    };
    assert_eq!(run(true), run(false));
}
