//! Which protocol a client speaks, by its first bytes.
//!
//! Deliberately absent: TLS and ALPN, and `Upgrade: h2c`, which RFC 9113 has removed. Own code instead of
//! `hyper_util::server::conn::auto`, because a connection has to stay reachable: an idle one is taken out of
//! hyper.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, ReadBuf};

/// What a client that knows that we speak HTTP/2 says first (RFC 9113, section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What the client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    Http2,
}

/// How much is read at a time: most requests as a whole. The buffer is on the stack, so a connection that
/// says nothing costs none.
const GLANCE: usize = 2048;

/// Reads into `seen` until the protocol is known; `None` when the client went away before that. What is
/// behind the preface may be in there, too.
///
/// Safe to cancel: what was read is in `seen`, and the next call goes on with it.
pub(crate) async fn detect(
    io: &mut (impl AsyncRead + Unpin),
    seen: &mut BytesMut,
) -> io::Result<Option<Protocol>> {
    loop {
        let differs = !PREFACE.starts_with(&seen[..seen.len().min(PREFACE.len())]);
        if differs || (!cfg!(feature = "http2") && !seen.is_empty()) {
            return Ok(Some(Protocol::Http1));
        }
        if seen.len() >= PREFACE.len() {
            return Ok(Some(Protocol::Http2));
        }
        if read(io, seen).await? == 0 {
            return Ok(None);
        }
    }
}

async fn read(io: &mut (impl AsyncRead + Unpin), seen: &mut BytesMut) -> io::Result<usize> {
    poll_fn(|cx| {
        let mut bytes = [MaybeUninit::uninit(); GLANCE];
        let mut bytes = ReadBuf::uninit(&mut bytes);
        ready!(Pin::new(&mut *io).poll_read(cx, &mut bytes))?;
        seen.extend_from_slice(bytes.filled());
        Poll::Ready(Ok(bytes.filled().len()))
    })
    .await
}

/// As [`detect`] for a client that has said before what it speaks: waits until it says something again,
/// without a buffer until then.
pub(crate) async fn wait_for_more(
    io: &mut (impl AsyncRead + Unpin),
    seen: &mut BytesMut,
    protocol: Protocol,
) -> io::Result<Option<Protocol>> {
    if seen.is_empty() {
        read(io, seen).await?;
    }
    Ok((!seen.is_empty()).then_some(protocol))
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    async fn detected(pieces: &[&[u8]]) -> (Option<Protocol>, BytesMut) {
        let (mut client, mut server) = tokio::io::duplex(64);
        let mut seen = BytesMut::new();
        for piece in pieces {
            client.write_all(piece).await.unwrap();
            // Dropped after one poll: a cancelled call must not lose a byte.
            if let Some(done) = detect(&mut server, &mut seen).now_or_never() {
                return (done.unwrap(), seen);
            }
        }
        drop(client);
        (detect(&mut server, &mut seen).await.unwrap(), seen)
    }

    #[tokio::test]
    async fn http1_is_known_at_the_first_byte_that_differs() {
        assert_eq!(detected(&[b"G"]).await, (Some(Protocol::Http1), BytesMut::from("G")));
        assert_eq!(detected(&[b"P", b"O"]).await, (Some(Protocol::Http1), BytesMut::from("PO")));
        assert_eq!(detected(&[b"PRI /"]).await.0, Some(Protocol::Http1));
    }

    #[tokio::test]
    async fn http2_in_one_piece_or_byte_by_byte() {
        let whole: &[u8] = PREFACE;
        let bytes: Vec<_> = whole.chunks(1).collect();
        assert_eq!(detected(&[whole]).await, (Some(Protocol::Http2), BytesMut::from(whole)));
        assert_eq!(detected(&bytes).await, (Some(Protocol::Http2), BytesMut::from(whole)));
    }

    #[tokio::test]
    async fn what_is_behind_the_preface_or_a_first_byte_is_kept() {
        let mut more = PREFACE.to_vec();
        more.extend_from_slice(b"\0\0\0");
        assert_eq!(detected(&[&more]).await, (Some(Protocol::Http2), BytesMut::from(&more[..])));
        let more = b"PRI * HTTP/1.1\r\nHost: localhost\r\n";
        assert_eq!(detected(&[more]).await, (Some(Protocol::Http1), BytesMut::from(&more[..])));
    }

    #[tokio::test]
    async fn a_client_that_leaves_first() {
        assert_eq!(detected(&[]).await, (None, BytesMut::new()));
        assert_eq!(detected(&[b"PRI * HT"]).await.0, None);
    }
}
