//! A small HTTP/1.1 server whose connections migrate after each response. It says how often one has.

use std::io;
use std::sync::Arc;

use hotupdate_tls::{State, Tickets, TlsStream};
use rustls::CipherSuite;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

use crate::common::pair::{Identity, Options};

pub(crate) struct Server {
    port: u16,
    directory: TempDir,
    /// Its tasks end with it.
    _runtime: Runtime,
}

impl Server {
    pub(crate) fn start(suite: CipherSuite) -> Self {
        Self::with(&Options::new(suite))
    }

    pub(crate) fn with(options: &Options) -> Self {
        Self::start_as(options, &Identity::new(options.rsa), None)
    }

    pub(crate) fn start_as(options: &Options, identity: &Identity, tickets: Option<Arc<Tickets>>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("certificate.pem"), &identity.pem).unwrap();
        std::fs::write(directory.path().join("key.pem"), &identity.key_pem).unwrap();
        let (mut config, _) = options.configs_of(identity);
        if let Some(tickets) = tickets {
            config.ticketer = tickets;
        }
        let acceptor = options.acceptor(config);
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let port = listener.local_addr().unwrap().port();
        runtime.spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    // A client that goes is no failure of this test: what it has seen is.
                    let Ok(stream) = acceptor.accept(socket).await else { return };
                    let _ = serve(stream).await;
                });
            }
        });
        Self { port, directory, _runtime: runtime }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn url(&self) -> String {
        format!("https://localhost:{}/", self.port)
    }

    /// Its certificate, and that of clients that have one.
    pub(crate) fn certificate(&self) -> String {
        self.file("certificate.pem")
    }

    pub(crate) fn key(&self) -> String {
        self.file("key.pem")
    }

    fn file(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().unwrap().to_owned()
    }
}

async fn serve(mut stream: TlsStream<TcpStream>) -> io::Result<()> {
    let mut unread = Vec::new();
    let mut migrations = 0;
    while read_request(&mut stream, &mut unread).await? {
        let body = format!("{migrations}\n");
        let exported = exported(&stream);
        let head =
            format!("HTTP/1.1 200 OK\r\nExported: {exported}\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(format!("{head}{body}").as_bytes()).await?;
        stream.flush().await?;
        stream.give_back(&std::mem::take(&mut unread));
        let agreed = stream.negotiated().clone();
        stream = migrate(stream)?;
        migrations += 1;
        assert_eq!(*stream.negotiated(), agreed);
    }
    stream.shutdown().await
}

pub(crate) const LABEL: &str = "EXPORTER-hotupdate-tls";

/// Keying material, as hexadecimal digits, as far as there is any.
fn exported(stream: &TlsStream<TcpStream>) -> String {
    let mut material = [0; 20];
    match stream.export_keying_material(&mut material, LABEL, None) {
        Ok(()) => material.iter().map(|byte| format!("{byte:02x}")).collect(),
        Err(_) => "none".to_owned(),
    }
}

/// Takes a head and its body. `false` at the end.
async fn read_request(stream: &mut TlsStream<TcpStream>, unread: &mut Vec<u8>) -> io::Result<bool> {
    loop {
        if let Some(end) = unread.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&unread[..end]).to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let whole = end + 4 + length.map_or(0, |length| length.parse().unwrap());
            if unread.len() >= whole {
                unread.drain(..whole);
                return Ok(true);
            }
        }
        if stream.read_buf(unread).await? == 0 {
            return Ok(false);
        }
    }
}

/// As between two processes: only the socket and bytes are left.
fn migrate(stream: TlsStream<TcpStream>) -> io::Result<TlsStream<TcpStream>> {
    let (socket, state) = stream.into_state().map_err(io::Error::other)?;
    let bytes = state.to_bytes();
    drop(state);
    TlsStream::from_state(socket, State::from_bytes(&bytes).unwrap()).map_err(io::Error::other)
}
