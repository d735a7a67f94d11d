//! Sessions that resume in the next process.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hotupdate_tls::{Acceptor, Tickets};
use rustls::CipherSuite::{TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS13_AES_128_GCM_SHA256};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, ServerConfig};

use crate::pair::{Identity, Options, Pair};

const SIX_HOURS: Duration = Duration::from_secs(6 * 60 * 60);

fn process(config: &ServerConfig, tickets: &Arc<Tickets>) -> Acceptor {
    let mut config = config.clone();
    config.ticketer = tickets.clone();
    // What only this process remembers must not help.
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Acceptor::new(config).migratable(true)
}

fn visit(acceptor: &Acceptor, client: &Arc<ClientConfig>) -> HandshakeKind {
    let mut pair = Pair::accepted_by_configs(acceptor, client.clone());
    assert_eq!(pair.server.stream().handshake_kind(), pair.client.handshake_kind());
    pair.talk();
    pair.server.migrate();
    pair.talk();
    pair.client.handshake_kind().unwrap()
}

#[test]
fn a_session_resumes_in_the_next_process_and_after_a_rollback() {
    for suite in [TLS13_AES_128_GCM_SHA256, TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256] {
        let (server, client) = Options::new(suite).configs();
        let client = Arc::new(client);
        let now = SystemTime::now();
        let old_tickets = Arc::new(Tickets::new(now).unwrap());
        let old = process(&server, &old_tickets);
        assert_eq!(visit(&old, &client), HandshakeKind::Full);
        assert_eq!(visit(&old, &client), HandshakeKind::Resumed);

        let new_tickets = Arc::new(Tickets::from_bytes(&old_tickets.to_bytes()).unwrap());
        let new = process(&server, &new_tickets);
        assert_eq!(visit(&new, &client), HandshakeKind::Resumed);
        assert!(new_tickets.rotate_if_due(now + SIX_HOURS));
        assert_eq!(visit(&new, &client), HandshakeKind::Resumed);
        // The new one fails, and the old one serves again.
        assert_eq!(visit(&old, &client), HandshakeKind::Resumed);
    }
}

#[test]
fn without_the_keys_it_does_not() {
    let (server, client) = Options::new(TLS13_AES_128_GCM_SHA256).configs();
    let client = Arc::new(client);
    let process = || process(&server, &Arc::new(Tickets::new(SystemTime::now()).unwrap()));
    assert_eq!(visit(&process(), &client), HandshakeKind::Full);
    assert_eq!(visit(&process(), &client), HandshakeKind::Full);
}

/// rustls asks for nothing when a session resumes, so a client could come without a certificate where one is
/// demanded.
#[test]
fn a_session_of_a_client_without_a_certificate_resumes_nowhere_where_one_is_demanded() {
    for suite in [TLS13_AES_128_GCM_SHA256, TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256] {
        let identity = Identity::new(false);
        let demanding = Options { client_certificate: true, ..Options::new(suite) };
        let (open, anonymous) = Options::new(suite).configs_of(&identity);
        let (demanding, known) = demanding.configs_of(&identity);
        let (anonymous, known) = (Arc::new(anonymous), Arc::new(known));
        let free = Arc::new(Tickets::new(SystemTime::now()).unwrap());
        let open = process(&open, &free);
        assert_eq!(visit(&open, &anonymous), HandshakeKind::Full);
        // This is what has to be prevented.
        assert_eq!(visit(&process(&demanding, &free), &anonymous), HandshakeKind::Resumed);
        let strict = process(&demanding, &free.bound_to(b"roots"));
        assert_eq!(visit(&open, &anonymous), HandshakeKind::Resumed);
        assert!(Pair::refused(&strict, anonymous));
        assert_eq!(visit(&strict, &known), HandshakeKind::Full);
        let next = Tickets::from_bytes(&free.to_bytes()).unwrap();
        assert_eq!(visit(&process(&demanding, &next.bound_to(b"roots")), &known), HandshakeKind::Resumed);
    }
}

#[test]
fn no_client_is_invited_to_send_early_data() {
    for migratable in [false, true] {
        let (mut server, mut client) = Options::new(TLS13_AES_128_GCM_SHA256).configs();
        server.max_early_data_size = 1_000;
        client.enable_early_data = true;
        let client = Arc::new(client);
        let acceptor = Acceptor::new(server).migratable(migratable);
        Pair::accepted_by_configs(&acceptor, client.clone());
        let name = ServerName::try_from("localhost").unwrap();
        assert!(ClientConnection::new(client.clone(), name).unwrap().early_data().is_none());
        let again = Pair::accepted_by_configs(&acceptor, client);
        assert_eq!(again.client.handshake_kind(), Some(HandshakeKind::Resumed));
    }
}
