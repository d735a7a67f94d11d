//! Serves an axum application, or any tower service, in a process that can be replaced while it runs.
//!
//! Deliberately absent: the handoff itself, see [`hotupdate`]; TLS.
//!
//! ```no_run
//! use axum::{Router, routing::get};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let mut hot = hotupdate::join("/run/hello/control.sock").await?;
//! let http = hot.tcp("http", "0.0.0.0:3000").await?;
//! let app = Router::new().route("/", get(|| async { "hello" }));
//!
//! let hot = hot.ready().await?;
//! hotupdate_axum::serve(http, app, &hot).await?;
//! # Ok(())
//! # }
//! ```
//!
//! An application that keeps [`axum::serve()`] changes less and gets less: idle connections are closed at once, streams
//! hold the drain until its deadline, and nothing is counted.
//!
//! ```no_run
//! # async fn example(http: hotupdate::Listener, app: axum::Router, hot: hotupdate::Serving) -> std::io::Result<()> {
//! axum::serve(http, app).with_graceful_shutdown(hot.retired()).await?;
//! hot.drained().await;
//! # Ok(())
//! # }
//! ```

mod serve;
#[cfg(feature = "test-util")]
pub use serve::serve_one;
pub use serve::{Serve, serve};

mod drain;
pub use drain::Draining;

pub mod ws;

// A connection, in the order in which it is met.
mod detect;
mod http1;
mod http2;
mod idle;
mod io;
mod moving;
mod pulse;
mod service;
mod watch;
