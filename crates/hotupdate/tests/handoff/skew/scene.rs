//! The service that the recordings show, and its clients.
//!
//! Deliberately absent: who is old and who is new.

use std::net::SocketAddr;

use hotupdate::{Builder, Connection, Listener, Serving};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::common::SOON;

/// The name of the listener and of the kind of connection that moves.
pub(crate) const COUNT: &str = "count";

/// A generation of the service.
pub(crate) struct Service {
    pub(crate) hot: Serving,
    pub(crate) address: SocketAddr,
    /// The state that it inherited with the inventory.
    pub(crate) hits: Option<String>,
}

/// Joins and serves: one listener, one state, connections that move if their client wants that.
pub(crate) async fn serve(builder: Builder, name: u8) -> Service {
    let mut starting = timeout(SOON, builder.join()).await.expect("a join ends").unwrap();
    let listener = starting.tcp(COUNT, "127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().ip().unwrap();
    let hits = starting.import("hits").map(|hits| String::from_utf8(hits.bytes.clone()).unwrap());
    starting.export("hits", "text", move || vec![name]).unwrap();
    let go_on = move |connection, counted: u8| count(connection, name, b'm', counted);
    starting.on_migrated(COUNT, go_on).unwrap();
    let hot = timeout(SOON, starting.ready()).await.expect("a start ends").unwrap();
    tokio::spawn(accept(listener, name));
    Service { hot, address, hits }
}

async fn accept(mut listener: Listener, name: u8) {
    while let Some(connection) = listener.accept().await {
        tokio::spawn(async move {
            let mut connection = connection;
            let mut kind = [0];
            if connection.read_exact(&mut kind).await.is_ok() {
                count(connection, name, kind[0], 0).await;
            }
        });
    }
}

/// Counts bytes: each is answered with the name of the version, and their number so far. `m` moves when it is
/// told to.
async fn count(mut connection: Connection, name: u8, kind: u8, mut counted: u8) {
    let mut drain = connection.drain();
    loop {
        let mut byte = [0];
        let read = tokio::select! {
            read = connection.read(&mut byte) => read,
            () = drain.started(), if kind == b'm' => match connection.migrate(COUNT, &counted).await {
                Ok(()) => return,
                Err(stays) => {
                    connection = stays.connection;
                    connection.read(&mut byte).await
                }
            },
        };
        if !matches!(read, Ok(1)) {
            return;
        }
        counted += 1;
        if connection.write_all(&[name, counted]).await.is_err() {
            return;
        }
    }
}

/// A client whose connection moves (`m`) or stays (`s`); it has asked once.
pub(crate) async fn client(address: SocketAddr, kind: u8) -> TcpStream {
    let mut stream = timeout(SOON, TcpStream::connect(address)).await.expect("it connects").unwrap();
    stream.write_all(&[kind]).await.unwrap();
    ask(&mut stream).await;
    stream
}

/// Who answers, and the how manieth question it was.
pub(crate) async fn ask(stream: &mut TcpStream) -> (char, u8) {
    let mut answer = [0; 2];
    let talk = async {
        stream.write_all(b"?").await?;
        stream.read_exact(&mut answer).await
    };
    timeout(SOON, talk).await.expect("an answer in time").expect("an answer");
    (char::from(answer[0]), answer[1])
}
