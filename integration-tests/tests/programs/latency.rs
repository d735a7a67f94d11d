//! A proxy in this process that makes a network of loopback: each byte takes a while. What is lost when a
//! server closes a connection that a client is just using is only lost with that.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

/// The proxy's address, and how many connections the server has refused.
#[derive(Clone, Debug)]
pub(crate) struct Latency {
    pub(crate) address: SocketAddr,
    pub(crate) refused: Arc<AtomicU32>,
}

/// Each direction takes so long.
pub(crate) async fn to(server: SocketAddr, delay: Duration) -> Latency {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    let refused = Arc::new(AtomicU32::new(0));
    let proxy = Latency { address, refused: refused.clone() };
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let refused = refused.clone();
            tokio::spawn(async move {
                if forward(client, server, delay).await.is_err() {
                    refused.fetch_add(1, Relaxed);
                }
            });
        }
    });
    proxy
}

/// An error if the server does not take the connection.
async fn forward(client: TcpStream, server: SocketAddr, delay: Duration) -> io::Result<()> {
    client.set_nodelay(true)?;
    let server = TcpStream::connect(server).await?;
    server.set_nodelay(true)?;
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    tokio::spawn(pump(from_client, to_server, delay));
    tokio::spawn(pump(from_server, to_client, delay));
    Ok(())
}

/// What is read now is written after the delay; the end, too.
async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay: Duration) {
    let (sender, mut on_the_way) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    let write = async move {
        while let Some((due, bytes)) = on_the_way.recv().await {
            sleep_until(due).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    };
    let read = async move {
        loop {
            let mut bytes = vec![0; 16 * 1024];
            let length = from.read(&mut bytes).await.unwrap_or(0);
            bytes.truncate(length);
            // An empty one stands for the end, which takes as long.
            if sender.send((Instant::now() + delay, bytes)).is_err() || length == 0 {
                return;
            }
        }
    };
    tokio::join!(read, write);
}
