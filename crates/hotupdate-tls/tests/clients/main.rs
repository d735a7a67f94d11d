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

use std::sync::Arc;
use std::time::SystemTime;

use common::pair::{Identity, Options};
use common::provider::{PROVIDERS, provider};
use hotupdate_tls::Tickets;
use rustls::CipherSuite::{
    self, TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384,
    TLS13_CHACHA20_POLY1305_SHA256,
};
use server::Server;
use tools::{SClient, output_of};

/// How often each client asks.
const REQUESTS: usize = 6;

/// Each suite of each provider, with each kind of certificate that it takes, and with and without a
/// certificate of the client.
fn all_options() -> impl Iterator<Item = Options> {
    let suites = |which| provider(which).cipher_suites.into_iter().map(move |suite| (which, suite.suite()));
    let suites = PROVIDERS.iter().copied().flat_map(suites);
    let kinds = suites.flat_map(|(which, suite)| {
        let options = Options { provider: which, keep_exporter: true, ..Options::new(suite) };
        let other = is_tls13(suite).then(|| Options { rsa: true, ..options.clone() });
        [options].into_iter().chain(other)
    });
    kinds.flat_map(|options| [Options { client_certificate: true, ..options.clone() }, options])
}

fn is_tls13(suite: CipherSuite) -> bool {
    format!("{suite:?}").starts_with("TLS13")
}

/// A server with all options, and a client that asks it, if the client exists here.
fn with_all_options(tool: &str, ask: impl Fn(&Server, &Options) -> String) {
    if !tools::exists(tool) {
        return;
    }
    for options in all_options() {
        let server = Server::with(&options);
        let answers = ask(&server, &options);
        let expected: Vec<String> = (0..REQUESTS).map(|migrations| migrations.to_string()).collect();
        assert_eq!(answers.lines().collect::<Vec<_>>(), expected, "{tool}, {options:?}");
    }
}

/// Port, certificate, how often to ask, and a key if the client is to show that certificate.
fn arguments(server: &Server, options: &Options) -> Vec<String> {
    let key = options.client_certificate.then(|| server.key());
    let usual = [server.port().to_string(), server.certificate(), REQUESTS.to_string()];
    usual.into_iter().chain(key).collect()
}

#[test]
fn curl() {
    with_all_options("curl", |server, options| {
        let mut arguments = ["-sS", "--max-time", "60", "--cacert"].map(str::to_owned).to_vec();
        arguments.push(server.certificate());
        if options.client_certificate {
            arguments.extend(["--cert".to_owned(), server.certificate(), "--key".to_owned(), server.key()]);
        }
        output_of("curl", arguments.into_iter().chain((0..REQUESTS).map(|_| server.url())))
    });
}

#[test]
fn python() {
    const SCRIPT: &str = "
import http.client, ssl, sys
port, certificate, requests, *key = sys.argv[1:]
context = ssl.create_default_context(cafile=certificate)
if key:
    context.load_cert_chain(certificate, key[0])
connection = http.client.HTTPSConnection('localhost', int(port), context=context, timeout=60)
for _ in range(int(requests)):
    connection.request('POST', '/', body=b'x' * 50000)
    print(connection.getresponse().read().decode().strip())
    connection.auto_open = False
";
    with_all_options("python3", |server, options| {
        let script = ["-c".to_owned(), SCRIPT.to_owned()];
        output_of("python3", script.into_iter().chain(arguments(server, options)))
    });
}

#[test]
fn node() {
    const SCRIPT: &str = "
const https = require('https'), fs = require('fs');
const [port, certificate, requests, key] = process.argv.slice(1);
const ca = fs.readFileSync(certificate), own = key ? { cert: ca, key: fs.readFileSync(key) } : {};
const agent = new https.Agent({ keepAlive: true, maxSockets: 1, ca, ...own });
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
    with_all_options("node", |server, options| {
        let script = ["-e".to_owned(), SCRIPT.to_owned()];
        output_of("node", script.into_iter().chain(arguments(server, options)))
    });
}

/// It also compares the keying material that both sides export.
#[test]
fn go() {
    const SCRIPT: &str = r#"
package main

import ("crypto/tls"; "crypto/x509"; "fmt"; "io"; "net"; "net/http"; "os"; "strconv"; "strings")

func check(err error) { if err != nil { fmt.Println(err); os.Exit(1) } }

func main() {
	pem, err := os.ReadFile(os.Args[2]); check(err)
	config := &tls.Config{RootCAs: x509.NewCertPool(), ServerName: "localhost"}
	config.RootCAs.AppendCertsFromPEM(pem)
	if len(os.Args) > 5 {
		own, err := tls.LoadX509KeyPair(os.Args[2], os.Args[5]); check(err)
		config.Certificates = []tls.Certificate{own}
	}
	var connection *tls.Conn
	client := &http.Client{Transport: &http.Transport{DialTLS: func(network, address string) (net.Conn, error) {
		if connection != nil { check(fmt.Errorf("it connects again")) }
		connection, err = tls.Dial(network, address, config)
		return connection, err
	}}}
	times, err := strconv.Atoi(os.Args[3]); check(err)
	for i := 0; i < times; i++ {
		response, err := client.Post("https://localhost:" + os.Args[1], "text/plain", strings.NewReader(strings.Repeat("x", 50000))); check(err)
		body, err := io.ReadAll(response.Body); check(err)
		response.Body.Close()
		state := connection.ConnectionState()
		material, err := state.ExportKeyingMaterial(os.Args[4], nil, 20); check(err)
		exported := response.Header.Get("Exported")
		if exported != fmt.Sprintf("%x", material) && (state.Version == tls.VersionTLS13 || exported != "none") {
			check(fmt.Errorf("exported: %s and %x", exported, material))
		}
		fmt.Print(string(body))
	}
}
"#;
    if !tools::exists("go") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let [source, program] = ["client.go", "client"].map(|name| directory.path().join(name));
    std::fs::write(&source, SCRIPT).unwrap();
    tools::build_go(&source, &program);
    with_all_options("go", |server, options| {
        let mut arguments = arguments(server, options);
        arguments.insert(3, server::LABEL.to_owned());
        output_of(program.to_str().unwrap(), arguments)
    });
}

/// `-keymatexport` shows what the client exports.
#[test]
fn openssl_that_exports() {
    if !tools::exists("openssl") {
        return;
    }
    for options in all_options().filter(|options| is_tls13(options.suite)) {
        let server = Server::with(&options);
        let (certificate, key) = (server.certificate(), server.key());
        let mut arguments = vec!["-keymatexport", server::LABEL, "-keymatexportlen", "20"];
        if options.client_certificate {
            arguments.extend(["-cert", &certificate, "-key", &key]);
        }
        let mut client = SClient::start(&server, &arguments);
        for migrations in 0..3 {
            client.says("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
            client.waits_for(&format!("\r\n\r\n{migrations}\n"));
        }
        let said = client.ends();
        let after = |begin| said.lines().filter_map(move |line| line.trim().strip_prefix(begin));
        let exports = after("Keying material: ").map(str::to_lowercase).next().unwrap();
        assert_eq!(after("Exported: ").collect::<Vec<_>>(), [&*exports; 3], "{options:?}");
    }
}

/// TLS 1.2 with each suite and each kind of certificate; what its clients export is not known here.
#[test]
fn openssl_of_tls12() {
    if !tools::exists("openssl") {
        return;
    }
    for options in all_options().filter(|options| !is_tls13(options.suite)) {
        let server = Server::with(&options);
        let (certificate, key) = (server.certificate(), server.key());
        let mut arguments = vec!["-tls1_2"];
        if options.client_certificate {
            arguments.extend(["-cert", &certificate, "-key", &key]);
        }
        let mut client = SClient::start(&server, &arguments);
        for migrations in 0..REQUESTS {
            client.says("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
            client.waits_for(&format!("\r\n\r\n{migrations}\n"));
        }
        let said = client.ends();
        assert!(said.contains("Exported: none"), "{options:?}: {said}");
    }
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
        let server = Server::start(suite);
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
fn openssl_that_resumes_in_the_next_two_processes() {
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
        let mut next = tickets;
        for _ in 0..2 {
            next = Arc::new(Tickets::from_bytes(&next.to_bytes()).unwrap());
            let said = visit(&next, "-sess_in");
            assert!(said.contains("\nReused, "), "{said}");
        }
        let other = Arc::new(Tickets::new(SystemTime::now()).unwrap());
        let said = visit(&other, "-sess_in");
        assert!(said.contains("\nNew, "), "{said}");
    }
}
