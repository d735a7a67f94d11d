//! `hotctl status --ready` and `--live`: exit codes for supervisors.

use crate::support::fake::{join, take_over};
use crate::support::run::Place;
use hotupdate_proto::operator::ProcessState;

#[test]
fn only_the_process_that_serves_is_ready() {
    let place = Place::new();
    let ready = |name| place.hotctl(&["status", "--ready", "--name", name]);
    let live = |name| place.hotctl(&["status", "--live", "--name", name]);
    ready("web-4100").code(0).says("web-4100 is ready: 4100 (v1.2.9) is serving");

    let absent = "no process of this name has joined; 4100 (v1.2.9) is still serving";
    ready("web-4242").code(1).says(&format!("hotctl: status: web-4242 is not ready: {absent}"));
    live("web-4242").code(1).says(&format!("hotctl: status: web-4242 is not there: {absent}"));

    // It warms up, and the service runs.
    place.fake.change(|status| join(status, 4242, "a", ProcessState::Starting));
    let line = "web-4242 is not ready: 4242 (v1.3.0) is starting; 4100 (v1.2.9) is still serving";
    ready("web-4242").code(1).says(&format!("hotctl: status: {line}"));
    live("web-4242").code(0).says("web-4242 is live: 4242 (v1.3.0) is starting");

    place.fake.change(take_over);
    ready("web-4242").code(0);
    let line = "web-4100 is not ready: 4100 (v1.2.9) is draining; 4242 (v1.3.0) is still serving";
    ready("web-4100").code(1).says(&format!("hotctl: status: {line}"));
    live("web-4100").code(0).says("web-4100 is live: 4100 (v1.2.9) is draining");
}

#[test]
fn a_process_that_stops_is_not_ready() {
    let place = Place::new();
    place.fake.change(|status| status.serving.state = ProcessState::Draining);
    let ran = place.hotctl(&["status", "--ready", "--name", "web-4100"]).code(1);
    assert_eq!(ran.line(), "hotctl: status: web-4100 is not ready: 4100 (v1.2.9) is draining");
}

#[test]
fn processes_of_one_name_are_one_service() {
    let place = Place::new();
    place.fake.change(|status| join(status, 4242, "a", ProcessState::Standby));
    place.fake.change(|status| {
        status.successor.as_mut().unwrap().process.name = "pod".to_owned();
        status.serving.process.name = "pod".to_owned();
    });
    place.hotctl(&["status", "--ready", "--name", "pod"]).code(0);
}

#[test]
fn without_a_name_it_is_the_variable_or_the_host() {
    let place = Place::new();
    let host = rustix::system::uname().nodename().to_str().unwrap().to_owned();
    place.hotctl(&["status", "--ready"]).code(1);
    place.fake.change(|status| status.serving.process.name = format!("{host}/4100"));
    place.hotctl(&["status", "--ready"]).code(0).says(&format!("{host} is ready: 4100 (v1.2.9) is serving"));
    place.fake.change(|status| status.serving.process.name = format!("{host}/4101"));
    place.hotctl(&["status", "--ready"]).code(1);
}

#[test]
fn a_probe_is_one_question() {
    let place = Place::new();
    place.hotctl(&["status", "--ready", "--live"]).code(2);
    place.hotctl(&["status", "--name", "x"]).code(2);
    place.hotctl(&["status", "--ready", "--name", ""]).code(2);
    let ran = place.hotctl(&["--json", "status", "--ready", "--name", "web-4100"]).code(0);
    assert_eq!((&ran.json()[0]["type"], &ran.json()[0]["state"]), (&"ready".into(), &"serving".into()));
}
