//! Clients that speak HTTP/2: a few connections with a few streams each, or a connection for each request.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::scope;

use anyhow::{anyhow, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::{CLIENTS, Case};
use crate::load::now;

/// Streams of a connection that stays open.
const STREAMS: usize = 4;

type Sender = SendRequest<Empty<Bytes>>;

/// As [`super::ask`], from a thread of its own.
pub(super) fn ask(
    case: Case,
    address: SocketAddr,
    measure: impl FnOnce() -> (u64, u64),
) -> anyhow::Result<usize> {
    let is_over = Arc::new(AtomicBool::new(false));
    let (answers, (from, until)) = scope(|scope| {
        let clients = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(clients(case, address, &is_over))
        });
        let within = measure();
        is_over.store(true, Relaxed);
        let answers = clients.join().map_err(|_| anyhow!("the clients have panicked"))??;
        anyhow::Ok((answers, within))
    })?;
    Ok(answers.iter().filter(|at| (from..until).contains(at)).count())
}

/// When answers came.
async fn clients(case: Case, address: SocketAddr, is_over: &Arc<AtomicBool>) -> anyhow::Result<Vec<u64>> {
    let mut tasks = JoinSet::new();
    for _ in 0..CLIENTS / STREAMS {
        let sender = connect(address).await?;
        for _ in 0..STREAMS {
            tasks.spawn(client(case, address, sender.clone(), Arc::clone(is_over)));
        }
    }
    Ok(tasks.join_all().await.into_iter().collect::<Result<Vec<_>, _>>()?.concat())
}

async fn client(
    case: Case,
    address: SocketAddr,
    mut sender: Sender,
    is_over: Arc<AtomicBool>,
) -> anyhow::Result<Vec<u64>> {
    let uri = format!("http://{address}{}", case.path);
    let mut answers = Vec::new();
    while !is_over.load(Relaxed) {
        if case.is_fresh {
            sender = connect(address).await?;
        }
        let answer = sender.send_request(http::Request::get(&uri).body(Empty::new())?).await?;
        ensure!(answer.status().is_success(), "{}: {}", case.name(), answer.status());
        answer.into_body().collect().await?;
        answers.push(now());
    }
    Ok(answers)
}

async fn connect(address: SocketAddr) -> anyhow::Result<Sender> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    // It ends with its last sender.
    tokio::spawn(connection);
    Ok(sender)
}
