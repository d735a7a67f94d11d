//! Servers for the tests of the load, each on a thread with a runtime of its own.
//!
//! Deliberately absent: shutting down. They end with the test program.

use std::net::SocketAddr;
use std::thread;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Runs `serve` on a listener, away from the thread of the test.
pub(super) fn start<F: Future<Output = ()>>(
    serve: impl FnOnce(TcpListener) -> F + Send + 'static,
) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.set_nonblocking(true).expect("a listener can be nonblocking");
    let address = listener.local_addr().expect("a bound listener has an address");
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async { serve(TcpListener::from_std(listener).expect("it is nonblocking")).await });
    });
    address
}

/// Serves each connection with `serve`; its second argument counts connections from 0.
pub(super) fn each<F: Future<Output = ()> + Send + 'static>(
    serve: impl Fn(TcpStream, usize) -> F + Send + 'static,
) -> SocketAddr {
    start(|listener| async move {
        let mut number = 0;
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, number));
            number += 1;
        }
    })
}

/// A server that answers each request with the next of these, and then closes the connection.
pub(super) fn scripted<const N: usize>(answers: [&str; N]) -> SocketAddr {
    let answers = answers.map(str::to_owned);
    each(move |mut stream, _| {
        let answers = answers.clone();
        async move {
            for answer in answers {
                if read_head(&mut stream).await.is_none()
                    || stream.write_all(answer.as_bytes()).await.is_err()
                {
                    return;
                }
            }
        }
    })
}

/// Reads up to the end of a head; all requests here have no body or one that is not read.
pub(super) async fn read_head(stream: &mut TcpStream) -> Option<()> {
    let mut read = Vec::new();
    while !read.windows(4).any(|window| window == b"\r\n\r\n") {
        if stream.read_buf(&mut read).await.ok()? == 0 {
            return None;
        }
    }
    Some(())
}
