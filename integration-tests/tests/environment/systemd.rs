//! Listeners from systemd: adopted at the first start, by name, and passed on like any other.
//!
//! Deliberately absent: a service manager. Both ways here only pass descriptors as one does
//! (sd_listen_fds(3)).

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::Path;

use integration_tests::client::who_answers;
use integration_tests::process::needs::{SOCKET_ACTIVATE, have};
use integration_tests::process::{binary, eventually, free_address};
use integration_tests::{Handover, SOON, Sandbox, Service, Serving, Status, Way};

/// Where the listener `http` of the serving process comes from.
fn origin(sandbox: &Sandbox) -> String {
    let status = Status::ask(&sandbox.control()).expect("a status");
    let http = status.listeners.into_iter().find(|listener| listener.name == "http");
    http.expect("it has this listener").origin
}

/// It serves there, with systemd's listener, and so does the next version.
fn is_adopted(sandbox: &Sandbox, serving: Serving, address: SocketAddr) {
    assert_eq!(serving.http, address, "it bound another one");
    assert_eq!(origin(sandbox), "systemd");
    assert_eq!(who_answers(address).expect("the service answers"), serving.pid);
    let handover = Handover::run(sandbox, Way::ByHand, serving, "v2", &["--probation", "0"]);
    assert_eq!(handover.to.http, address);
    assert_eq!(origin(sandbox), "inherited");
}

#[test]
fn systemd_socket_activate() {
    if !have(&[SOCKET_ACTIVATE]) {
        return;
    }
    let sandbox = Sandbox::new();
    let address = free_address();
    let server = binary("axum-server").to_string_lossy().into_owned();
    // It passes on only what it is told to.
    let mut arguments: Vec<String> =
        ["-l", &address.to_string(), "--fdname=http", "-E", "HOTUPDATE_TEST_SANDBOX", &server]
            .map(str::to_owned)
            .to_vec();
    arguments.extend(Service::arguments(&sandbox, "v1", &["--probation", "0"]));
    let service = Service::spawn(&sandbox, Path::new("systemd-socket-activate"), &arguments);
    // The first client starts the service, and is not forgotten.
    let first = eventually("a listener before there is a service", SOON, || TcpStream::connect(address).ok());
    let serving = service.wait_serving();
    drop(first);
    is_adopted(&sandbox, serving, address);
}

/// Starts `axum-server` with a listener as descriptor 3, and the variables that follow. Without a process id
/// they are for the process itself.
fn with_descriptor_3<'a>(sandbox: &'a Sandbox, names: &str, pid: &str) -> (Service<'a>, SocketAddr) {
    const SCRIPT: &str =
        r#"export LISTEN_FDS=1 LISTEN_FDNAMES=$1 LISTEN_PID=${2:-$$}; shift 2; exec "$@" 3<&0 </dev/null"#;
    let listener = TcpListener::bind("127.0.0.1:0").expect("some port is free");
    let address = listener.local_addr().expect("a bound socket has an address");
    let (mut command, _) = sandbox.command(Path::new("sh"));
    command.args(["-euc", SCRIPT, "sh", names, pid]).arg(binary("axum-server"));
    command.args(Service::arguments(sandbox, "v1", &["--probation", "0"])).stdin(OwnedFd::from(listener));
    (Service::run(sandbox, &mut command), address)
}

#[test]
fn by_its_name() {
    let sandbox = Sandbox::new();
    let (service, address) = with_descriptor_3(&sandbox, "http", "");
    is_adopted(&sandbox, service.wait_serving(), address);
}

#[test]
fn under_another_name_it_is_not_taken() {
    let sandbox = Sandbox::new();
    let (service, address) = with_descriptor_3(&sandbox, "metrics", "");
    let serving = service.wait_serving();
    assert_ne!(serving.http, address);
    assert_eq!(origin(&sandbox), "bound");
    eventually("what was not asked for is closed", SOON, || TcpStream::connect(address).err());
}

#[test]
fn meant_for_another_process_it_is_not_taken() {
    let sandbox = Sandbox::new();
    let (service, address) = with_descriptor_3(&sandbox, "http", "1");
    let serving = service.wait_serving();
    assert_ne!(serving.http, address);
    assert_eq!(origin(&sandbox), "bound");
}
