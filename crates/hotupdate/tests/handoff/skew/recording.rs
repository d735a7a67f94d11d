//! What a process of the first protocol version said and understood.
//!
//! Deliberately absent: sockets.

use serde_json::{Value, json};

/// Every message that version 1 knows; it hangs up on any other.
const WORDS: [&str; 25] = [
    "listeners",
    "state",
    "links",
    "control",
    "received",
    "ready",
    "released",
    "serving",
    "connections",
    "prepare",
    "commit",
    "abort",
    "quiesced",
    "progress",
    "drained",
    "let_go",
    "accepts",
    "quiesce",
    "prepared",
    "hurry",
    "issued",
    "end_probation",
    "resume",
    "farewell",
    "failed",
];

/// The only values of a field that version 1 knows.
const VALUES: [(&str, &[&str]); 2] =
    [("release", &["now", "on_command"]), ("state", &["idle", "active", "upgraded"])];

/// Fields that version 1 can do without.
const OPTIONAL: [&str; 2] = ["attempt", "gap_ns"];

/// Said whenever there is something to say: neither when nor how often it is said is part of the protocol.
const AT_ANY_TIME: [&str; 2] = ["progress", "connections"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Incumbent,
    Successor,
}

/// Something that was said.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) from: Side,
    /// What the descriptors are that it owns.
    pub(crate) owns: Vec<Value>,
    /// The exact text.
    pub(crate) says: &'static str,
}

impl Line {
    fn of(line: &'static str) -> Self {
        // The text is cut out, because parsing and writing it would change it.
        let (head, says) = line.split_once(",\"says\":").expect("a line says something");
        let says = says.strip_suffix('}').expect("a line is an object");
        let mut head: Value = serde_json::from_str(&format!("{head}}}")).unwrap();
        let from = if head["from"] == "incumbent" { Side::Incumbent } else { Side::Successor };
        let Value::Array(owns) = head["owns"].take() else { panic!("{line}") };
        Self { from, owns, says }
    }

    pub(crate) fn message(&self) -> Value {
        serde_json::from_str(self.says).unwrap()
    }
}

/// The lines of a recording.
pub(crate) fn read(recording: &'static str) -> Vec<Line> {
    recording.lines().map(Line::of).collect()
}

/// What a message is called; the call and its reply have no `type`.
pub(crate) fn word(message: &Value) -> &str {
    match message["type"].as_str() {
        Some(word) => word,
        None if message.get("method").is_some() => "the call `Join`",
        None => "the reply to `Join`",
    }
}

pub(crate) fn is_at_any_time(word: &str) -> bool {
    AT_ANY_TIME.contains(&word)
}

/// Whether version 1, which once heard `then`, would make sense of `now`. It ignores what it does not know in
/// a message, and needs everything else.
#[track_caller]
pub(crate) fn fits(then: &Value, now: &Value) {
    if let Some(word) = now["type"].as_str() {
        assert!(WORDS.contains(&word), "version 1 does not know this message: {now}");
    }
    if let Err(what) = compare(then, now) {
        panic!("version 1 cannot read this: {what}\nthen: {then}\nnow:  {now}");
    }
}

fn compare(then: &Value, now: &Value) -> Result<(), String> {
    match (then, now) {
        (Value::Object(then), Value::Object(now)) => then.iter().try_for_each(|(field, value)| {
            match now.get(field) {
                None if OPTIONAL.contains(&field.as_str()) => return Ok(()),
                None => return Err(format!("the field {field:?} is not there")),
                Some(now) => compare(value, now),
            }
            .map_err(|what| format!("{field}: {what}"))?;
            is_known(field, value, &now[field])
        }),
        (Value::Array(then), Value::Array(now)) => match then.first() {
            Some(then) => now.iter().try_for_each(|now| compare(then, now)),
            None => Ok(()),
        },
        (Value::String(_), Value::String(_))
        | (Value::Number(_), Value::Number(_))
        | (Value::Bool(_), Value::Bool(_)) => Ok(()),
        _ => Err(format!("{then} was of another kind than {now}")),
    }
}

/// Fields of the same name mean different things in different places; `then` tells which it is.
fn is_known(field: &str, then: &Value, now: &Value) -> Result<(), String> {
    let known =
        VALUES.iter().find(|(name, values)| *name == field && values.iter().any(|value| then == value));
    match known {
        Some((_, values)) if !values.iter().any(|value| now == value) => {
            Err(format!("the value {now} of {field:?} is unknown"))
        }
        _ => Ok(()),
    }
}

#[test]
fn what_version_1_could_not_read_is_found() {
    let then = json!({ "type": "ready", "adopted": ["a"], "release": "now" });
    fits(&then, &json!({ "type": "ready", "adopted": [], "release": "on_command", "more": 1 }));
    for (now, what) in [
        (json!({ "type": "ready", "adopted": [] }), "\"release\" is not there"),
        (json!({ "type": "ready", "adopted": [{}], "release": "now" }), "of another kind"),
        (json!({ "type": "ready", "adopted": [], "release": "tomorrow" }), "\"tomorrow\""),
    ] {
        let error = compare(&then, &now).unwrap_err();
        assert!(error.contains(what), "{error}");
    }
}

#[test]
#[should_panic(expected = "does not know this message")]
fn so_is_a_message_that_it_does_not_know() {
    fits(&json!({ "type": "ready" }), &json!({ "type": "teleport" }));
}
