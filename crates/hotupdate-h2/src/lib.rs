//! Moves a live HTTP/2 connection from one hyper server to another one, in this or in another process. Its
//! client notices nothing: no GOAWAY, no SETTINGS, no PING, not a byte if it is idle.
//!
//! A [`Layer`] stands between the transport and hyper, and follows the frames that pass. DATA is read to
//! where hyper wants it and written from where hyper has it. When no stream is open, all that a server knows
//! of a connection is known to the layer, too: its [`State`] and the transport go to the next server. Streams
//! that stay open are left behind: they end where they began, over a [`Relay`].
//!
//! ```
//! use hotupdate_h2::{Layer, Limits, State};
//! use std::convert::Infallible;
//! # use hyper::{Request, Response, body::Incoming, service::service_fn};
//! # use hyper_util::rt::{TokioExecutor, TokioIo};
//! # async fn hello(_: Request<Incoming>) -> Result<Response<String>, Infallible> { Ok(Response::new("hello".into())) }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let (client, transport) = tokio::io::duplex(64 * 1024);
//! # let (mut client, connection) =
//! #     hyper::client::conn::http2::handshake::<_, _, String>(TokioExecutor::new(), TokioIo::new(client)).await?;
//! # tokio::spawn(connection);
//! let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
//!
//! // One version serves, until it shall be replaced:
//! let (layer, handle) = Layer::new(transport, Limits::default());
//! let mut hyper = Box::pin(server.serve_connection(TokioIo::new(layer), service_fn(hello)));
//! # tokio::select! {
//! #     _ = hyper.as_mut() => panic!("its client has left"),
//! #     answer = client.send_request(Request::new(String::new())) => assert!(answer?.status().is_success()),
//! # }
//! handle.hold();
//! tokio::select! {
//!     _ = hyper.as_mut() => panic!("its client has left"),
//!     rest = std::future::poll_fn(|cx| handle.poll_rest(cx)) => rest?,
//! }
//! let (transport, state) = handle.take().map_err(|(_, stays)| stays)?;
//! drop(hyper);
//!
//! // The next one goes on where it was:
//! let state = State::from_bytes(&state.to_bytes())?;
//! let (layer, handle) = Layer::resume(transport, state, Limits::default());
//! let hyper = server.serve_connection(TokioIo::new(layer), service_fn(hello));
//! # let hyper = tokio::spawn(hyper);
//! # assert!(client.send_request(Request::new(String::new())).await?.status().is_success());
//! # Ok(())
//! # }
//! ```
//!
//! # The protocol of a move
//!
//! 1. While streams are open, frames of new ones wait ([`Handle::hold`]), each header block rewritten so that
//!    it refers to no header table (RFC 7541), because its decoder will be another one. If that takes too
//!    long, the server gets them after all ([`Handle::release`]).
//! 2. At rest there is no open stream, no frame of which only a part has passed, and nothing that either side
//!    still has to answer. [`Handle::take`] gives the transport and the state.
//! 3. The new server hears a client's preface, the client's SETTINGS, an acknowledgement of its own, a
//!    WINDOW_UPDATE, a malformed request that carries the client's header table, and a PING. It answers, and
//!    the layer keeps the answers for itself. hyper and h2 are stock.
//! 4. Then it hears what was held, and what the client has sent since.
//!
//! The client's decoder is emptied by two size updates with which the new server begins its first header
//! block, because it was told a table size of 0 in between (RFC 7541, section 4.2). Windows that both sides
//! see differently are evened out with the next WINDOW_UPDATE; until then no frame exceeds the smaller one.
//!
//! # Streams that stay
//!
//! 1. The server is told ([`Handle::split`]) that the client's header table has no size, and when it
//!    acknowledges that, the connection can go: what it writes from there on refers to no table.
//!    [`Handle::take_split`] gives the transport and the state. The server goes on, and waits.
//! 2. Its end of the relay takes the transport's place ([`Handle::relay`]), or the transport comes back
//!    ([`Handle::give_back`]), and the server is told of the table again.
//! 3. The next server has the other end ([`Layer::join`]). It begins as above. Its layer follows the client's
//!    table for both, passes on the frames of old streams, and puts between its own server's frames what the
//!    older one says.
//! 4. Both believe in room that the client may have for one of them only. What exceeds it waits in the layer,
//!    and as long as there is room each can use it: it is lent more when it has used its own. The client is
//!    given as much room as the server has that knows of less.
//! 5. The client's SETTINGS come to both, and it is told that they are acknowledged when both have said so. A
//!    PING is answered by the server that is here; that of the older one by the layer.
//! 6. When the old streams are over, the relay ends. If it ends before they are, they are reset with
//!    `INTERNAL_ERROR`, because a client must not be told that what may have been processed was not (RFC 9113,
//!    section 8.7). An error that would end the older server's connection ends its streams.
//!
//! A connection that still has old streams stays ([`Stays::Relayed`]): it has two servers at most.
//!
//! What is not valid passes to hyper as it is, so that hyper refuses it; such a connection does not move any
//! more. Why one does not move, and gets GOAWAY at the end of a drain, says [`Stays`].
//!
//! Deliberately absent: sockets, processes and deadlines, which are those of the crate `hotupdate`; and
//! clients, since it is servers that are replaced.

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod layer;
pub use layer::{Handle, Layer};

mod core;
pub use core::Limits;

mod transport;
pub use transport::Relay;

mod rest;
pub use rest::Stays;

mod state;
pub use state::{InvalidState, State};

mod settings;
pub use settings::{Setting, Settings};

// What the core is made of, from the connection to the byte.
mod backend;
mod connection;
mod frame;
mod hpack;
mod reader;
mod relay;
mod scanner;
mod split;
mod streams;
mod table;
