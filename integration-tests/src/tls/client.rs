//! A client with one connection.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CipherSuite, ClientConfig, HandshakeKind, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::Keys;
use crate::client::parse_pid;

/// Clients that trust the certificate in `directory` and tell `keys` theirs. They resume sessions.
///
/// # Panics
///
/// If there is no certificate.
#[must_use]
pub fn config(directory: &Path, keys: &Arc<Keys>) -> Arc<ClientConfig> {
    let mut crypto = rustls::crypto::ring::default_provider();
    // The one that `Flow::check` understands.
    crypto.cipher_suites.retain(|suite| suite.suite() == CipherSuite::TLS13_AES_128_GCM_SHA256);
    let mut roots = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_file(directory.join("cert.pem")).expect("a certificate");
    roots.add(certificate).expect("a certificate that can be trusted");
    let mut config = ClientConfig::builder_with_provider(Arc::new(crypto))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the suite is one of TLS 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.key_log = keys.clone();
    Arc::new(config)
}

/// Its connection is made once, and so is its handshake.
#[derive(Debug)]
pub struct Client {
    stream: TlsStream<TcpStream>,
    unread: Vec<u8>,
    asked: usize,
}

impl Client {
    /// Shakes hands.
    ///
    /// # Errors
    ///
    /// If that fails.
    pub async fn connect(config: &Arc<ClientConfig>, address: SocketAddr) -> anyhow::Result<Self> {
        let socket = TcpStream::connect(address).await.context("connecting")?;
        let name = ServerName::try_from("localhost").expect("it is a name");
        let stream =
            TlsConnector::from(config.clone()).connect(name, socket).await.context("shaking hands")?;
        Ok(Self { stream, unread: Vec::new(), asked: 0 })
    }

    /// Whether it has resumed a session.
    #[must_use]
    pub fn resumed(&self) -> bool {
        self.stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// Asks which process answers.
    ///
    /// # Errors
    ///
    /// If none does.
    pub async fn who(&mut self) -> anyhow::Result<u32> {
        parse_pid(std::str::from_utf8(&self.get("/").await?)?)
    }

    /// Asks for something.
    ///
    /// # Errors
    ///
    /// If there is no answer.
    pub async fn get(&mut self, path: &str) -> anyhow::Result<Vec<u8>> {
        self.ask(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).await
    }

    /// Says something that it has not said before, of another length each time, and hears all of it again.
    ///
    /// # Errors
    ///
    /// If it does not.
    pub async fn echo(&mut self) -> anyhow::Result<()> {
        self.asked += 1;
        let length = 1 + self.asked * 7919 % 40_000;
        let said: Vec<u8> = (0..length).map(|at| (at * 31 + self.asked * 17) as u8).collect();
        let head = format!("POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n");
        let heard = self.ask(&[head.as_bytes(), &said].concat()).await?;
        if heard != said {
            bail!("request {}: another answer, {} bytes for {length}", self.asked, heard.len());
        }
        Ok(())
    }

    /// Begins a request that [`finish`](Self::finish) ends: until then no process can end that has it.
    ///
    /// # Errors
    ///
    /// If it cannot be sent.
    pub async fn begin(&mut self) -> anyhow::Result<()> {
        self.stream.write_all(b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\n").await?;
        Ok(self.stream.flush().await?)
    }

    /// Ends it, and waits for the answer.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub async fn finish(&mut self) -> anyhow::Result<()> {
        self.stream.write_all(b"x").await?;
        self.stream.flush().await?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\nx") {
            if self.stream.read_buf(&mut answer).await.context("reading a response")? == 0 {
                bail!("closed after {} bytes of a response", answer.len());
            }
        }
        Ok(())
    }

    async fn ask(&mut self, request: &[u8]) -> anyhow::Result<Vec<u8>> {
        if !self.unread.is_empty() {
            bail!("{} bytes that no request has asked for", self.unread.len());
        }
        self.stream.write_all(request).await.context("sending a request")?;
        self.stream.flush().await.context("sending a request")?;
        loop {
            if let Some((head, length)) = head(&self.unread)?
                && self.unread.len() >= head + length
            {
                let body = self.unread[head..head + length].to_vec();
                self.unread.drain(..head + length);
                return Ok(body);
            }
            if self.stream.read_buf(&mut self.unread).await.context("reading a response")? == 0 {
                bail!("closed after {} bytes of a response", self.unread.len());
            }
        }
    }
}

/// The length of the head and of the body.
fn head(response: &[u8]) -> anyhow::Result<Option<(usize, usize)>> {
    let Some(end) = response.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&response[..end])?.to_ascii_lowercase();
    if !head.starts_with("http/1.1 200 ") {
        bail!("{:?}", head.lines().next());
    }
    if head.contains("connection: close") {
        bail!("told to close");
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).context("no length")?;
    Ok(Some((end + 4, length.parse()?)))
}
