//! What a connection costs in the record layer and in rustls, beside tokio-rustls; and what a migration
//! costs.
//!
//! `cargo bench -p hotupdate-tls` prints times. With the name of a case, as `read/records`, only that is
//! done, for `perf stat -e instructions:u`; with `setup` behind it nothing but what comes before it, to be
//! subtracted.

#![allow(clippy::unwrap_used, reason = "a measurement that cannot go on says so")]
#![allow(clippy::print_stdout, reason = "it prints figures")]

use std::cell::RefCell;
use std::io::{self, Write as _};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use hotupdate_tls::{Acceptor, State, TlsStream};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};

#[cfg(feature = "aws-lc-rs")]
use rustls::crypto::aws_lc_rs as provider;
#[cfg(not(feature = "aws-lc-rs"))]
use rustls::crypto::ring as provider;

const RECORD: usize = 16 * 1024;
const RECORDS: usize = 2_000;
const EXCHANGES: usize = 20_000;
const WORD: usize = 100;

/// A transport in memory, of which both ends are here.
#[derive(Clone, Debug, Default)]
struct Wire(Rc<RefCell<Ends>>);

#[derive(Debug, Default)]
struct Ends {
    to_server: Vec<u8>,
    at: usize,
    to_client: Vec<u8>,
    /// What the server sends is not kept.
    deaf: bool,
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let ends = &mut *self.0.borrow_mut();
        let rest = &ends.to_server[ends.at..];
        if rest.is_empty() {
            return Poll::Pending;
        }
        let count = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..count]);
        ends.at += count;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let ends = &mut *self.0.borrow_mut();
        if !ends.deaf {
            ends.to_client.extend_from_slice(bytes);
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn now<F: Future>(future: F) -> Option<F::Output> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

fn configs() -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let identity = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(identity.signing_key.serialize_der()).unwrap();
    let mut crypto = provider::default_provider();
    let aes = rustls::CipherSuite::TLS13_AES_128_GCM_SHA256;
    crypto.cipher_suites.retain(|suite| suite.suite() == aes);
    let crypto = Arc::new(crypto);
    let mut roots = RootCertStore::empty();
    roots.add(identity.cert.der().clone()).unwrap();
    let server =
        ServerConfig::builder_with_provider(crypto.clone()).with_safe_default_protocol_versions().unwrap();
    let server =
        server.with_no_client_auth().with_single_cert(vec![identity.cert.der().clone()], key).unwrap();
    let client = ClientConfig::builder_with_provider(crypto).with_safe_default_protocol_versions().unwrap();
    (Arc::new(server), Arc::new(client.with_root_certificates(roots).with_no_client_auth()))
}

/// What tokio-rustls yields, and what this crate does.
type Theirs = tokio_rustls::server::TlsStream<Wire>;
type Ours = TlsStream<Wire>;

struct Pair<S> {
    client: ClientConnection,
    wire: Wire,
    server: S,
}

impl Pair<Ours> {
    fn new(acceptor: &Acceptor, client: Arc<ClientConfig>) -> Self {
        let acceptor = acceptor.clone();
        Self::accepted(client, |wire| Box::pin(async move { acceptor.accept(wire).await }))
    }
}

impl<S> Pair<S> {
    fn accepted(
        client: Arc<ClientConfig>,
        accept: impl FnOnce(Wire) -> Pin<Box<dyn Future<Output = io::Result<S>>>>,
    ) -> Self {
        let mut client = ClientConnection::new(client, ServerName::try_from("localhost").unwrap()).unwrap();
        let wire = Wire::default();
        let mut accept = accept(wire.clone());
        let server = loop {
            while client.wants_write() {
                client.write_tls(&mut wire.0.borrow_mut().to_server).unwrap();
            }
            if let Some(server) = now(accept.as_mut()) {
                break server.unwrap();
            }
            let bytes = std::mem::take(&mut wire.0.borrow_mut().to_client);
            let mut bytes = &bytes[..];
            while !bytes.is_empty() {
                client.read_tls(&mut bytes).unwrap();
                client.process_new_packets().unwrap();
            }
        };
        drop(accept);
        wire.0.borrow_mut().deaf = true;
        Self { client, wire, server }
    }

    fn client_says(&mut self, bytes: &[u8]) {
        self.client.writer().write_all(bytes).unwrap();
        let ends = &mut *self.wire.0.borrow_mut();
        while self.client.wants_write() {
            self.client.write_tls(&mut ends.to_server).unwrap();
        }
    }
}

fn migrate(server: Ours) -> (Ours, usize) {
    let (io, state) = server.into_state().unwrap();
    let bytes = state.to_bytes();
    drop(state);
    (TlsStream::from_state(io, State::from_bytes(&bytes).unwrap()).unwrap(), bytes.len())
}

fn read_all(server: &mut (impl AsyncRead + Unpin), buffer: &mut [u8], mut left: usize) {
    while left > 0 {
        left -= now(server.read(buffer)).unwrap().unwrap();
    }
}

struct Measurement {
    server: Arc<ServerConfig>,
    acceptor: Acceptor,
    client: Arc<ClientConfig>,
    only_setup: bool,
}

impl Measurement {
    fn take(&self, case: &str) -> Duration {
        let (what, engine) = case.split_once('/').unwrap();
        if engine == "tokio-rustls" {
            let accept = tokio_rustls::TlsAcceptor::from(self.server.clone());
            let pair: Pair<Theirs> = Pair::accepted(self.client.clone(), |wire| {
                Box::pin(async move { accept.accept(wire).await })
            });
            return self.run(what, pair, |server| server);
        }
        let pair = Pair::new(&self.acceptor, self.client.clone());
        self.run(what, pair, |server| if engine == "records" { migrate(server).0 } else { server })
    }

    fn run<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        what: &str,
        mut pair: Pair<S>,
        prepare: impl FnOnce(S) -> S,
    ) -> Duration {
        let text = vec![7; RECORD];
        match what {
            "read" => (0..RECORDS).for_each(|_| pair.client_says(&text)),
            "exchange" => (0..EXCHANGES).for_each(|_| pair.client_says(&text[..WORD])),
            _ => {}
        }
        let mut server = prepare(pair.server);
        let mut buffer = vec![0; 64 * 1024];
        let begin = Instant::now();
        match what {
            _ if self.only_setup => {}
            "read" => read_all(&mut server, &mut buffer, RECORDS * RECORD),
            "write" => (0..RECORDS).for_each(|_| {
                now(server.write_all(&text)).unwrap().unwrap();
                now(server.flush()).unwrap().unwrap();
            }),
            "exchange" => (0..EXCHANGES).for_each(|_| {
                read_all(&mut server, &mut buffer[..WORD], WORD);
                now(server.write_all(&text[..WORD])).unwrap().unwrap();
                now(server.flush()).unwrap().unwrap();
            }),
            _ => panic!("there is no case {what}"),
        }
        begin.elapsed()
    }
}

/// The least of some.
fn least(mut measure: impl FnMut() -> Duration) -> Duration {
    (0..7).map(|_| measure()).min().unwrap()
}

fn main() {
    let (server, client) = configs();
    let acceptor = Acceptor::new(server.clone()).migratable(true);
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let only_setup = arguments.get(1).is_some_and(|word| word == "setup");
    let measurement = Measurement {
        server: server.clone(),
        acceptor: acceptor.clone(),
        client: client.clone(),
        only_setup,
    };
    if let Some(case) = arguments.first() {
        measurement.take(case);
        return;
    }
    for (what, unit, count) in [
        ("read", "record of 16 KiB", RECORDS),
        ("write", "record of 16 KiB", RECORDS),
        ("exchange", "exchange", EXCHANGES),
    ] {
        for engine in ["tokio-rustls", "rustls", "records"] {
            let took = least(|| measurement.take(&format!("{what}/{engine}")));
            println!("{what:8} {engine:12} {:9.3} us per {unit}", took.as_secs_f64() * 1e6 / count as f64);
        }
    }
    migrations(&acceptor, &client);
    for (name, acceptor) in [("rustls alone", Acceptor::new(server)), ("migratable", acceptor)] {
        let took = least(|| {
            let begin = Instant::now();
            (0..50).for_each(|_| drop(Pair::new(&acceptor, client.clone())));
            begin.elapsed()
        });
        println!("handshake, both sides, {name:12} {:9.1} us", took.as_secs_f64() * 1e6 / 50.0);
    }
}

fn migrations(acceptor: &Acceptor, client: &Arc<ClientConfig>) {
    const FIRST: usize = 200;
    const LATER: usize = 5_000;
    let mut size = 0;
    let first = least(|| {
        let servers: Vec<_> = (0..FIRST).map(|_| Pair::new(acceptor, client.clone()).server).collect();
        let begin = Instant::now();
        for server in servers {
            size = migrate(server).1;
        }
        begin.elapsed()
    });
    let later = least(|| {
        let mut server = migrate(Pair::new(acceptor, client.clone()).server).0;
        let begin = Instant::now();
        for _ in 0..LATER {
            server = migrate(server).0;
        }
        begin.elapsed()
    });
    println!(
        "migration, first {:6.2} us, later {:6.2} us, state {size} bytes",
        first.as_secs_f64() * 1e6 / FIRST as f64,
        later.as_secs_f64() * 1e6 / LATER as f64
    );
}
