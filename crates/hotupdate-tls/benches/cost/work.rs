//! What a server does over and over.

use std::io::{self, IoSlice};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::peers::Server;

/// As many bytes as the requests and responses of small services have.
pub(crate) const REQUEST: usize = 150;
const HEAD: usize = 120;
const BODY: usize = 60;
pub(crate) const RESPONSE: usize = HEAD + BODY;

/// What is read or written at once when there is much.
pub(crate) const CHUNK: usize = 64 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// A request and a response.
    Exchange,
    /// A chunk that the client sends.
    Read,
    Write,
}

impl Work {
    pub(crate) const ALL: [Self; 3] = [Self::Exchange, Self::Read, Self::Write];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Exchange => "exchange",
            Self::Read => "64 KiB read",
            Self::Write => "64 KiB written",
        }
    }

    pub(crate) fn requested(self) -> usize {
        match self {
            Self::Exchange => REQUEST,
            Self::Read => CHUNK,
            Self::Write => 0,
        }
    }

    pub(crate) fn answered(self) -> usize {
        match self {
            Self::Exchange => RESPONSE,
            Self::Read => 0,
            Self::Write => CHUNK,
        }
    }

    pub(crate) async fn run(self, server: &mut Server, times: usize) -> io::Result<()> {
        let text = vec![7; CHUNK];
        let mut buffer = vec![0; CHUNK];
        for _ in 0..times {
            match self {
                Self::Exchange => {
                    let mut left = REQUEST;
                    while left > 0 {
                        left -= server.read(&mut buffer[..8192]).await?;
                    }
                    let pieces = [IoSlice::new(&text[..HEAD]), IoSlice::new(&text[..BODY])];
                    assert_eq!(server.write_vectored(&pieces).await?, RESPONSE);
                }
                Self::Read => {
                    server.read_exact(&mut buffer).await?;
                }
                Self::Write => server.write_all(&text).await?,
            }
            server.flush().await?;
        }
        Ok(())
    }
}

/// The median of some, which come in any order.
pub(crate) fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
