//! Event streams, WebSockets and HTTP/2 that end politely, and that do not.
//!
//! Deliberately absent: servers that behave for ever, see `good.rs`.

use bytes::Bytes;
use futures_util::StreamExt;
use h2::Reason;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::server::{each, scripted};
use super::{FailureClass, Kind, assert_only, tally_of};

const EVENTS: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n\
    9\r\ndata: 1\n\n\r\n";

#[test]
fn an_event_stream_may_end_with_its_last_chunk() {
    let whole = format!("{EVENTS}0\r\n\r\n");
    let tally = tally_of(Kind::Sse, scripted([&whole]), 3);
    assert_eq!(tally.failed(), 0, "{:?}", tally.texts);
    assert!(tally.asked >= 2 && tally.events >= 2, "{tally:?}");
}

#[test]
fn an_event_stream_may_not_end_otherwise() {
    assert_only(&tally_of(Kind::Sse, scripted([EVENTS]), 4), FailureClass::BadBody);
}

#[test]
fn an_event_stream_has_to_be_one() {
    let server = scripted(["HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"]);
    assert_only(&tally_of(Kind::Sse, server, 2), FailureClass::BadStatus);
}

/// Echoes two messages, then closes with this code, or without a word.
async fn two_echoes(stream: TcpStream, code: Option<CloseCode>) {
    use futures_util::SinkExt;
    let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else { return };
    for _ in 0..2 {
        let Some(Ok(message)) = socket.next().await else { return };
        let _sent = socket.send(message).await;
    }
    let Some(code) = code else { return };
    let _sent = socket.close(Some(CloseFrame { code, reason: "".into() })).await;
    while let Some(Ok(Message::Text(_))) = socket.next().await {}
}

#[test]
fn a_websocket_may_close_when_it_goes_away() {
    for code in [CloseCode::Away, CloseCode::Restart] {
        let server = each(move |stream, _| two_echoes(stream, Some(code)));
        let tally = tally_of(Kind::WebSocket, server, 10);
        assert_eq!(tally.failed(), 0, "{:?}", tally.texts);
        assert!(tally.asked >= 4 && tally.answered >= 10, "{tally:?}");
    }
}

#[test]
fn a_message_that_crosses_the_close_frame_is_counted_apart() {
    use futures_util::SinkExt;
    let server = each(|stream, _| async move {
        let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else { return };
        let first = socket.next().await;
        if let Some(Ok(message)) = first {
            let _sent = socket.send(message).await;
        }
        // Reads the second message, and closes instead of echoing it.
        let _second = socket.next().await;
        let _sent = socket.close(Some(CloseFrame { code: CloseCode::Restart, reason: "".into() })).await;
        while let Some(Ok(_)) = socket.next().await {}
    });
    let tally = tally_of(Kind::WebSocket, server, 5);
    assert_eq!(tally.failed(), 0, "{:?}", tally.texts);
    assert!(tally.unechoed >= 4 && tally.unechoed == tally.asked, "{tally:?}");
}

#[test]
fn a_websocket_may_not_end_otherwise() {
    let server = each(|stream, _| two_echoes(stream, Some(CloseCode::Error)));
    assert_only(&tally_of(Kind::WebSocket, server, 6), FailureClass::Other);
    let server = each(|stream, _| two_echoes(stream, None));
    let tally = tally_of(Kind::WebSocket, server, 6);
    assert!(tally.failed() >= 1, "{tally:?}");
    assert!(!tally.failures.contains_key(&FailureClass::Other), "{:?}", tally.texts);
}

/// How an HTTP/2 server ends a connection after some requests.
#[derive(Clone, Copy)]
enum Manner {
    GoAway,
    RefuseEverySixth,
    Cut,
    Complain,
}

async fn http2(stream: TcpStream, manner: Manner) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    let mut served = 0;
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        served += 1;
        match (manner, served % 6) {
            (Manner::RefuseEverySixth, 0) => {
                respond.send_reset(Reason::REFUSED_STREAM);
                continue;
            }
            (Manner::GoAway, 0) => connection.graceful_shutdown(),
            (Manner::Cut, 0) => return,
            (Manner::Complain, 0) => connection.abrupt_shutdown(Reason::INTERNAL_ERROR),
            _ => {}
        }
        let body: &'static [u8] = if request.uri().path() == "/version" { b"v1" } else { b"ospid:7" };
        if let Ok(mut stream) = respond.send_response(http::Response::new(()), false) {
            let _sent = stream.send_data(Bytes::from_static(body), true);
        }
    }
}

#[test]
fn goaway_is_a_request_to_come_again() {
    let tally = tally_of(Kind::Http2, each(|stream, _| http2(stream, Manner::GoAway)), 30);
    assert_eq!((tally.failed(), tally.closed_idle), (0, 0), "{:?}", tally.texts);
    assert!(tally.asked >= 3 && tally.connections >= 4, "{tally:?}");
}

#[test]
fn a_refused_stream_may_be_repeated() {
    let tally = tally_of(Kind::Http2, each(|stream, _| http2(stream, Manner::RefuseEverySixth)), 30);
    assert_eq!((tally.failed(), tally.connections), (0, 1), "{:?}", tally.texts);
    assert!(tally.retried >= 5, "{tally:?}");
}

#[test]
fn a_stream_that_is_cut_failed() {
    for manner in [Manner::Cut, Manner::Complain] {
        let tally = tally_of(Kind::Http2, each(move |stream, _| http2(stream, manner)), 30);
        assert!(tally.failed() >= 3 && tally.answered > 0, "{tally:?}");
    }
}
