//! Serves an axum application, or any tower service, in a process that can be replaced while it runs.
//!
//! ```no_run
//! use axum::{Router, routing::get};
//!
//! # async fn example() -> hotupdate::Result<()> {
//! // A first start, or it meets the process that it replaces.
//! let mut hot = hotupdate::join("/run/hello/control.sock").await?;
//! let http = hot.tcp("http", "0.0.0.0:3000").await?;
//! let app = Router::new().route("/", get(|| async { "hello" }));
//!
//! let server = hotupdate_axum::serve(http, app, &mut hot); // its connections migrate here, too
//! hot.ready().await?; // the old version stops accepting, this one starts
//! server.await        // until the next version takes over, and all is drained
//! # }
//! ```
//!
//! The handoff itself is in the crate [`hotupdate`], which is re-exported here.
//!
//! # What migrates, and what does not
//!
//! When the next version is ready, this one accepts no further connection and drains. What becomes of those
//! that are open:
//!
//! | connection | becomes |
//! |---|---|
//! | HTTP/1.1, idle, or without a byte so far | migrates at once; its client notices nothing |
//! | HTTP/1.1, half a head has arrived | migrates with these bytes, up to 128 KiB |
//! | HTTP/1.1, a request is in flight | the request is finished here, then it migrates |
//! | HTTP/1.1, pipelined requests | migrates between two of them; the next version answers the rest |
//! | HTTP/1.1, server-sent events, long polls | migrates if its handler ends with [`Draining`] |
//! | WebSocket of [`ws`] | migrates with its state, also in the middle of a message |
//! | WebSocket of `axum::extract::ws` | stays: its handler closes it, see [`Draining::scheduled_close`] |
//! | HTTP/2, no stream is open | migrates at once; its client hears not a byte |
//! | HTTP/2, streams are open | new ones wait up to 100 ms, then it migrates with them |
//! | HTTP/2, a stream goes on for longer | migrates without it; the next version relays it to this one, to its end |
//! | over TLS (feature `tls`) | as without TLS, by choice; else stays, as below |
//! | wrapped by the application: [`serve_connection()`] | stays: gets `Connection: close` or GOAWAY |
//!
//! An HTTP/1.1 connection that would migrate stays as well if the next version does not call [`serve()`] for
//! a listener of the same name, or if one of both versions says `migrate_connections(false)`. Then its next
//! response says `Connection: close`, and a silent client is closed after a grace (5 s) at its own place in a
//! window (10 s). What is left at the deadline (60 s) is closed and counted as forced.
//! [`Timing`](hotupdate::Timing) has all of these times.
//!
//! What the application itself keeps for a connection, such as an entry in a map with the client's address as
//! its key, does not migrate. State of the process does: [`Starting::export`](hotupdate::Starting::export).
//!
//! # With `axum::serve`
//!
//! An application that keeps [`axum::serve()`] changes less and gets less: nothing migrates, idle connections
//! are closed at once, streams hold the drain until its deadline, and requests are not counted.
//!
//! ```no_run
//! use axum::extract::ConnectInfo;
//! use axum::{Router, routing::get};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let mut hot = hotupdate::join("/run/hello/control.sock").await?;
//! let http = hot.tcp("http", "0.0.0.0:3000").await?;
//! let app = Router::new().route("/", get(|ConnectInfo(peer): ConnectInfo<hotupdate::Address>| async move {
//!     peer.to_string()
//! }));
//!
//! let hot = hot.ready().await?;
//! let app = app.into_make_service_with_connect_info::<hotupdate::Address>();
//! axum::serve(http, app).with_graceful_shutdown(hot.retired()).await?;
//! hot.drained().await;
//! # Ok(())
//! # }
//! ```
//!
//! # Features
//!
//! | feature | default | what it adds |
//! |---|---|---|
//! | `http2` | yes | HTTP/2 with prior knowledge; without it such clients are refused |
//! | `ws` | yes | WebSockets that migrate: [`ws`] |
//! | `tls` | no | HTTPS with rustls: the module `tls` and `Serve::tls` |
//! | `ring` | yes | the ciphers of ring, for `tls` |
//! | `aws-lc-rs` | no | the ciphers of aws-lc-rs, for `tls` |
//! | `test-util` | no | one connection without a listener, for tests; without a promise of stability |
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub use hotupdate;

mod serve;
#[cfg(feature = "test-util")]
pub use serve::serve_one;
pub use serve::{Serve, serve};

mod wrapped;
pub use wrapped::{ServeConnection, serve_connection};

mod settings;
pub use settings::Http1;
#[cfg(feature = "http2")]
pub use settings::Http2;

#[cfg(feature = "tls")]
#[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
pub mod tls;

mod app;
pub use app::App;

mod drain;
pub use drain::Draining;

mod peer;
pub use peer::Peer;

pub mod guides;

#[cfg(feature = "ws")]
#[cfg_attr(docsrs, doc(cfg(feature = "ws")))]
pub mod ws;

// A connection, in the order in which it is met.
mod arrivals;
mod carrier;
mod detect;
mod http1;
#[cfg(feature = "http2")]
mod http2;
mod idle;
mod io;
mod migration;
mod service;
mod watch;
