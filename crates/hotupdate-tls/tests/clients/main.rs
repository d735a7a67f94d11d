//! Clients that exist: each sees one connection, which leaves the server's process state by state between its
//! requests.
//!
//! One process stands for all: a connection goes through its bytes after each response.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]

#[path = "../common/mod.rs"]
#[allow(dead_code, reason = "what other tests need")]
mod common;
mod server;
mod tools;

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use common::pair::{Identity, Options};
use common::provider::{Provider, provider};
use hotupdate_tls::Tickets;
use rustls::CipherSuite::{
    self, TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384,
    TLS13_CHACHA20_POLY1305_SHA256,
};
use server::Server;
use tools::{SClient, output_of};

/// How often each client asks.
const REQUESTS: usize = 6;

/// A server of each suite, and a client that asks it, if the client exists here.
fn with_each_suite(tool: &str, ask: impl Fn(&Server, &Path) -> Vec<String>) {
    if !tools::exists(tool) {
        return;
    }
    for suite in provider(Provider::default()).cipher_suites {
        let server = Server::start(suite.suite(), None);
        let answers = ask(&server, &server.certificate());
        let expected: Vec<String> = (0..REQUESTS).map(|migrations| migrations.to_string()).collect();
        assert_eq!(answers, expected, "{tool}, {:?}", suite.suite());
    }
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}

#[test]
fn curl() {
    with_each_suite("curl", |server, certificate| {
        let urls = (0..REQUESTS).map(|_| server.url());
        let options = ["-sS", "--max-time", "60", "--cacert", certificate.to_str().unwrap()];
        lines(&output_of("curl", options.map(str::to_owned).into_iter().chain(urls)))
    });
}

#[test]
fn python() {
    const SCRIPT: &str = "
import http.client, ssl, sys
context = ssl.create_default_context(cafile=sys.argv[2])
connection = http.client.HTTPSConnection('localhost', int(sys.argv[1]), context=context, timeout=60)
for _ in range(int(sys.argv[3])):
    connection.request('POST', '/', body=b'x' * 50000)
    print(connection.getresponse().read().decode().strip())
    connection.auto_open = False
";
    with_each_suite("python3", |server, certificate| {
        let arguments = [
            "-c".to_owned(),
            SCRIPT.to_owned(),
            server.port().to_string(),
            certificate.to_str().unwrap().to_owned(),
            REQUESTS.to_string(),
        ];
        lines(&output_of("python3", arguments))
    });
}

#[test]
fn node() {
    const SCRIPT: &str = "
const https = require('https'), fs = require('fs');
const [port, certificate, requests] = process.argv.slice(1);
const agent = new https.Agent({ keepAlive: true, maxSockets: 1, ca: fs.readFileSync(certificate) });
function ask(left) {
    if (left === 0) return agent.destroy();
    https.get({ host: 'localhost', port, agent }, (response) => {
        let body = '';
        response.on('data', (data) => body += data);
        response.on('end', () => { console.log(body.trim()); setImmediate(ask, left - 1); });
    });
}
ask(Number(requests));
";
    with_each_suite("node", |server, certificate| {
        let arguments = [
            "-e".to_owned(),
            SCRIPT.to_owned(),
            server.port().to_string(),
            certificate.to_str().unwrap().to_owned(),
            REQUESTS.to_string(),
        ];
        lines(&output_of("node", arguments))
    });
}

/// Asks, and changes keys in between: `K` asks the server for the same, `k` does not.
#[test]
fn openssl_that_changes_its_keys() {
    const SUITES: [CipherSuite; 3] =
        [TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256];
    if !tools::exists("openssl") {
        return;
    }
    for suite in SUITES {
        let server = Server::start(suite, None);
        let mut client = SClient::start(&server, &[]);
        for (migrations, command) in ["", "K", "k", "K", "K", "k"].into_iter().enumerate() {
            if !command.is_empty() {
                client.says(&format!("{command}\n"));
                client.waits_for("KEYUPDATE");
            }
            client.says("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
            client.waits_for(&format!("\r\n\r\n{migrations}\n"));
        }
        client.ends();
    }
}

#[test]
fn openssl_that_resumes_in_the_next_process() {
    if !tools::exists("openssl") {
        return;
    }
    for (suite, version) in
        [(TLS13_AES_128_GCM_SHA256, "-tls1_3"), (TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, "-tls1_2")]
    {
        let directory = tempfile::tempdir().unwrap();
        let session = directory.path().join("session");
        let session = session.to_str().unwrap();
        let tickets = Arc::new(Tickets::new(SystemTime::now()).unwrap());
        let identity = Identity::new(false);
        let visit = |tickets: &Arc<Tickets>, option: &str| {
            let server = Server::start_as(&Options::new(suite), &identity, Some(tickets.clone()));
            let mut client = SClient::start(&server, &[version, option, session]);
            client.says("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
            client.waits_for("\r\n\r\n0\n");
            client.ends()
        };
        let said = visit(&tickets, "-sess_out");
        assert!(said.contains("\nNew, "), "{said}");
        let next = Arc::new(Tickets::from_bytes(&tickets.to_bytes()).unwrap());
        let said = visit(&next, "-sess_in");
        assert!(said.contains("\nReused, "), "{said}");
        let other = Arc::new(Tickets::new(SystemTime::now()).unwrap());
        let said = visit(&other, "-sess_in");
        assert!(said.contains("\nNew, "), "{said}");
    }
}
