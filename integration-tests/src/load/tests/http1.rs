//! HTTP/1.1 servers with every bad manner that a hot update might have, and two good ones.
//!
//! Deliberately absent: axum, which has no bad manners to order.

use std::net::SocketAddr;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketType, bind, getsockname, socket};
use tokio::io::AsyncWriteExt;

use super::server::{each, read_head, scripted};
use super::{FailureClass, Kind, LoadPlan, assert_only, plan_of, tally_by, tally_of};

const PID: &str = "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nospid:7";
const VERSION: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nv1";

#[test]
fn connection_refused() {
    // Bound, so that nothing else listens there meanwhile, and not listening.
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    bind(&socket, &SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
    let nobody = getsockname(&socket).expect("an address").try_into().expect("of IPv4");
    for kind in Kind::ALL {
        assert_only(&tally_of(kind, nobody, 2), FailureClass::Refused);
    }
}

#[test]
fn closed_without_an_answer() {
    let server = each(|mut stream, _| async move {
        let _request_read = read_head(&mut stream).await;
    });
    for kind in [Kind::KeepAlive, Kind::PerRequest, Kind::Slow, Kind::Sse, Kind::WebSocket] {
        assert_only(&tally_of(kind, server, 2), FailureClass::Unanswered);
    }
}

#[test]
fn reset_without_an_answer() {
    // Closing with unread bytes in the receive buffer resets the connection (tcp_close in net/ipv4/tcp.c).
    let server = each(|stream, _| async move {
        let _arrived = stream.peek(&mut [0; 1]).await;
    });
    for kind in [Kind::KeepAlive, Kind::PerRequest, Kind::Slow, Kind::Post, Kind::Sse, Kind::WebSocket] {
        assert_only(&tally_of(kind, server, 2), FailureClass::Reset);
    }
}

#[test]
fn no_answer_in_time() {
    let server = each(|mut stream, _| async move {
        let _request_read = read_head(&mut stream).await;
        std::future::pending::<()>().await;
    });
    for kind in Kind::ALL {
        let plan = LoadPlan { patience: Duration::from_millis(300), ..plan_of(kind) };
        assert_only(&tally_by(plan, kind, server, 1), FailureClass::Timeout);
    }
}

#[test]
fn another_status() {
    let server = scripted(["HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"]);
    for kind in [Kind::KeepAlive, Kind::PerRequest, Kind::Post, Kind::Slow, Kind::Sse, Kind::WebSocket] {
        assert_only(&tally_of(kind, server, 2), FailureClass::BadStatus);
    }
}

#[test]
fn another_body() {
    let server = scripted(["HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"]);
    for kind in [Kind::KeepAlive, Kind::PerRequest, Kind::Post, Kind::Slow] {
        assert_only(&tally_of(kind, server, 2), FailureClass::BadBody);
    }
}

#[test]
fn half_a_body() {
    let server = scripted(["HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nospid"]);
    assert_only(&tally_of(Kind::KeepAlive, server, 2), FailureClass::BadBody);
    let server = scripted(["HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7\r\nospid:7\r\n"]);
    assert_only(&tally_of(Kind::KeepAlive, server, 2), FailureClass::BadBody);
}

#[test]
fn half_a_head() {
    let server = scripted(["HTTP/1.1 200 OK\r\nContent-Le"]);
    assert_only(&tally_of(Kind::KeepAlive, server, 2), FailureClass::BadBody);
}

#[test]
fn chunks_are_put_together() {
    let chunked =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nosp\r\n4;x=y\r\nid:7\r\n0\r\n\r\n";
    let server = each(move |mut stream, _| async move {
        for answer in [chunked, VERSION].iter().cycle() {
            if read_head(&mut stream).await.is_none() || stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    });
    let tally = tally_of(Kind::KeepAlive, server, 6);
    assert_eq!((tally.failed(), tally.connections), (0, 1), "{tally:?}");
    assert_eq!(tally.pids.keys().copied().collect::<Vec<_>>(), [7]);
}

#[test]
fn an_announced_close_is_a_request_to_come_again() {
    let close = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nv2";
    let tally = tally_of(Kind::KeepAlive, scripted([PID, close]), 10);
    assert_eq!((tally.failed(), tally.closed_idle), (0, 0), "{:?}", tally.texts);
    assert_eq!(tally.connections, tally.sent / 2);
    assert_eq!(tally.asked, tally.sent / 2);
}

#[test]
fn a_close_while_idle_is_counted_and_no_failure() {
    let tally = tally_of(Kind::KeepAlive, scripted([PID, VERSION]), 10);
    assert_eq!((tally.failed(), tally.asked), (0, 0), "{:?}", tally.texts);
    assert!(tally.closed_idle >= 4, "{tally:?}");
}

#[test]
fn bytes_that_nobody_asked_for() {
    let server = each(|mut stream, number| async move {
        let _request_read = read_head(&mut stream).await;
        if number == 0 {
            let _sent = stream.write_all(format!("{PID}HTTP/1.1 408 Too Slow\r\n\r\n").as_bytes()).await;
            let _closed_by_the_client = read_head(&mut stream).await;
        }
    });
    let tally = tally_of(Kind::KeepAlive, server, 2);
    assert_eq!(tally.answered, 1);
    assert!(tally.failures.contains_key(&FailureClass::Other), "{tally:?}");
}
