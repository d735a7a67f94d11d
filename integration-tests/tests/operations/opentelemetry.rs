//! `examples/opentelemetry`: the spans of a handoff come from both processes, and those of a drain before it
//! ends.

use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use integration_tests::client::{InFlight, get};
use integration_tests::process::binary;
use integration_tests::process::needs::{CURL, IP, NAMESPACES, have};
use integration_tests::process::network::in_network_of;
use integration_tests::{Readme, SOON, Sandbox, Service, Status, eventually};
use tokio::net::{TcpListener, TcpStream};

/// A collector that keeps what it gets: OTLP over gRPC, of which it knows no more than how to say thank you.
#[derive(Clone, Default)]
struct Collector {
    exports: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Collector {
    fn start(at: &str) -> (Self, SocketAddr) {
        let collector = Self::default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("the system gives epoll");
        let listener = runtime.block_on(TcpListener::bind(at)).expect("the port is free");
        let address = listener.local_addr().expect("a bound socket has an address");
        let ours = collector.clone();
        // It ends with the test program.
        thread::spawn(move || {
            runtime.block_on(async {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(ours.clone().converse(stream));
                }
            });
        });
        (collector, address)
    }

    async fn converse(self, stream: TcpStream) {
        let Ok(mut connection) = h2::server::handshake(stream).await else { return };
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            let collector = self.clone();
            tokio::spawn(async move {
                let export = body(request.into_body()).await;
                collector.exports.lock().unwrap_or_else(PoisonError::into_inner).push(export);
                let head = http::Response::builder().header("content-type", "application/grpc");
                let head = head.body(()).expect("it is a response");
                let mut trailers = http::HeaderMap::new();
                trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
                // An empty message, which is five bytes of gRPC.
                let _ = respond.send_response(head, false).and_then(|mut stream| {
                    stream.send_data(Bytes::from_static(&[0; 5]), false)?;
                    stream.send_trailers(trailers)
                });
            });
        }
    }

    /// How many exports have all of these words. Text stands in them as it is.
    fn with(&self, words: &[&str]) -> usize {
        let exports = self.exports.lock().unwrap_or_else(PoisonError::into_inner);
        let has = |export: &[u8], word: &str| export.windows(word.len()).any(|at| at == word.as_bytes());
        exports.iter().filter(|export| words.iter().all(|word| has(export, word))).count()
    }
}

async fn body(mut body: RecvStream) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(Ok(bytes)) = body.data().await {
        let _ = body.flow_control().release_capacity(bytes.len());
        all.extend_from_slice(&bytes);
    }
    all
}

#[test]
fn both_sides_of_a_handoff_and_the_last_request_of_a_drain() {
    let sandbox = Sandbox::new();
    let (collector, endpoint) = Collector::start("127.0.0.1:0");
    let start = |version: &str, listen: &str, delay_ms: &str| {
        let (mut command, _) = sandbox.command(&binary("traced-hello"));
        command
            .args(["--app-version", version, "--listen", listen])
            .env("HOTUPDATE_SOCKET", sandbox.control());
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{endpoint}"));
        command.env("OTEL_BSP_SCHEDULE_DELAY", delay_ms);
        Service::run(&sandbox, &mut command)
    };
    let serves = |generation: u64| {
        eventually(&format!("generation {generation} serves"), SOON, || {
            let status = Status::ask(&sandbox.control()).ok()?;
            (status.serving.generation == generation && status.serving.state == "serving").then_some(status)
        })
    };

    // This one would send what it has in an hour, if it did not end.
    let old = start("v1", "127.0.0.1:0", "3600000");
    let address = listener(&serves(1));
    get(address, "/?first").expect("it answers");
    let slow = InFlight::start(address, Duration::from_secs(2));
    eventually("the request is in flight", SOON, || {
        (Status::ask(&sandbox.control()).ok()?.serving.connections.active == 1).then_some(())
    });
    let _new = start("v2", &address.to_string(), "100");
    let _serves = serves(2);
    let transcript = sandbox.transcript();
    let (_, handoff) = transcript.split_once("handoff{handoff=").expect("the log names the handoff");
    let handoff = handoff.split('}').next().expect("it ends");
    assert!(slow.answer().is_err(), "it says hello, and not which process it is");
    old.wait_exit();

    // The process that has ended has sent all of it before.
    for words in [&["v1", "request", "/?first"], &["v1", "request", "/?sleep=2"], &["v1", "handoff", handoff]]
    {
        assert!(collector.with(words) > 0, "{words:?}\n{}", sandbox.transcript());
    }
    get(address, "/?second").expect("it answers");
    eventually("the new version tells of the same handoff", SOON, || {
        (collector.with(&["v2", "handoff", handoff]) > 0).then_some(())
    });
    eventually("and of its requests", SOON, || {
        (collector.with(&["v2", "request", "/?second"]) > 0).then_some(())
    });
}

/// Where its ports are free.
#[test]
fn the_commands_of_its_readme() {
    if !have(&[CURL, IP, NAMESPACES]) {
        return;
    }
    let sandbox = Sandbox::new();
    let holds = "ip link set lo up; echo up; exec sleep infinity";
    let (mut unshare, output) = sandbox.command(Path::new("unshare"));
    unshare.args(["--net", "sh", "-euc", holds]);
    let network = Service::run(&sandbox, &mut unshare);
    eventually("there is a network", SOON, || {
        std::fs::read_to_string(&output.stdout).ok().filter(|said| said == "up\n")
    });
    let (collector, _) = in_network_of(network.pid(), || Collector::start("127.0.0.1:4317"));

    let target = sandbox.path().join("target");
    std::fs::create_dir(&target).expect("the sandbox is ours");
    symlink(binary("hotctl").parent().expect("a folder"), target.join("release")).expect("it is ours");
    let spans = Readme::of("examples/opentelemetry").commands("spans");
    let script = format!("{spans}\ntarget/release/hotctl stop --wait\nwait");
    let (mut command, output) = sandbox.command(Path::new("nsenter"));
    command.args(["--net", "-t", &network.pid().to_string(), "bash", "-euo", "pipefail", "-c", &script]);
    command.env("HOTUPDATE_SOCKET", sandbox.control()).current_dir(sandbox.path());
    let outcome = sandbox.outcome(command, output).expect_success();
    assert_eq!(outcome.stdout, "hello\nhello\n");
    for words in [["v1", "request"], ["v1", "handoff"], ["v2", "request"], ["v2", "handoff"]] {
        assert!(collector.with(&words) > 0, "{words:?}\n{}", sandbox.transcript());
    }
}

fn listener(status: &Status) -> SocketAddr {
    status.listeners[0].address.parse().expect("an address")
}
