//! hyper's client.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hotupdate_h2::Stays;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::SendRequest;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};

use crate::world::{Ended, Open, Seen, Versions, builder, serve};

const SMALL: (u32, u32) = (70_000, 20_000);

struct World {
    client: SendRequest<Full<Bytes>>,
    next: Arc<Notify>,
    server: JoinHandle<Ended>,
}

/// The windows of a connection and of a stream, on both sides; hyper's own are much larger.
type Windows = Option<(u32, u32)>;

async fn world(open: Open, windows: Windows) -> World {
    let (client, server) = tokio::io::duplex(64 * 1024);
    let next = Arc::new(Notify::new());
    let told = next.clone();
    let versions: Versions = match windows {
        Some(SMALL) => |_| {
            let mut builder = builder();
            builder.initial_connection_window_size(SMALL.0).initial_stream_window_size(SMALL.1);
            builder
        },
        _ => |_| builder(),
    };
    let server = tokio::spawn(async move { serve(server, &told, Seen::default(), versions, open).await });
    let io = TokioIo::new(client);
    let mut handshake = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    if let Some((connection, stream)) = windows {
        handshake.initial_connection_window_size(connection).initial_stream_window_size(stream);
    }
    let (client, connection) = handshake.handshake(io).await.unwrap();
    tokio::spawn(connection);
    World { client, next, server }
}

async fn ask(client: &mut SendRequest<Full<Bytes>>, path: &str, n: u64, body: Vec<u8>) -> Response<Bytes> {
    let request = Request::post(format!("http://host{path}"))
        .header("x-constant", "the same each time")
        .header("x-number", n)
        .body(Full::from(body.clone()))
        .unwrap();
    let (head, answer) = client.send_request(request).await.unwrap().into_parts();
    assert_eq!(head.headers["x-seen-x-constant"], "the same each time");
    assert_eq!(head.headers["x-seen-x-number"], n.to_string());
    let answer = answer.collect().await.unwrap().to_bytes();
    if path != "/big" {
        assert!(answer == body, "{} bytes instead of {}", answer.len(), body.len());
    }
    Response::from_parts(head, answer)
}

#[tokio::test(start_paused = true)]
async fn a_move_between_two_requests() {
    let mut world = world(Open::End, None).await;
    let first = ask(&mut world.client, "/", 1, b"one".to_vec()).await;
    world.next.notify_one();
    let second = ask(&mut world.client, "/", 2, b"two".to_vec()).await;
    assert_eq!(first.headers()["x-generation"], "0");
    assert_eq!(second.headers()["x-generation"], "1");
    drop(world.client);
    let ended = world.server.await.unwrap();
    assert_eq!(ended.moves, 1, "{ended:?}");
    assert!(ended.result.is_ok(), "{ended:?}");
}

#[tokio::test(start_paused = true)]
async fn many_requests_at_a_time_while_the_connection_moves_all_the_time() {
    let ended = many_requests(Open::End, None).await;
    assert!(ended.moves > 20, "{ended:?}");
    assert!(ended.stays.iter().all(|stays| *stays == Stays::Held), "{ended:?}");
}

/// While streams are still relayed, the connection stays.
#[tokio::test(start_paused = true)]
async fn many_requests_at_a_time_while_the_connection_leaves_them_behind_all_the_time() {
    for (open, windows) in [
        (Open::Stay, None),
        (Open::Stay, Some(SMALL)),
        (Open::Return, None),
        (Open::Hesitate, None),
        (Open::Hesitate, Some(SMALL)),
    ] {
        let ended = many_requests(open, windows).await;
        assert!(ended.moves > 10 || open != Open::Stay, "{ended:?}");
        assert!(ended.stays.iter().all(|stays| *stays == Stays::Held), "{ended:?}");
    }
}

async fn many_requests(open: Open, windows: Windows) -> Ended {
    let world = world(open, windows).await;
    let told = world.next.clone();
    let moves = tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(1)).await;
            told.notify_one();
        }
    });
    let mut tasks = JoinSet::new();
    for task in 0..8 {
        let mut client = world.client.clone();
        tasks.spawn(async move {
            for n in 0..60 {
                let path = ["/", "/slow", "/big", "/stream"][(task + n) % 4];
                let body = vec![n as u8; [0, 10, 5_000, 150_000][n % 4]];
                ask(&mut client, path, (task * 1_000 + n) as u64, body).await;
            }
        });
    }
    // In virtual time.
    let all = tokio::time::timeout(Duration::from_secs(60), tasks.join_all()).await;
    assert!(all.is_ok(), "a request is not answered");
    moves.abort();
    drop(world.client);
    let ended = world.server.await.unwrap();
    assert!(ended.result.is_ok(), "{ended:?}");
    ended
}
