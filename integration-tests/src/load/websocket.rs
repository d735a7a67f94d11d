//! Numbered messages over a WebSocket, each of which must come back.
//!
//! Deliberately absent: more than one message in flight. A message that crosses with the server's close frame
//! is lost to the protocol, not to the hot update; it is counted apart, and there can be only one for each
//! close.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use super::client::{Client, within};
use super::tally::{Failure, FailureClass};

/// The rest of a closing handshake that the server began.
const FAREWELL: Duration = Duration::from_secs(2);

type Socket = WebSocketStream<TcpStream>;

/// What a wait for the next message came to.
enum Heard {
    Text(String),
    /// The server closed politely: it goes away, or is replaced.
    Close,
}

pub(super) async fn run(client: &mut Client) {
    let mut number = 0;
    while !client.is_stopped() {
        client.tally.connections += 1;
        match within(client.plan.patience, "open a websocket", open(client.address)).await {
            Ok(socket) => talk(client, socket, &mut number).await,
            Err(failure) => {
                client.failed_alone(failure);
                tokio::time::sleep(client.pause()).await;
            }
        }
    }
}

async fn open(address: SocketAddr) -> Result<Socket, Failure> {
    let stream = TcpStream::connect(address).await.map_err(|error| Failure::io("connect", &error))?;
    stream.set_nodelay(true).map_err(|error| Failure::io("TCP_NODELAY", &error))?;
    let opened = client_async(format!("ws://{address}/ws"), stream).await;
    opened.map(|(socket, _)| socket).map_err(|error| to_failure("open a websocket", &error))
}

/// Sends and listens until the connection or the load ends.
async fn talk(client: &mut Client, mut socket: Socket, number: &mut u64) {
    while !client.is_stopped() {
        *number += 1;
        match echo(client, &mut socket, *number).await {
            Ok(true) => {}
            Ok(false) => return polite_end(client, socket).await,
            Err(failure) => return client.failed(failure),
        }
        match tokio::time::timeout(client.pause(), hear(&mut socket)).await {
            Err(_nothing_heard) => {}
            Ok(Ok(Heard::Close)) => return polite_end(client, socket).await,
            Ok(Ok(Heard::Text(text))) => {
                let failure = Failure::new(FailureClass::BadBody, format!("an echo of nothing: {text:?}"));
                return client.failed_alone(failure);
            }
            Ok(Err(failure)) => return client.failed_alone(failure),
        }
    }
    let _end_of_the_load = tokio::time::timeout(FAREWELL, socket.close(None)).await;
}

/// One message and its echo; false if the server's close frame came instead.
async fn echo(client: &mut Client, socket: &mut Socket, number: u64) -> Result<bool, Failure> {
    let message = format!("message {number}");
    let begun = Instant::now();
    client.sent();
    // A close frame may have arrived before this was written, so what cannot be sent is not the last word.
    let sent = socket.send(Message::text(message.clone())).await;
    let heard = within(client.plan.patience, "wait for an echo", hear(socket)).await;
    match (heard, sent) {
        (Ok(Heard::Text(text)), _) if text == message => {
            client.answered(begun, begun.elapsed());
            Ok(true)
        }
        (Ok(Heard::Text(text)), _) => {
            Err(Failure::new(FailureClass::BadBody, format!("{message:?} was echoed as {text:?}")))
        }
        (Ok(Heard::Close), _) => {
            client.tally.unechoed += 1;
            Ok(false)
        }
        (Err(_), Err(error)) => Err(to_failure("send a message", &error)),
        (Err(failure), Ok(())) => Err(failure),
    }
}

async fn hear(socket: &mut Socket) -> Result<Heard, Failure> {
    loop {
        match socket.next().await {
            Some(Ok(Message::Text(text))) => return Ok(Heard::Text(text.as_str().to_owned())),
            Some(Ok(Message::Close(frame))) => {
                return match frame.as_ref().map(|frame| frame.code) {
                    Some(CloseCode::Away | CloseCode::Restart) => Ok(Heard::Close),
                    _ => {
                        Err(Failure::new(FailureClass::Other, format!("closed, but not politely: {frame:?}")))
                    }
                };
            }
            Some(Ok(_ping_or_pong)) => {}
            Some(Err(error)) => return Err(to_failure("wait for a message", &error)),
            None => {
                return Err(Failure::new(
                    FailureClass::Unanswered,
                    "the websocket ended without a close frame",
                ));
            }
        }
    }
}

/// Answers the close frame, which tungstenite does while it is read from, and waits for the end of the
/// connection.
async fn polite_end(client: &mut Client, mut socket: Socket) {
    client.tally.asked += 1;
    let rest = async { while socket.next().await.is_some_and(|message| message.is_ok()) {} };
    let _in_vain = tokio::time::timeout(FAREWELL, rest).await;
}

fn to_failure(doing: &str, error: &Error) -> Failure {
    match error {
        Error::Io(error) => Failure::io(doing, error),
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake | ProtocolError::HandshakeIncomplete) => {
            Failure::new(FailureClass::Unanswered, format!("{doing}: {error}"))
        }
        Error::Http(_) => Failure::new(FailureClass::BadStatus, format!("{doing}: {error}")),
        _ => Failure::new(FailureClass::Other, format!("{doing}: {error}")),
    }
}
