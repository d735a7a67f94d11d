//! axum with the listeners that ecdysis passes on; SIGHUP starts the next version.

use std::io;
use std::net::SocketAddr;

use axum::serve::Listener;
use clap::Parser as _;
use ecdysis::tokio_ecdysis::{SignalKind, StopOnShutdown, TokioEcdysisBuilder};
use futures_util::{FutureExt as _, Stream, StreamExt as _};
use peers::{Cli, serve};
use tokio::net::TcpStream;

/// The stream of ecdysis, as axum wants it.
struct Connections<S>(S, SocketAddr);

impl<S: Stream<Item = io::Result<TcpStream>> + Send + Unpin + 'static> Listener for Connections<S> {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            match self.0.next().await {
                Some(Ok(stream)) => return (stream, self.1),
                Some(Err(_)) => {}
                None => std::future::pending().await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.1)
    }
}

#[tokio::main(worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let builder = TokioEcdysisBuilder::new(SignalKind::hangup())?;
    let listen = |at: SocketAddr| {
        builder.build_listen_tcp(StopOnShutdown::Yes, at, |socket, at| {
            socket.set_reuse_address(true)?;
            socket.set_nonblocking(true)?;
            socket.bind(&at.into())?;
            socket.listen(4096)?;
            Ok(socket.into())
        })
    };
    let http = Connections(listen(cli.http)?, cli.http);
    let raw = Connections(listen(cli.raw)?, cli.raw);
    let (_ecdysis, stopped) = builder.ready()?;
    let stopped = async move { drop(stopped.await) }.boxed().shared();
    serve(cli.app()?, http, raw, stopped).await
}
