//! Handshakes: what they agree on, certificates that are renewed, sessions that resume, and clients that take
//! their time.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use hotupdate_axum::tls::Tls;
use hotupdate_axum::tls::rustls::HandshakeKind::{Full, Resumed};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::world::{Http2Client, Identity, Secure, kinds};
use crate::client::Client;
use crate::server::{MIGRATING, PATIENT, Times, until, within};

#[tokio::test]
async fn the_application_knows_what_was_agreed_on() {
    let (server, client) = (Identity::new(), Identity::new());
    let secure = Secure::start(PATIENT, Tls::new(server.server_that_asks(&client))).await;
    let mut one = secure.client(&Arc::new(client.client_of(&server))).await;
    let info = one.get("/info").await.body;
    for part in ["version: TLSv1_3", "server_name: Some(\"localhost\")", "client_certificates: [Cert"] {
        assert!(info.contains(part), "{info}");
    }
    assert_eq!(one.get("/whether").await.body, "true");
    assert_eq!(secure.protocol(), "tls1.3+http/1.1");
}

#[tokio::test]
async fn alpn_chooses_http2() {
    let identity = Identity::new();
    for (provider, version) in kinds() {
        let tls = Tls::new(identity.server_with(provider.clone()));
        let secure = Secure::start(PATIENT, tls).await;
        let mut client = Http2Client::connect(&secure, identity.client_with(provider, version)).await;
        let info = client.get("/info").await;
        assert!(info.contains("alpn: Some([104, 50])"), "{info}");
        assert!(secure.protocol().ends_with("+h2"), "{}", secure.protocol());
        client.leave().await;
        until(|| secure.hot.connections().rows().is_empty()).await;
    }
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_from_then_on() {
    let (before, after) = (Identity::new(), Identity::new());
    let current = Arc::new(Mutex::new(Arc::new(before.server())));
    let of_server = current.clone();
    let secure = Secure::start(PATIENT, Tls::with(move || of_server.lock().unwrap().clone())).await;
    let mut old = secure.client(&Arc::new(before.client())).await;
    *current.lock().unwrap() = Arc::new(after.server());
    let mut new = secure.client(&Arc::new(after.client())).await;
    new.is_answered_by("old").await;
    old.is_answered_by("old").await;
}

/// By its tickets; those of TLS 1.2 without the server's own memory of sessions.
#[tokio::test]
async fn sessions_resume_in_the_next_version_and_after_a_rollback() {
    let identity = Identity::new();
    for (provider, version) in kinds() {
        let tls = || Tls::new(identity.server_with(provider.clone()));
        let times = Times { probation: Duration::from_secs(60), ..PATIENT };
        let old = Secure::start(times, tls()).await;
        let config = Arc::new(identity.client_with(provider.clone(), version));
        let visits = async |secure: &Secure, version, expected| {
            let mut client = secure.client(&config).await;
            client.is_answered_by(version).await;
            assert_eq!(client.handshake(), expected, "{config:?}");
        };
        visits(&old, "old", Full).await;
        visits(&old, "old", Resumed).await;
        let new = old.hand_off("new", times, tls()).await;
        visits(&new, "new", Resumed).await;
        new.tickets.rotate(SystemTime::now()).unwrap();
        visits(&new, "new", Resumed).await;
        old.roll_back().await;
        visits(&old, "old", Resumed).await;
    }
}

/// However short the lives of processes are, a key makes tickets for no longer than it should.
#[tokio::test]
async fn a_version_that_begins_to_serve_changes_keys_that_are_due() {
    let identity = Identity::new();
    let config = Arc::new(identity.client());
    let old = Secure::start(PATIENT, Tls::new(identity.server())).await;
    old.client(&config).await.is_answered_by("old").await;
    // After this version has looked at them, which it does next in ten minutes.
    old.tickets.rotate(SystemTime::now() - Duration::from_secs(7 * 60 * 60)).unwrap();
    old.client(&config).await.is_answered_by("old").await;
    let new = old.hand_off("new", PATIENT, Tls::new(identity.server())).await;
    until(|| new.tickets.rotates_at() > SystemTime::now()).await;
    assert!(old.tickets.rotates_at() < SystemTime::now(), "a process that drains changes none");
    let mut client = new.client(&config).await;
    client.is_answered_by("new").await;
    assert_eq!(client.handshake(), Resumed, "the key before is understood");
}

#[tokio::test]
async fn a_slow_client_keeps_no_other_waiting() {
    let identity = Identity::new();
    let secure = Secure::start(PATIENT, Tls::new(identity.server())).await;
    let silent = TcpStream::connect(secure.address).await.unwrap();
    let mut half = TcpStream::connect(secure.address).await.unwrap();
    half.write_all(&[22, 3, 1, 2, 0, 1]).await.unwrap();
    let config = Arc::new(identity.client());
    secure.client(&config).await.is_answered_by("old").await;
    let names: Vec<_> =
        secure.hot.connections().rows().iter().take(2).map(|row| row.protocol.to_string()).collect();
    assert_eq!(names, ["tls", "tls"]);
    drop((silent, half));
}

#[tokio::test]
async fn a_handshake_has_a_deadline_and_no_more_than_so_many_are_under_way() {
    let identity = Identity::new();
    let tls = Tls::new(identity.server()).max_handshakes(1);
    let secure = Secure::start_with_deadline(PATIENT, tls, Duration::from_secs(2)).await;
    // One that says nothing has no place, so that another has it.
    let mut silent = TcpStream::connect(secure.address).await.unwrap();
    let config = Arc::new(identity.client());
    secure.client(&config).await.is_answered_by("old").await;
    assert_eq!(within(silent.read(&mut [0])).await.unwrap(), 0, "and it is closed in the end");
    // This one has the only place until its deadline, and then the next one has it.
    let mut half = TcpStream::connect(secure.address).await.unwrap();
    half.write_all(&[22, 3, 1, 2, 0, 1]).await.unwrap();
    until(|| secure.hot.connections().rows().len() == 1).await;
    assert_eq!(within(half.read(&mut [0])).await.unwrap(), 0);
    secure.client(&config).await.is_answered_by("old").await;
}

#[tokio::test]
async fn what_is_no_tls_is_closed() {
    let identity = Identity::new();
    let secure = Secure::start(PATIENT, Tls::new(identity.server())).await;
    let mut client = Client::connect(secure.address).await;
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
    let mut alert = Vec::new();
    let _ = within(client.stream.read_to_end(&mut alert)).await;
    assert_eq!(alert.first(), Some(&21), "it is told by an alert");
    until(|| secure.hot.connections().rows().is_empty()).await;
}

/// It begins in the version that drains, and ends there; then the connection migrates.
#[tokio::test]
async fn a_handshake_in_the_middle_of_a_handoff() {
    let identity = Identity::new();
    let tls = || Tls::new(identity.server()).move_connections(true);
    let old = Secure::start(MIGRATING, tls()).await;
    let stream = TcpStream::connect(old.address).await.unwrap();
    until(|| old.hot.connections().rows().len() == 1).await;
    let new = old.hand_off("new", MIGRATING, tls()).await;
    let name = ServerName::try_from("localhost").unwrap();
    let stream = TlsConnector::from(Arc::new(identity.client())).connect(name, stream).await.unwrap();
    let mut client = Client::over(stream);
    until(|| new.hot.connections().adopted() == 1).await;
    client.is_answered_by("new").await;
    assert_eq!(old.drained().await, 0);
}
