//! A proxy between clients and a service, which records what passes.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

/// What has passed in one connection.
#[derive(Clone, Debug, Default)]
pub struct Flow {
    /// What the client has sent.
    pub to_server: Vec<u8>,
    /// What the service has sent.
    pub to_client: Vec<u8>,
}

/// It ends with its runtime.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    flows: Arc<Mutex<Vec<Flow>>>,
}

impl Proxy {
    /// Listens, and connects to `service` for each client.
    ///
    /// # Errors
    ///
    /// If it cannot listen.
    pub async fn start(service: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let flows: Arc<Mutex<Vec<Flow>>> = Arc::default();
        let recorded = flows.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let flows = recorded.clone();
                tokio::spawn(async move {
                    let Ok(server) = TcpStream::connect(service).await else { return };
                    let index = {
                        let mut flows = flows.lock().unwrap_or_else(PoisonError::into_inner);
                        flows.push(Flow::default());
                        flows.len() - 1
                    };
                    let ((from_client, to_client), (from_server, to_server)) =
                        (client.into_split(), server.into_split());
                    let there = pass(from_client, to_server, &flows, index, |flow| &mut flow.to_server);
                    let back = pass(from_server, to_client, &flows, index, |flow| &mut flow.to_client);
                    tokio::join!(there, back);
                });
            }
        });
        Ok(Self { address, flows })
    }

    /// Where clients connect to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What has passed until now, connection by connection.
    #[must_use]
    pub fn flows(&self) -> Vec<Flow> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Until an end, which is passed on, or an error, which is one for both sides.
async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    flows: &Mutex<Vec<Flow>>,
    index: usize,
    direction: fn(&mut Flow) -> &mut Vec<u8>,
) {
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        let bytes = &bytes[..count];
        direction(&mut flows.lock().unwrap_or_else(PoisonError::into_inner)[index]).extend_from_slice(bytes);
        if to.write_all(bytes).await.is_err() {
            return;
        }
    }
    // The other side may be gone.
    let _ = to.shutdown().await;
}
