//! HTTPS with real processes: a client shakes hands once and sees one connection, and a process that has
//! given a connection away has not kept its keys.
//!
//! Deliberately absent: what is on the wire at each moment, see the tests of hotupdate-axum and
//! hotupdate-tls.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex};

use integration_tests::process::eventually;
use integration_tests::{SOON, Sandbox, Service};
use rustls::client::ClientConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConnection, HandshakeKind, KeyLog, RootCertStore, StreamOwned};

/// The traffic secrets of a connection, each byte as another one: this process is not looked into, but its
/// memory may be a copy's.
#[derive(Debug, Default)]
struct Secrets(Mutex<Vec<(String, Vec<u8>)>>);

impl KeyLog for Secrets {
    fn log(&self, label: &str, _: &[u8], secret: &[u8]) {
        if label.contains("TRAFFIC_SECRET_0") {
            self.0.lock().unwrap().push((label.to_owned(), secret.to_vec()));
        }
    }
}

struct Client {
    stream: BufReader<StreamOwned<ClientConnection, TcpStream>>,
}

impl Client {
    fn config(certificates: &Path) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(certificates.join("cert.pem")).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
        builder
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth()
    }

    fn connect(address: SocketAddr, config: &Arc<ClientConfig>) -> Self {
        let name = ServerName::try_from("localhost").unwrap();
        let connection = ClientConnection::new(config.clone(), name).unwrap();
        let tcp = TcpStream::connect(address).unwrap();
        tcp.set_read_timeout(Some(SOON)).unwrap();
        Self { stream: BufReader::new(StreamOwned::new(connection, tcp)) }
    }

    fn ask(&mut self, path: &str) {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        self.stream.get_mut().write_all(request.as_bytes()).unwrap();
    }

    /// The body of an answer after which the connection goes on.
    fn answer(&mut self) -> String {
        let (mut line, mut length) = (String::new(), 0);
        while line != "\r\n" {
            line.clear();
            assert_ne!(self.stream.read_line(&mut line).unwrap(), 0, "the connection ended");
            let lower = line.to_ascii_lowercase();
            assert!(!lower.starts_with("connection: close"), "the client was told to leave");
            length =
                lower.strip_prefix("content-length: ").map_or(length, |value| value.trim().parse().unwrap());
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).unwrap();
        String::from_utf8(body).unwrap()
    }

    fn get(&mut self, path: &str) -> String {
        self.ask(path);
        self.answer()
    }

    fn handshake(&self) -> Option<HandshakeKind> {
        self.stream.get_ref().conn.handshake_kind()
    }
}

/// Through handoffs the connection goes on, and another one of the same client resumes its session.
#[test]
fn a_client_shakes_hands_once() {
    let sandbox = Sandbox::new();
    let certificates = sandbox.path().join("certificates");
    let arguments = ["--probation", "0", "--tls", certificates.to_str().unwrap()];
    let mut serving = Service::start(&sandbox, "v0", &arguments).wait_serving();
    let config = Arc::new(Client::config(&certificates));
    let mut client = Client::connect(serving.http, &config);
    assert_eq!(client.get("/version"), "v0");
    for number in 1..=5 {
        let version = format!("v{number}");
        let next = Service::start(&sandbox, &version, &arguments).wait_serving();
        let before = Service::of(&sandbox, serving.pid);
        eventually("the predecessor is gone", SOON, || before.try_exit());
        assert_eq!(client.get("/version"), version);
        let mut again = Client::connect(next.http, &config);
        assert_eq!(again.get("/version"), version);
        assert_eq!(again.handshake(), Some(HandshakeKind::Resumed), "{version}");
        serving = next;
    }
    assert_eq!(client.handshake(), Some(HandshakeKind::Full));
    let metrics = client.get("/metrics");
    let resumed =
        r#"hotupdate_generation_tls_handshakes_total{generation="6",version="1.3",result="resumed"} 1"#;
    assert!(metrics.contains(resumed), "{metrics}");
    assert!(sandbox.drained().iter().all(|drained| drained.forced == 0));
}

/// The second process has got the connection from the first one, where rustls has left copies behind, and has
/// given it to the third. It still has another client's slow request, and lives.
#[test]
fn a_process_forgets_the_keys_of_a_connection_that_has_left_it() {
    let sandbox = Sandbox::new();
    let certificates = sandbox.path().join("certificates");
    let arguments = ["--probation", "0", "--tls", certificates.to_str().unwrap()];
    let first = Service::start(&sandbox, "first", &arguments).wait_serving();
    let secrets = Arc::new(Secrets::default());
    let mut config = Client::config(&certificates);
    let of_others = Arc::new(config.clone());
    config.key_log = secrets.clone();
    let mut client = Client::connect(first.http, &Arc::new(config));
    assert_eq!(client.get("/version"), "first");
    let secrets: Vec<_> = secrets.0.lock().unwrap().clone();
    assert_eq!(secrets.len(), 2);
    let second = Service::start(&sandbox, "second", &arguments).wait_serving();
    eventually("the connection is in the second process", SOON, || {
        (client.get("/version") == "second").then_some(())
    });
    assert_ne!(found(second.pid, &secrets), Vec::<String>::new(), "they are looked for where they are");
    let mut slow = Client::connect(second.http, &of_others);
    slow.ask("/?sleep=5");
    Service::start(&sandbox, "third", &arguments).wait_serving();
    eventually("the connection is in the third process", SOON, || {
        (client.get("/version") == "third").then_some(())
    });
    assert_eq!(
        found(second.pid, &secrets),
        Vec::<String>::new(),
        "in the process that has let the connection go"
    );
    assert!(slow.answer().starts_with("ospid:"));
}

/// Which secrets are in the memory of a process, and where; stacks do not count, on which the compiler puts
/// what it likes.
fn found(pid: u32, secrets: &[(String, Vec<u8>)]) -> Vec<String> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let (mut found, mut guarded) = (Vec::new(), false);
    for line in maps.lines() {
        let mut fields = line.split_whitespace();
        let (range, access) = (fields.next().unwrap(), fields.next().unwrap());
        let (begin, end) = range.split_once('-').unwrap();
        let [begin, end] = [begin, end].map(|address| u64::from_str_radix(address, 16).unwrap());
        // A stack of a thread lies behind a page that cannot be touched.
        let is_stack = line.ends_with("[stack]") || (guarded && end - begin >= 1 << 20);
        guarded = access.starts_with("---");
        if !access.starts_with("rw") || is_stack {
            continue;
        }
        let mut bytes = vec![0; usize::try_from(end - begin).unwrap()];
        if memory.read_exact_at(&mut bytes, begin).is_err() {
            continue;
        }
        for (name, secret) in secrets {
            let places = bytes.windows(secret.len()).enumerate().filter(|(_, window)| window == secret);
            found.extend(places.map(|(at, _)| format!("{name} at {at:#x} of {line}")));
        }
    }
    found
}
