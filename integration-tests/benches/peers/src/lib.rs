//! What the servers have in common: the application of `bench-server`, served by `axum::serve`.

use std::fs;
use std::future::{Future, ready};
use std::net::SocketAddr;
use std::path::PathBuf;

use axum::serve::Listener;
use axum::{Router, routing::get};
use clap::Parser;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

#[derive(Clone, Debug, Parser)]
pub struct Cli {
    #[arg(long)]
    pub http: SocketAddr,
    #[arg(long)]
    pub raw: SocketAddr,
    #[arg(long)]
    pub dir: PathBuf,
    #[arg(long)]
    pub upgrade: bool,
}

impl Cli {
    pub fn version(&self) -> anyhow::Result<String> {
        Ok(fs::read_to_string(self.dir.join("version"))?)
    }

    pub fn app(&self) -> anyhow::Result<Router> {
        let version = self.version()?;
        Ok(Router::new().route("/", get(move || ready(version.clone()))))
    }
}

/// Serves until `stopped`, and then until every connection has ended.
pub async fn serve<L>(
    app: Router,
    http: L,
    mut raw: impl Listener<Io = TcpStream>,
    stopped: impl Future<Output = ()> + Clone + Send + 'static,
) -> anyhow::Result<()>
where
    L: Listener,
    L::Addr: std::fmt::Debug,
{
    let until = stopped.clone();
    let echoes = tokio::spawn(async move {
        let mut echoes = JoinSet::new();
        tokio::pin!(until);
        loop {
            tokio::select! {
                biased;
                () = &mut until => break,
                (stream, _) = raw.accept() => drop(echoes.spawn(echo(stream))),
            }
        }
        drop(raw);
        echoes.join_all().await;
    });
    axum::serve(http, app).with_graceful_shutdown(stopped).await?;
    Ok(echoes.await?)
}

pub async fn echo(mut stream: TcpStream) {
    let mut bytes = [0; 1024];
    while let Ok(n @ 1..) = stream.read(&mut bytes).await {
        if stream.write_all(&bytes[..n]).await.is_err() {
            return;
        }
    }
}

/// A listener beside that of another process.
pub fn reuseport(at: SocketAddr) -> anyhow::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&at.into())?;
    socket.listen(4096)?;
    Ok(TcpListener::from_std(socket.into())?)
}
