//! What `status`, `connections` and `list` show.

use crate::support::fake::{Answer, fail, join, lock, process, take_over};
use crate::support::run::{Place, start};
use hotupdate_proto::operator::{PastEvent, ProcessState, Warning};
use hotupdate_proto::{Generation, Summary};
use serde_json::{Value, json};

/// A handoff has happened, another one has failed, a third is under way.
fn eventful() -> Place {
    let place = Place::new();
    place.fake.change(|status| {
        join(status, 4242, "first", ProcessState::Starting);
        take_over(status);
        status.predecessors.push(process(1, 4000, "", ProcessState::Draining));
        status.serving.connections = Summary::new(100, 5, 2);
        join(status, 4300, "second", ProcessState::Starting);
        fail(status, "it was not ready when its lease ended (deadline `lease`)");
        join(status, 4400, "third", ProcessState::Standby);
        status.successor.iter_mut().for_each(|successor| successor.generation = Generation(5));
    });
    place
}

#[test]
fn status_has_a_line_for_each_generation() {
    let ran = eventful().hotctl(&["status"]).code(0);
    let expected = "\
GENERATION  STATE     PID   VERSION  SINCE  CONNECTIONS(active/idle/upgraded)  NOTE
5           standby   4400  v1.3.0   12s    0/0/0                              waits for `hotctl handoff`
3           serving   4242  v1.3.0   12s    5/100/2
2           draining  4100  v1.2.9   12s    5/10/2                             can take over again
1           draining  4000  -        12s    0/0/0                              drained

LISTENER  KIND  ADDRESS       ORIGIN
http      tcp   0.0.0.0:3000  inherited

last handoff: generation 2 to 3 in 1.2 s; new connections waited up to 180 µs

last failure: 4300 (v1.3.0), generation 3, warming up: it was not ready when its lease ended (deadline `lease`)
";
    assert_eq!(ran.stdout, expected);
    assert_eq!(ran.stderr, "");
}

#[test]
fn status_says_what_happened_lately_and_what_an_operator_should_know() {
    let place = Place::new();
    place.fake.change(|status| {
        join(status, 4242, "first", ProcessState::Starting);
        fail(status, "the other side gave up");
        status.last_failure.as_mut().expect("it has just failed").ago_ms = Some(7_000);
        let past = |kind, text, ago| PastEvent::new(kind, Generation(3), text, ago);
        status.history = vec![
            past("failed", "successor 4242 failed", 7_000),
            past("rolled_back", "4100 serves again \u{1b}[2J", 90_000),
            past("failed", "successor 4200 failed", 300_000),
        ];
        status.warnings = vec![Warning::new("unclaimed_listener", "nothing claims \"admin\"".to_owned())];
    });
    let expected = "\
last failure: 4242 (v1.3.0), generation 3, warming up, 7s ago: the other side gave up

AGO  HISTORY
90s  4100 serves again \\u{1b}[2J
5m   successor 4200 failed

warning: nothing claims \"admin\"
";
    let text = place.hotctl(&["status"]).code(0).stdout;
    assert!(text.ends_with(&format!("\n\n{expected}")), "{text}");
}

/// Which has a state that this hotctl has no word for.
#[test]
fn a_later_version_of_the_service_is_shown_all_the_same() {
    let place = Place::new();
    place.fake.on("Status", |status| {
        let mut status = serde_json::to_value(&*status).unwrap();
        status["predecessors"] = json!([status["serving"]]);
        status["predecessors"][0]["state"] = json!("hibernating");
        status["serving"]["more"] = json!({ "than": "before" });
        Answer::Reply(json!({ "status": status }))
    });
    let shown = place.hotctl(&["status"]).code(0).stdout;
    assert!(shown.contains("serving") && shown.contains("unknown"), "{shown}");
    place.fake.on("Status", |_| Answer::Reply(json!({ "status": "fine" })));
    let ran = place.hotctl(&["status"]).code(1);
    assert!(ran.line().ends_with("; or is hotctl older than the service?"), "{ran:#?}");
}

#[test]
fn status_as_json_is_one_line_with_a_type() {
    let place = eventful();
    let ran = place.hotctl(&["status", "--json"]).code(0);
    let [record] = ran.json().try_into().unwrap();
    assert!(ran.stdout.starts_with("{\"type\":\"status\","), "{ran:#?}");
    assert_eq!(record["socket"], place.fake.path.display().to_string());
    assert_eq!(record["serving"]["process"]["pid"], 4242);
    assert_eq!(record["last_handoff"]["gap_ns"], 180_000);
    assert_eq!(record["predecessors"][0]["probation"], true);
}

#[test]
fn colour_is_for_those_who_want_it() {
    let place = eventful();
    let colored = place.hotctl(&["status", "--color", "always"]).code(0);
    assert!(colored.stdout.contains("\u{1b}[32mserving\u{1b}[0m   4242"), "{colored:#?}");
    for when in ["auto", "never"] {
        assert!(!place.hotctl(&["status", "--color", when]).stdout.contains('\u{1b}'));
    }
}

fn row(id: u64) -> Value {
    json!({ "id": id, "listener": "http", "peer": format!("192.0.2.1:{id}"), "local": "192.0.2.2:80",
            "protocol": "http/1.1", "age_ms": 1, "requests": 3, "state": "idle" })
}

#[test]
fn a_hundred_thousand_connections_stream_through() {
    let place = Place::new();
    let batch = |start| (start..start + 500).map(row).collect::<Vec<_>>();
    place.fake.on("Connections", move |_| {
        let batches = (0..200).map(move |n| json!({ "generation": 2 + n % 2, "rows": batch(n * 500) }));
        Answer::Replies(Box::new(batches))
    });
    let text = place.hotctl(&["connections"]).code(0).stdout;
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 100_001);
    assert!(lines[0].starts_with("GENERATION  ID "), "{}", lines[0]);
    let columns: Vec<_> = lines[501].split_whitespace().collect();
    assert_eq!(columns[..5], ["3", "500", "http", "http/1.1", "idle"]);
    assert_eq!(columns[6..], ["3", "192.0.2.1:500", "->", "192.0.2.2:80"]);
    assert_eq!(lines[0].find("PEER"), lines[1].find("192.0.2.1"), "columns stand under their heads");
}

#[test]
fn a_connection_is_a_record() {
    let place = Place::new();
    place.fake.on("Connections", |_| Answer::Reply(json!({ "generation": 2, "rows": [row(7)] })));
    let ran = place.hotctl(&["--json", "connections"]).code(0);
    let [record] = ran.json().try_into().unwrap();
    assert_eq!(
        (&record["type"], &record["generation"], &record["id"]),
        (&json!("connection"), &json!(2), &json!(7))
    );
}

#[test]
fn a_table_that_breaks_off_is_a_failure() {
    let place = Place::new();
    place.fake.on("Connections", |_| {
        Answer::Bytes(b"{\"parameters\":{\"generation\":2,\"rows\":[]},\"continues\":true}\0{".to_vec())
    });
    let ran = place.hotctl(&["--timeout", "1", "connections"]).code(4);
    let path = place.fake.path.display();
    let line = format!("timed out after 1 s: no answer from {path}; 4100 (v1.2.9) is still serving");
    assert_eq!(ran.line(), format!("hotctl: connections: {line}"));
}

#[test]
fn list_shows_who_serves_and_who_does_not_answer() {
    let place = Place::new();
    let stale = place.file("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    std::fs::write(lock(&stale), "").unwrap();
    let ran = start(place.folder.path(), None, &["list"]).end().code(0);
    let line = |path: &std::path::Path| {
        let path = path.display().to_string();
        let line = ran.stdout.lines().find(|line| line.starts_with(&path)).unwrap_or_default();
        line[path.len()..].split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(line(&place.fake.path), "4100 v1.2.9 2 serving");
    assert_eq!(line(&stale), "- - - no process listens any more");
    let records = start(place.folder.path(), None, &["list", "--json"]).end().code(0).json();
    let of = |path: &std::path::Path| {
        records.iter().find(|record| record["socket"] == path.display().to_string()).unwrap().clone()
    };
    assert_eq!(of(&place.fake.path)["serving"]["generation"], 2);
    assert_eq!(of(&stale)["unreachable"], "Connection refused");
}

#[test]
fn what_became_of_a_drainers_connections_is_in_its_note() {
    let place = Place::new();
    place.fake.change(|status| {
        join(status, 4242, "a", ProcessState::Starting);
        take_over(status);
        let old = &mut status.predecessors[0];
        let totals = &mut old.totals;
        (totals.accepted, totals.migrated, totals.finished, totals.forced) = (141, 117, 4, 3);
        totals.relayed = 2;
    });
    let text = place.hotctl(&["status"]).code(0).stdout;
    assert!(text.contains("can take over again; 117 migrated, 4 finished, 3 forced, 2 relayed"), "{text}");
    let [record] = place.hotctl(&["--json", "status"]).code(0).json().try_into().unwrap();
    let totals = json!({ "accepted": 141, "adopted": 0, "migrated": 117, "finished": 4, "closed": 0,
                         "forced": 3, "requests": 0, "relayed": 2,
                         "goaways": { "not_accepted": 0, "streams": 0, "client": 0, "settings": 0 } });
    assert_eq!(record["predecessors"][0]["totals"], totals);
}

#[test]
fn json_of_a_hostile_service_cannot_steer_the_terminal() {
    let place = Place::new();
    let version = "v1\u{7f}\u{9b}2J\u{202e}\u{1b}c";
    place.fake.change(|status| status.serving.process.version = version.to_owned());
    let ran = place.hotctl(&["status", "--json"]).code(0);
    assert!(ran.stdout.contains(r#""v1\u007f\u009b2J\u202e\u001bc""#), "{ran:#?}");
    let [record] = ran.json().try_into().unwrap();
    assert_eq!(record["serving"]["process"]["version"], version, "it says what the service said");
}
