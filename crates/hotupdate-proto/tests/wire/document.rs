//! `PROTOCOL.md` says what the code does: each message, each field, each deadline, and examples that the real
//! types read and write.

use std::collections::BTreeSet;

use hotupdate_proto::counts::MAX_COUNTED;
use hotupdate_proto::frame::{self, MAX_MESSAGE, decode_message, encode_message};
use hotupdate_proto::inventory::{MAX_LISTENERS, MAX_NAME, MAX_TASKS};
use hotupdate_proto::message::{MAX_BATCHES, MAX_DESCRIPTORS};
use hotupdate_proto::migration::{MAX_BATCH, MAX_BATCH_STATE, WINDOW};
use hotupdate_proto::operator::{self, Call, MAX_HISTORY, MAX_WARNINGS, Reply, Status};
use hotupdate_proto::{Join, Joined, Message, Refusal, Timing, environment, lock};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

const DOCUMENT: &str = include_str!("../../PROTOCOL.md");

/// Where the types are that are written on a wire.
const SOURCES: [&str; 8] = [
    include_str!("../../src/message.rs"),
    include_str!("../../src/inventory.rs"),
    include_str!("../../src/identity.rs"),
    include_str!("../../src/counts.rs"),
    include_str!("../../src/migration.rs"),
    include_str!("../../src/migration/item.rs"),
    include_str!("../../src/operator.rs"),
    include_str!("../../src/error.rs"),
];

/// The blocks of the document that begin with these words.
fn examples(info: &str) -> Vec<&'static str> {
    let blocks = DOCUMENT.split("\n```").skip(1).step_by(2);
    let found: Vec<_> = blocks.filter_map(|block| block.strip_prefix(info)?.strip_prefix('\n')).collect();
    assert!(!found.is_empty(), "no example of {info}");
    found
}

fn messages() -> Vec<(&'static str, Message)> {
    let read = |text| {
        let message = decode_message(str::as_bytes(text));
        (text, message.unwrap_or_else(|error| panic!("{error}: {text}")))
    };
    examples("json message").into_iter().map(read).collect()
}

/// What stands there, without what says as much as if it were absent: nothing, no, and none.
fn value(text: &str) -> Value {
    without_defaults(serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}")))
}

fn without_defaults(value: Value) -> Value {
    match value {
        Value::Object(members) => {
            let kept = members.into_iter().map(|(name, value)| (name, without_defaults(value)));
            let says_nothing = |value: &Value| match value {
                Value::Null => true,
                Value::Bool(value) => !value,
                Value::Number(value) => value.as_u64() == Some(0),
                Value::String(value) => value.is_empty(),
                Value::Array(value) => value.is_empty(),
                Value::Object(value) => value.is_empty(),
            };
            Value::Object(kept.filter(|(_, value)| !says_nothing(value)).collect())
        }
        Value::Array(values) => Value::Array(values.into_iter().map(without_defaults).collect()),
        value => value,
    }
}

fn written(value: &impl Serialize) -> Value {
    without_defaults(serde_json::to_value(value).expect("the type is written"))
}

/// What is written of the parameters of a call or a reply after they were read as `T`.
fn again<T: Serialize + DeserializeOwned>(parameters: &Map<String, Value>) -> Value {
    let read: T = serde_json::from_value(Value::Object(parameters.clone())).expect("the type reads it");
    written(&read)
}

#[test]
fn every_message_has_an_example_that_is_read_and_written_as_it_stands() {
    let mut shown = BTreeSet::new();
    for (text, message) in messages() {
        let mut bytes = encode_message(&message).unwrap();
        assert_eq!(bytes.pop(), Some(0));
        assert_eq!(value(str::from_utf8(&bytes).unwrap()), value(text));
        assert!(
            DOCUMENT.contains(&format!("\n#### `{}`\n", message.name())),
            "{} has no heading",
            message.name()
        );
        assert!(shown.insert(message.name()), "{} is shown twice", message.name());
    }
    let names = SOURCES[0].split("fn name(&self)").nth(1).expect("messages have names");
    let named: BTreeSet<_> = names.split("=> \"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert_eq!(shown, named);
}

#[test]
fn the_other_examples_are_read_and_written_as_they_stand() {
    for text in examples("json call") {
        let call: Call = frame::decode(text.as_bytes()).unwrap();
        assert_eq!(written(&call), value(text));
        assert_eq!(again::<Join>(&call.parameters), written(&call.parameters));
    }
    for text in examples("json joined") {
        let reply: Reply = frame::decode(text.as_bytes()).unwrap();
        assert_eq!(written(&reply), value(text));
        assert_eq!(again::<Joined>(&reply.parameters), written(&reply.parameters));
    }
    for text in examples("json refused") {
        let reply: Reply = frame::decode(text.as_bytes()).unwrap();
        let refusal: Refusal = serde_json::from_value(reply.parameters["refusal"].clone()).unwrap();
        assert_eq!(written(&refusal), written(&reply.parameters["refusal"]));
        assert_eq!(reply.parameters["reason"], refusal.to_string());
    }
    for text in examples("json status") {
        let all: Value = serde_json::from_str(text).unwrap();
        let read: Status = serde_json::from_value(all["status"].clone()).unwrap();
        assert_eq!(written(&read), value(text)["status"]);
    }
}

#[test]
fn a_batch_in_bulk_says_the_same_as_in_json() {
    let [hex] = examples("hex bulk")[..] else { panic!("one example") };
    let byte = |text| u8::from_str_radix(text, 16).expect("a byte in hexadecimal");
    let bytes: Vec<u8> = hex.split_whitespace().map(byte).collect();
    let prepare = messages().into_iter().find(|(_, message)| message.name() == "prepare").unwrap().1;
    let Message::Prepare { batch, items } = &prepare else { panic!("{prepare:?}") };
    assert_eq!(bytes, hotupdate_proto::migration::bulk::encode(*batch, items).unwrap());
    assert_eq!(decode_message(&bytes).unwrap(), prepare);
}

/// The lines of each type that is written, by name.
fn written_types() -> Vec<(&'static str, Vec<&'static str>)> {
    let mut types = Vec::new();
    for source in SOURCES {
        let mut lines = source.lines();
        let mut is_written = false;
        while let Some(line) = lines.next() {
            is_written |= line.starts_with("#[derive(") && line.contains("Serialize");
            let declared = line.trim_start_matches("pub ").split_once(' ').filter(|_| !line.starts_with(' '));
            if let Some(("struct" | "enum", rest)) = declared
                && std::mem::take(&mut is_written)
                && line.ends_with('{')
            {
                let name = rest.split([' ', '<']).next().unwrap_or_default();
                types.push((name, lines.by_ref().take_while(|line| *line != "}").collect()));
            }
        }
    }
    types
}

/// The name of the field that is declared in this line.
fn field(line: &str) -> Option<&str> {
    let (name, _) = line.trim_start().trim_start_matches("pub ").split_once(": ")?;
    name.chars().all(|c| c.is_ascii_lowercase() || c == '_').then_some(name)
}

/// What stands under the heading of a message or of a part of one.
fn section(name: &str) -> &'static str {
    let heading = format!("\n#### `{name}`\n");
    let from = DOCUMENT.find(&heading).unwrap_or_else(|| panic!("no heading for {name}")) + heading.len();
    DOCUMENT[from..].split("\n#").next().unwrap_or_default()
}

#[test]
fn every_field_is_named() {
    let types = written_types();
    let known: Vec<_> = types.iter().map(|(name, _)| *name).collect();
    for name in [
        "Message", "Join", "Joined", "Ready", "Released", "Process", "Totals", "Written", "Status", "Refusal",
    ] {
        assert!(known.contains(&name), "{name} is not found in {known:?}");
    }
    for (name, lines) in &types {
        for field in lines.iter().filter_map(|line| field(line)) {
            let stands =
                DOCUMENT.contains(&format!("`{field}`")) || DOCUMENT.contains(&format!("\"{field}\""));
            assert!(stands, "the field {field} of {name} is not named");
        }
    }
}

#[test]
fn every_message_is_described_with_its_fields() {
    let types = written_types();
    let fields = |name| {
        let (_, lines) = types.iter().find(|(known, _)| *known == name).expect("it is there");
        lines.iter().filter_map(|line| field(line)).collect::<Vec<_>>()
    };
    let describes = |section: &str, name: &str, field: &str| {
        assert!(section.contains(&format!("`{field}`")), "{name} has no field {field} in its section");
    };
    let mut message = String::new();
    for line in &types.iter().find(|(name, _)| *name == "Message").unwrap().1 {
        match line.strip_prefix("    ").filter(|line| line.starts_with(|c: char| c.is_ascii_uppercase())) {
            Some(variant) => message = snake_case(variant.split([' ', '(', ',']).next().unwrap_or_default()),
            None => field(line).into_iter().for_each(|field| describes(section(&message), &message, field)),
        }
    }
    for (name, of) in [("ready", "Ready"), ("released", "Released"), ("MigrationItem", "Written")] {
        fields(of).into_iter().for_each(|field| describes(section(name), name, field));
    }
    for name in [
        "ListenerItem",
        "StateItem",
        "LinkItem",
        "UnreadLink",
        "Summary",
        "Totals",
        "GoAways",
        "Counts",
        "ConnectionRow",
        "ConnectionKind",
        "PastEvent",
        "Place",
    ] {
        fields(name).into_iter().for_each(|field| describes(section(name), name, field));
    }
}

fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.push(c.to_ascii_lowercase());
    }
    snake
}

#[test]
fn every_deadline_has_its_default() {
    let shown = format!("{:?}", Timing::default());
    let fields = shown.trim_start_matches("Timing { ").trim_end_matches(" }");
    let fields: Vec<_> = fields.split(", ").filter_map(|field| field.split_once(": ")).collect();
    for (name, default) in &fields {
        assert!(DOCUMENT.contains(&format!("\n| `{name}` | {default} | ")), "{name}, {default}");
    }
    let table = DOCUMENT.split("\n| deadline | default | ").nth(1).unwrap().split("\n\n").next().unwrap();
    assert_eq!(table.lines().skip(2).count(), fields.len());
}

#[test]
fn every_limit_feature_method_and_error_is_named() {
    let batches = usize::try_from(MAX_BATCHES).unwrap();
    for (limit, of) in [
        (MAX_MESSAGE, "bytes of a frame"),
        (MAX_DESCRIPTORS, "descriptors of a message, connections of a batch"),
        (MAX_BATCH, "descriptors of a message, connections of a batch"),
        (batches, "batches of an inventory"),
        (MAX_LISTENERS, "listeners"),
        (MAX_NAME, "bytes of the name of a listener or a state"),
        (MAX_BATCH_STATE, "bytes of state in a batch of connections"),
        (WINDOW, "batches of connections on their way"),
        (MAX_TASKS, "tasks that are named"),
        (MAX_HISTORY, "events in a history"),
        (MAX_WARNINGS, "warnings in a status"),
        (MAX_COUNTED, "processes in `counts`"),
    ] {
        assert!(DOCUMENT.contains(&format!("\n| {limit} | {of} |")), "{limit}: {of}");
    }
    let library = include_str!("../../src/lib.rs");
    for feature in library.split("pub const FEATURE_").skip(1) {
        let feature = feature.split('"').nth(1).unwrap();
        assert!(DOCUMENT.contains(&format!("\n| `{feature}` | ")), "{feature}");
    }
    for line in operator::DESCRIPTION.lines() {
        let declared = ["method ", "error "].iter().find_map(|word| line.strip_prefix(word));
        if let Some(name) = declared.and_then(|rest| rest.split(['(', ' ']).next()) {
            assert!(DOCUMENT.contains(&format!("`{name}`")), "{name}");
        }
    }
    for name in [environment::SOCKET, environment::ATTEMPT] {
        assert!(DOCUMENT.contains(name), "{name}");
    }
    for word in [lock::RUNNING, lock::STOPPED] {
        let word = str::from_utf8(word).unwrap().trim_end();
        assert!(DOCUMENT.contains(&format!("`{word}` and a newline")), "{word}");
    }
}

#[test]
fn every_link_within_the_document_leads_somewhere() {
    let headings: BTreeSet<String> = DOCUMENT
        .lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| {
            let title = line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
            title.chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_')).collect()
        })
        .collect();
    for link in DOCUMENT.split("](#").skip(1) {
        let anchor = link.split(')').next().unwrap();
        assert!(headings.contains(anchor), "{anchor} is none of {headings:?}");
    }
}
