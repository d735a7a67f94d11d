//! The words on the wire: the Varlink interface says what serde writes, and messages are called what they
//! are.

use std::collections::{BTreeMap, BTreeSet};

use hotupdate_proto::counts::Counts;
use hotupdate_proto::message::{
    Generation, Join, Joined, Message, Place, Process, Ready, Released, ServiceManager, Versions,
};
use hotupdate_proto::operator::{
    AttemptParams, Connections, DESCRIPTION, DeadlineParams, HandoffResult, LastFailure, LastHandoff,
    ListenerStatus, Monitored, OperatorError, PastEvent, ProcessState, ProcessStatus, ServiceEvent, Status,
    Warning,
};
use hotupdate_proto::{
    ConnectionRow, ConnectionState, INTERFACE, LinkItem, ListenerItem, ListenerKind, Occupancy, Refusal,
    SocketFile, Summary, Totals,
};
use serde::Serialize;
use serde_json::{Value, json};

// ---- the interface description ------------------------------------------------------------------------

/// Fields and their types, in the order of the description.
type Fields = Vec<(String, String)>;

/// What the description declares: types, and `Method` (parameters) and `Method ->` (reply).
fn declared() -> BTreeMap<String, Fields> {
    let lines = DESCRIPTION.lines().map(|line| line.split('#').next().unwrap_or_default());
    let text = lines.collect::<Vec<_>>().join(" ");
    let text = text.split_once(INTERFACE).expect("it names the interface").1.to_owned();
    let (mut all, mut method) = (BTreeMap::new(), String::new());
    for part in text.split_terminator(')') {
        let Some((head, body)) = part.split_once('(') else { continue };
        let fields = body.split(',').filter_map(|field| field.split_once(':'));
        let fields: Fields =
            fields.map(|(name, kind)| (name.trim().to_owned(), kind.trim().to_owned())).collect();
        let name = match head.split_whitespace().collect::<Vec<_>>()[..] {
            ["->"] => format!("{method} ->"),
            ["type" | "error", name] => name.to_owned(),
            ["method", name] => {
                method = name.to_owned();
                method.clone()
            }
            ref other => panic!("what is {other:?}?"),
        };
        assert!(all.insert(name.clone(), fields).is_none(), "{name} is declared twice");
    }
    all
}

/// Whether the value is what the interface says, with every field that is declared and no other.
fn check(declared: &BTreeMap<String, Fields>, value: &Value, kind: &str, whole: bool) {
    if let Some(kind) = kind.strip_prefix('?') {
        return check(declared, value, kind, whole);
    }
    if let Some(kind) = kind.strip_prefix("[]") {
        let items = value.as_array().unwrap_or_else(|| panic!("{value} is no list of {kind}"));
        assert!(!items.is_empty() || !whole, "an empty list of {kind} proves nothing");
        return items.iter().for_each(|item| check(declared, item, kind, whole));
    }
    match kind {
        "int" => assert!(value.is_u64() || value.is_i64(), "{value}"),
        "bool" => assert!(value.is_boolean(), "{value}"),
        "string" => assert!(value.is_string(), "{value}"),
        name => {
            let fields = declared.get(name).unwrap_or_else(|| panic!("{name} is not declared"));
            let object = value.as_object().unwrap_or_else(|| panic!("{value} is no {name}"));
            let written: BTreeSet<_> = object.keys().map(String::as_str).collect();
            // A field that is left out has to be one that may be.
            let must = fields.iter().filter(|(_, kind)| whole || !kind.starts_with('?'));
            let must: BTreeSet<_> = must.map(|(field, _)| field.as_str()).collect();
            let may: BTreeSet<_> = fields.iter().map(|(field, _)| field.as_str()).collect();
            assert!(written.is_superset(&must), "{name} declares {must:?}, serde writes {written:?}");
            assert!(written.is_subset(&may), "{name} declares {may:?}, serde writes {written:?}");
            for (field, kind) in fields {
                if let Some(value) = object.get(field) {
                    check(declared, value, kind, whole);
                }
            }
        }
    }
}

fn process() -> Process {
    Process::new("0".repeat(32), 1, "v1".to_owned())
        .named("web-1".to_owned())
        .running(Some("gunicorn app:app"))
}

fn summary() -> Summary {
    Summary::new(1, 2, 3)
}

fn process_status(attempt: Option<String>) -> ProcessStatus {
    let (generation, state) = (Generation(1), ProcessState::Serving);
    let (connections, process) = (summary(), process());
    let mut status = ProcessStatus::new(generation, process, state);
    (status.since_ms, status.connections, status.totals.accepted) = (1, connections, 1);
    (status.tasks, status.probation, status.attempt) = (vec!["consumer".to_owned()], true, attempt);
    status
}

/// With every field, or with as few as possible.
fn status(whole: bool) -> Status {
    let some = whole.then(|| "x".to_owned());
    let text = String::new;
    let mut handoff = LastHandoff::new(text(), Generation(1));
    (handoff.gap_ns, handoff.took_ms) = (whole.then_some(1), 1);
    let mut failure = LastFailure::new(process(), text(), text());
    (failure.generation, failure.attempt) = (Generation(2), some.clone());
    handoff.took_ns = whole.then_some(1);
    (handoff.ago_ms, failure.ago_ms) = (whole.then_some(1), whole.then_some(1));
    let kind = ListenerKind::UnixDatagram;
    let mut status = Status::new(process_status(some.clone()));
    status.successor = whole.then(|| process_status(some.clone()));
    status.predecessors = vec![process_status(some)];
    status.listeners = vec![ListenerStatus::new(text(), kind, text())];
    status.last_handoff = whole.then_some(handoff);
    status.last_failure = whole.then_some(failure);
    (status.history, status.warnings) = (vec![past()], vec![Warning::new("x", text())]);
    status
}

fn past() -> PastEvent {
    PastEvent::new("took_over", Generation(2), "v1 serves again", 3)
}

fn resume() -> Message {
    let (links, history, reason) = (Vec::new(), vec![past()], "it was told to stop".to_owned());
    Message::Resume { stopped_at_ns: 1, links, history, counts: Some(Box::default()), reason }
}

fn row() -> ConnectionRow {
    let mut row = ConnectionRow::default();
    (row.id, row.listener, row.protocol) = (1, "http".into(), "h2".into());
    (row.age_ms, row.requests, row.state) = (1, 1, ConnectionState::Upgraded);
    row
}

#[test]
fn the_interface_declares_what_serde_writes() {
    let declared = declared();
    for whole in [true, false] {
        let says = |value: Value, kind: &str| check(&declared, &value, kind, whole);
        let happened = ServiceEvent::new("served".to_owned(), Generation(1), String::new());
        let (event, text) = (whole.then_some(happened), whole.then(String::new));
        let mut changed = HandoffResult::new(process(), process(), Generation(1));
        changed.gap_ns = whole.then_some(1);
        let versions = Versions { min: 1, max: 1 };
        let join = Join { versions, features: vec![String::new()], process: process(), attempt: text };
        let joined = Joined {
            version: 1,
            features: vec![String::new()],
            generation: Generation(2),
            lease_ms: 1,
            handoff: String::new(),
            incumbent: process(),
            incumbent_generation: Generation(1),
            manager: whole.then(|| ServiceManager {
                unit: "".into(),
                notify_socket: String::new(),
                has_store: true,
                watchdog_us: Some(1),
            }),
            occupancy: whole.then(Occupancy::default),
        };
        says(json!({ "status": status(whole) }), "Status ->");
        says(json(&Monitored::new(event, status(whole))), "Monitor ->");
        says(json(&Connections::new(Generation(1), vec![row()])), "Connections ->");
        says(json(&changed), "Handoff ->");
        says(json(&changed), "Rollback ->");
        says(json(&DeadlineParams::new(whole.then_some(1))), "Drain");
        says(json(&DeadlineParams::new(whole.then_some(1))), "Stop");
        says(json(&AttemptParams { attempt: String::new() }), "Attempt");
        says(json(&join), "Join");
        says(json(&joined), "Join ->");
    }
    // Nothing is declared that is not checked above.
    let methods = [
        "Attempt",
        "Status",
        "Monitor",
        "Connections",
        "Handoff",
        "Rollback",
        "Abort",
        "Drain",
        "Stop",
        "Join",
    ];
    let replies = declared.keys().filter_map(|name| name.strip_suffix(" ->"));
    assert_eq!(replies.collect::<BTreeSet<_>>(), BTreeSet::from(methods));
}

fn json<T: Serialize>(value: &T) -> Value {
    serde_json::to_value(value).expect("it is JSON")
}

#[test]
fn every_error_has_its_name_in_the_interface() {
    let declared = declared();
    let doing = String::new;
    let operator = [
        OperatorError::NoSuccessor,
        OperatorError::NotReady { doing: doing() },
        OperatorError::NoHandoff,
        OperatorError::NoPredecessor,
        OperatorError::Busy { doing: doing() },
        OperatorError::NotServing,
        OperatorError::Failed { reason: doing() },
    ];
    let refusals =
        ["Starting", "Busy", "Incompatible", "NotServing", "BackingOff", "NotAllowed", "Abandoned"];
    for name in operator.iter().map(OperatorError::name).chain(refusals) {
        let fields = declared.get(name).unwrap_or_else(|| panic!("{name} is not declared"));
        assert_eq!(fields[..], [("reason".to_owned(), "string".to_owned())], "{name}");
    }
    assert_eq!(OperatorError::NotReady { doing: doing() }.name(), "NotReady");
}

/// A successor that knows the word says so itself; one that does not passes on the reason beside it.
#[test]
fn a_refusal_by_the_rights_of_a_user_is_a_word_with_its_uid() {
    let refusals = [Refusal::NotAllowed { uid: 7 }, Refusal::MayNotSucceed { uid: 7 }];
    let words = [json!({ "NotAllowed": { "uid": 7 } }), json!({ "MayNotSucceed": { "uid": 7 } })];
    assert_eq!(refusals.each_ref().map(json), words);
    let back = words.map(|word| serde_json::from_value::<Refusal>(word).expect("it is one of the words"));
    assert_eq!(back, refusals);
}

// ---- the link -----------------------------------------------------------------------------------------

/// One of each. A new variant has to be added to the `match`, and then here.
fn every_message() -> Vec<Message> {
    let all = vec![
        Message::Listeners { batch: 1, items: Vec::new() },
        Message::State { batch: 1, items: Vec::new() },
        Message::Links { batch: 1, items: Vec::new() },
        Message::Control { batch: 1 },
        Message::Received { batch: 1 },
        Message::Trouble { what: String::new() },
        Message::Ready(Ready::default()),
        Message::Released(Released::default()),
        Message::Serving { gap_ns: Some(1), accepts: Vec::new() },
        Message::Connections { items: Vec::new() },
        Message::Accepts { kinds: Vec::new() },
        Message::Quiesce,
        Message::Prepare { batch: 1, items: Vec::new() },
        Message::Prepared { batch: 1, refused: Vec::new() },
        Message::Commit { batch: 1 },
        Message::Abort { batch: 1 },
        Message::Quiesced,
        Message::Progress {
            connections: summary(),
            closed: Vec::new(),
            totals: Totals::default(),
            tasks: Vec::new(),
        },
        Message::Drained { forced: 0 },
        Message::LetGo,
        Message::Hurry { deadline_ms: 1 },
        Message::Issued { generation: Generation(3) },
        Message::EndProbation,
        Message::Main { pid: 1 },
        Message::Serves { pid: 1, place: Place::default(), is_established: false },
        Message::Counted { counts: Counts::default() },
        resume(),
        Message::Farewell,
        Message::Rebound { file: SocketFile { device: 1, inode: 2 } },
        Message::Failed { reason: String::new() },
    ];
    for message in &all {
        match message {
            Message::Listeners { .. }
            | Message::State { .. }
            | Message::Links { .. }
            | Message::Control { .. }
            | Message::Received { .. }
            | Message::Trouble { .. }
            | Message::Ready(_)
            | Message::Released(_)
            | Message::Serving { .. }
            | Message::Connections { .. }
            | Message::Accepts { .. }
            | Message::Quiesce
            | Message::Prepare { .. }
            | Message::Prepared { .. }
            | Message::Commit { .. }
            | Message::Abort { .. }
            | Message::Quiesced
            | Message::Progress { .. }
            | Message::Drained { .. }
            | Message::LetGo
            | Message::Hurry { .. }
            | Message::Issued { .. }
            | Message::EndProbation
            | Message::Main { .. }
            | Message::Serves { .. }
            | Message::Counted { .. }
            | Message::Resume { .. }
            | Message::Farewell
            | Message::Rebound { .. }
            | Message::Failed { .. } => {}
        }
    }
    all
}

/// Fields that came later are left out by a peer that does not know them.
#[test]
fn what_an_older_peer_says_is_understood() {
    let progress = json!({ "type": "progress", "connections": summary(), "closed": [1] });
    let expected = Message::Progress {
        connections: summary(),
        closed: vec![1],
        totals: Totals::default(),
        tasks: Vec::new(),
    };
    assert_eq!(serde_json::from_value::<Message>(progress).unwrap(), expected);

    let counts = Some(Box::new(Counts::default()));
    let released = Released { history: vec![past()], counts, ..Released::default() };
    let released = json(&Message::Released(released));
    for mut message in [released, json(&resume())] {
        for field in ["history", "counts", "reason"] {
            message.as_object_mut().unwrap().remove(field);
        }
        match serde_json::from_value::<Message>(message).unwrap() {
            Message::Released(Released { history, counts, .. }) | Message::Resume { history, counts, .. } => {
                assert_eq!((history, counts), (Vec::new(), None));
            }
            other => panic!("{other:?}"),
        }
    }

    let mut before = json(&status(true));
    for field in ["history", "warnings"] {
        before.as_object_mut().unwrap().remove(field);
    }
    for last in ["last_handoff", "last_failure"] {
        before[last].as_object_mut().unwrap().remove("ago_ms");
    }
    let before: Status = serde_json::from_value(before).unwrap();
    assert!(before.history.is_empty() && before.warnings.is_empty());
    assert_eq!(before.last_handoff.unwrap().ago_ms, None);

    let mut status = json(&process_status(None));
    status.as_object_mut().unwrap().remove("totals");
    let status: ProcessStatus = serde_json::from_value(status).unwrap();
    assert_eq!(status.totals, Totals::default());

    let joined = json!({
        "version": 1, "features": [], "generation": 2, "lease_ms": 1, "handoff": "h", "incumbent": process(),
        "incumbent_generation": 1,
    });
    assert_eq!(serde_json::from_value::<Joined>(joined).unwrap().occupancy, None);

    let link = json!({ "generation": 1, "process": process(), "connections": summary(), "probation": true });
    let link: LinkItem = serde_json::from_value(link).unwrap();
    assert_eq!((link.totals, link.handoff.as_str()), (Totals::default(), ""));
}

/// What says nothing may be left out, and some of it may be `null`, which is what languages write for nothing.
#[test]
fn the_smallest_peer_says_no_more_than_it_has_to() {
    let read = |message| serde_json::from_value::<Message>(message).unwrap();
    assert_eq!(read(json!({ "type": "ready" })), Message::Ready(Ready::default()));
    let released = Released { stopped_at_ns: 7, within_ms: u64::MAX, ..Released::default() };
    assert_eq!(read(json!({ "type": "released", "stopped_at_ns": 7 })), Message::Released(released));
    let serving = Message::Serving { gap_ns: None, accepts: Vec::new() };
    assert_eq!(read(json!({ "type": "serving", "gap_ns": null })), serving);

    let versions = json!({ "min": 1, "max": 1 });
    let join = json!({ "versions": versions, "process": process(), "attempt": null });
    let join: Join = serde_json::from_value(join).unwrap();
    assert_eq!((join.attempt, join.features), (None, Vec::new()));
    let joined = json!({
        "version": 1, "generation": 2, "lease_ms": 1, "incumbent": process(),
        "incumbent_generation": 1,
    });
    assert!(serde_json::from_value::<Joined>(joined).unwrap().features.is_empty());
    let item = json!({ "name": "http", "kind": "tcp", "address": "127.0.0.1:1" });
    assert_eq!(serde_json::from_value::<ListenerItem>(item).unwrap().cookie, 0);

    let serving = json!({ "generation": 3, "process": process(), "state": "serving" });
    let nothing = json!(null);
    let status = json!({
        "serving": serving, "successor": nothing, "last_handoff": nothing, "last_failure": nothing,
    });
    let expected = Status::new(ProcessStatus::new(Generation(3), process(), ProcessState::Serving));
    assert_eq!(serde_json::from_value::<Status>(status).unwrap(), expected);
}

/// What supervisors know of a process is as short on the wire as it can be, and may be less than is asked
/// for.
#[test]
fn where_a_process_runs() {
    let place = Place { pid_namespace: Some(4_026_531_836), unit: Some("5d0e".into()), is_supervised: true };
    let serves = Message::Serves { pid: 7, place, is_established: true };
    let place = json!({ "pid_namespace": 4_026_531_836_u64, "unit": "5d0e", "is_supervised": true });
    let expected = json!({ "type": "serves", "pid": 7, "place": place, "is_established": true });
    assert_eq!(json(&serves), expected);

    let nowhere = json!({ "type": "serves", "pid": 7, "place": {}, "is_established": false });
    let expected = Message::Serves { pid: 7, place: Place::default(), is_established: false };
    assert_eq!(serde_json::from_value::<Message>(nowhere).unwrap(), expected);

    let manager = |has_store, watchdog_us| {
        let (unit, notify_socket) = ("5d0e".into(), "@n".to_owned());
        json(&ServiceManager { unit, notify_socket, has_store, watchdog_us })
    };
    assert_eq!(manager(false, None), json!({ "unit": "5d0e", "notify_socket": "@n" }));
    let expected = json!({ "unit": "5d0e", "notify_socket": "@n", "has_store": true, "watchdog_us": 3 });
    assert_eq!(manager(true, Some(3)), expected);
}

#[test]
fn totals_add_up() {
    let mut totals = Totals::default();
    (totals.accepted, totals.adopted, totals.requests) = (9, 3, 7);
    (totals.migrated, totals.finished, totals.closed, totals.forced) = (2, 4, 1, 1);
    assert_eq!((totals.entered(), totals.ended(), totals.open()), (12, 8, 4));
}

#[test]
fn a_message_is_called_what_the_wire_calls_it() {
    let mut names = BTreeSet::new();
    for message in every_message() {
        assert_eq!(serde_json::to_value(&message).unwrap()["type"], message.name());
        names.insert(message.name());
    }
    assert_eq!(names.len(), 30, "and each has a name of its own");
}

/// The picture at the top of `message.rs` shows every message.
#[test]
fn the_picture_names_every_message() {
    let source = include_str!("../../src/message.rs");
    let picture = source.split("```").nth(1).expect("there is a picture");
    let words: BTreeSet<_> = picture.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').collect();
    for message in every_message() {
        let shown = words.contains(message.name());
        assert!(shown, "`{}` is not in the picture", message.name());
    }
}
