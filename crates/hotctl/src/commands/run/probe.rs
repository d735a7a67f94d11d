//! Asking COMMAND over HTTP whether it is ready, at an address where no other version answers: over a
//! listener that is shared, the version before might.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::client::conn::http1::handshake;
use hyper::header::HOST;
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// What `--ready-http` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Target {
    /// A path, on a listener that is made for each version.
    Path(String),
    /// Elsewhere: host, port, and path.
    Url(String, u16, String),
}

/// One address to ask.
#[derive(Clone, Debug)]
pub(super) struct Probe {
    pub(super) at: String,
    pub(super) path: String,
}

/// `Ok` if it is ready, else why not.
pub(super) type Answer = Result<(), String>;

impl Target {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        const FORMS: &str = "a path as in /health, or http://HOST:PORT/PATH";
        let uri: Uri = text.parse().map_err(|error| format!("{error}; it is {FORMS}"))?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        match (uri.scheme_str(), uri.host()) {
            (None, None) if path.starts_with('/') => Ok(Self::Path(path)),
            (Some("http"), Some(host)) => Ok(Self::Url(host.to_owned(), uri.port_u16().unwrap_or(80), path)),
            _ => Err(format!("it is {FORMS}")),
        }
    }
}

impl Probe {
    pub(super) fn at(address: SocketAddr, path: &str) -> Self {
        Self { at: address.to_string(), path: path.to_owned() }
    }

    pub(super) fn elsewhere(host: &str, port: u16, path: &str) -> Self {
        Self { at: format!("{host}:{port}"), path: path.to_owned() }
    }

    /// Whether a process answers, which cannot be COMMAND before it is started.
    pub(super) async fn is_taken(&self, within: Duration) -> bool {
        matches!(timeout(within, TcpStream::connect(&self.at)).await, Ok(Ok(_)))
    }

    pub(super) async fn ask(self, within: Duration) -> Answer {
        match timeout(within, self.get()).await {
            Ok(Ok(status)) if status.is_success() || status.is_redirection() => Ok(()),
            Ok(Ok(status)) => Err(format!("{self} answers {status}")),
            Ok(Err(error)) => Err(format!("{self}: {error}")),
            Err(_) => Err(format!("{self} does not answer within {}", crate::text::duration(within))),
        }
    }

    async fn get(&self) -> io::Result<StatusCode> {
        let stream = TcpStream::connect(&self.at).await?;
        let (mut sender, connection) = handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        let request = Request::get(&self.path).header(HOST, &self.at).body(Empty::<Bytes>::new());
        let request = request.map_err(io::Error::other)?;
        let ask = async { sender.send_request(request).await.map(|response| response.status()) };
        tokio::select! {
            answer = ask => answer,
            ended = connection => Err(match ended {
                Ok(()) => return Err(io::ErrorKind::ConnectionReset.into()),
                Err(error) => error,
            }),
        }
        .map_err(io::Error::other)
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.at, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_path_or_a_url() {
        assert_eq!(Target::parse("/health?full=1"), Ok(Target::Path("/health?full=1".to_owned())));
        let url = Target::Url("127.0.0.1".to_owned(), 9000, "/".to_owned());
        assert_eq!(Target::parse("http://127.0.0.1:9000"), Ok(url));
        for wrong in ["", "health", "https://x/", "http:///x", "*"] {
            assert!(Target::parse(wrong).is_err(), "{wrong}");
        }
    }
}
