//! HTTP/2 and gRPC through fifty handoffs, with clients as they are, plain and over TLS: they see no GOAWAY
//! and no failure, no message is lost or comes twice, and their connections stay the same.
//!
//! Deliberately absent: curl without TLS. The one of Debian 12 cannot use such a connection a second time,
//! with any server. And a browser without TLS, which speaks no HTTP/2 then.

mod clients;
mod page;
mod proxies;
mod relayed;
mod stage;

use std::process::Command;

use anyhow::Context as _;
use integration_tests::process::binary;
use integration_tests::process::needs::{
    CHROMIUM, CURL, ENVOY, GO_HTTP2, H2LOAD, NAMESPACES, NGINX, NODE, PYTHON_HTTP2, have,
};
use rustix::process::Signal;

use self::clients::{Client, go, number, script};
use self::page::Page;
use self::stage::{Over, Place, again_and_again, through_handoffs};

const GREETER: &str = "tonic-greeter";
const AXUM: &str = "axum-server";

// ---- tonic

fn tonic(over: Over) -> anyhow::Result<()> {
    let said = through_handoffs(GREETER, over, 1, |place| {
        let mut command = Command::new(binary(GREETER));
        command.args(["greet", &place.address]);
        if let Some(certificate) = &place.certificate {
            command.arg("--ca").arg(certificate);
        }
        Client::start(&mut command, Some(Signal::TERM))
    })?;
    let count = |word| number(&said, word);
    assert_eq!((count("failed")?, count("connections")?), (0, 1), "{said}");
    assert!(count("calls")? > 500 && count("streams")? > 50 && count("messages")? > 250, "{said}");
    Ok(())
}

#[test]
fn calls_and_streams_of_tonic() -> anyhow::Result<()> {
    tonic(Over::Tcp)
}

#[test]
fn calls_and_streams_of_tonic_over_tls() -> anyhow::Result<()> {
    tonic(Over::Tls)
}

// ---- programs that count, over one connection each

/// The client has had so many answers at least, and no failure.
fn counts(
    program: &str,
    over: Over,
    least: u64,
    client: impl FnOnce(&Place<'_>) -> anyhow::Result<Client>,
) -> anyhow::Result<()> {
    let said = through_handoffs(program, over, 1, client)?;
    assert_eq!(number(&said, "failed")?, 0, "{said}");
    assert!(number(&said, "answered")? > least, "{said}");
    for (word, expected) in [("goaway", 0), ("connections", 1)] {
        assert_eq!(number(&said, word).unwrap_or(expected), expected, "{said}");
    }
    Ok(())
}

#[test]
fn calls_and_streams_of_python() -> anyhow::Result<()> {
    if !have(&[PYTHON_HTTP2]) {
        return Ok(());
    }
    counts(GREETER, Over::Tcp, 100, |place| script("calls.py", place))
}

#[test]
fn calls_and_streams_of_python_over_tls() -> anyhow::Result<()> {
    if !have(&[PYTHON_HTTP2]) {
        return Ok(());
    }
    counts(GREETER, Over::Tls, 100, |place| script("calls.py", place))
}

#[test]
fn calls_and_streams_of_go() -> anyhow::Result<()> {
    if !have(&[GO_HTTP2]) {
        return Ok(());
    }
    counts(GREETER, Over::Tcp, 200, |place| go("calls", place))
}

#[test]
fn calls_and_streams_of_go_over_tls() -> anyhow::Result<()> {
    if !have(&[GO_HTTP2]) {
        return Ok(());
    }
    counts(GREETER, Over::Tls, 200, |place| go("calls", place))
}

#[test]
fn requests_of_python() -> anyhow::Result<()> {
    if !have(&[PYTHON_HTTP2]) {
        return Ok(());
    }
    counts(AXUM, Over::Tcp, 100, |place| script("requests.py", place))
}

#[test]
fn requests_of_python_over_tls() -> anyhow::Result<()> {
    if !have(&[PYTHON_HTTP2]) {
        return Ok(());
    }
    counts(AXUM, Over::Tls, 100, |place| script("requests.py", place))
}

#[test]
fn requests_and_events_of_node() -> anyhow::Result<()> {
    if !have(&[NODE]) {
        return Ok(());
    }
    counts(AXUM, Over::Tcp, 200, |place| script("requests.js", place))
}

#[test]
fn requests_and_events_of_node_over_tls() -> anyhow::Result<()> {
    if !have(&[NODE]) {
        return Ok(());
    }
    counts(AXUM, Over::Tls, 200, |place| script("requests.js", place))
}

#[test]
fn requests_and_events_of_go() -> anyhow::Result<()> {
    if !have(&[GO_HTTP2]) {
        return Ok(());
    }
    counts(AXUM, Over::Tcp, 200, |place| go("requests", place))
}

#[test]
fn requests_and_events_of_go_over_tls() -> anyhow::Result<()> {
    if !have(&[GO_HTTP2]) {
        return Ok(());
    }
    counts(AXUM, Over::Tls, 200, |place| go("requests", place))
}

#[test]
fn requests_and_events_of_a_browser() -> anyhow::Result<()> {
    if !have(&[CHROMIUM, NAMESPACES]) {
        return Ok(());
    }
    let said = through_handoffs(AXUM, Over::Tls, 1, Page::open)?;
    assert_eq!((number(&said, "failed")?, number(&said, "other_protocols")?), (0, 0), "{said}");
    assert!(number(&said, "answered")? > 200 && number(&said, "events")? > 20, "{said}");
    Ok(())
}

// ---- programs that end by themselves

fn load_of_nghttp2(over: Over) -> anyhow::Result<()> {
    let check = |said: &str| {
        let requests =
            said.lines().find(|line| line.starts_with("requests: ")).context("it has a summary")?;
        assert!(requests.contains(" 0 failed, 0 errored, 0 timeout"), "{said}");
        Ok(())
    };
    let client = |place: &Place<'_>| {
        let mut command = Command::new("h2load");
        command.args(["--duration", "4", "-c", "4", "-m", "10"]).arg(place.url("/version"));
        Client::start(&mut command, None)
    };
    again_and_again(AXUM, over, 4, client, check)
}

#[test]
fn load_of_h2load() -> anyhow::Result<()> {
    if !have(&[H2LOAD]) {
        return Ok(());
    }
    load_of_nghttp2(Over::Tcp)
}

#[test]
fn load_of_h2load_over_tls() -> anyhow::Result<()> {
    if !have(&[H2LOAD]) {
        return Ok(());
    }
    load_of_nghttp2(Over::Tls)
}

/// How many requests a curl makes.
const REQUESTS: usize = 2_000;

/// Many requests of one curl, so many at a time: all over the connection that the first one has made.
fn requests_of_curl(at_a_time: usize) -> anyhow::Result<()> {
    let check = |said: &str| {
        let lines: Vec<_> = said.lines().collect();
        let is_good = |line: &&str| line.starts_with("2 200 ");
        let connections = lines.iter().filter(|line| line.ends_with(" 1")).count();
        let good = lines.iter().copied().filter(is_good).count();
        assert_eq!((good, lines.len(), connections), (REQUESTS, REQUESTS, 1), "{said}");
        Ok(())
    };
    let client = |place: &Place<'_>| {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--http2", "--output", "/dev/null"]);
        command.args(["--write-out", "%{http_version} %{response_code} %{num_connects}\n"]);
        command.arg("--cacert").arg(place.certificate.as_ref().context("it is TLS")?);
        if at_a_time > 1 {
            command.args(["--parallel", "--parallel-max", &at_a_time.to_string()]);
        }
        command.arg(place.url(&format!("/?sleep=0.002&n=[1-{REQUESTS}]")));
        Client::start(&mut command, None)
    };
    again_and_again(AXUM, Over::Tls, 1, client, check)
}

#[test]
fn requests_of_curl_over_tls() -> anyhow::Result<()> {
    if !have(&[CURL]) {
        return Ok(());
    }
    requests_of_curl(1)
}

#[test]
fn requests_of_curl_at_the_same_time_over_tls() -> anyhow::Result<()> {
    if !have(&[CURL]) {
        return Ok(());
    }
    requests_of_curl(8)
}

// ---- proxies

/// Its connections to the service are as many as calls are made at a time, for it has one on each.
#[test]
fn nginx_in_front_of_calls_and_streams() -> anyhow::Result<()> {
    if !have(&[PYTHON_HTTP2, NGINX]) {
        return Ok(());
    }
    let said = through_handoffs(GREETER, Over::Tcp, clients::AT_A_TIME, |place| {
        script("calls.py", &proxies::nginx(place)?)
    })?;
    assert_eq!(number(&said, "failed")?, 0, "{said}");
    assert!(number(&said, "answered")? > 100, "{said}");
    Ok(())
}

#[test]
fn envoy_in_front_of_calls_and_streams() -> anyhow::Result<()> {
    if !have(&[PYTHON_HTTP2, ENVOY]) {
        return Ok(());
    }
    counts(GREETER, Over::Tcp, 100, |place| script("calls.py", &proxies::envoy(place)?))
}
