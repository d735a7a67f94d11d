//! What is answered on the control socket: replies, errors, and what Varlink says of itself.

use hotupdate_proto::operator::{self, Monitored, Reply};
use hotupdate_proto::{INTERFACE, Refusal, frame};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::session::Event;

pub(super) fn info() -> Value {
    json!({
        "vendor": "hotupdate",
        "product": "hotupdate",
        "version": env!("CARGO_PKG_VERSION"),
        "url": env!("CARGO_PKG_REPOSITORY"),
        "interfaces": ["org.varlink.service", INTERFACE],
    })
}

pub(super) fn description(parameters: &Map<String, Value>) -> Reply {
    let interface = parameters.get("interface").and_then(Value::as_str).unwrap_or_default();
    let description = match interface {
        INTERFACE => operator::DESCRIPTION,
        "org.varlink.service" => operator::SERVICE_DESCRIPTION,
        _ => return service_error("InterfaceNotFound", json!({ "interface": interface })),
    };
    self::parameters(&json!({ "description": description }))
}

pub(super) fn unknown(method: &str) -> Reply {
    match method.rsplit_once('.') {
        Some((INTERFACE | "org.varlink.service", _)) => {
            service_error("MethodNotFound", json!({ "method": method }))
        }
        Some((interface, _)) => service_error("InterfaceNotFound", json!({ "interface": interface })),
        None => service_error("MethodNotFound", json!({ "method": method })),
    }
}

pub(super) fn parameters<T: Serialize>(value: &T) -> Reply {
    let parameters = match serde_json::to_value(value) {
        Ok(Value::Object(parameters)) => parameters,
        _ => Map::new(),
    };
    Reply { parameters, ..Reply::default() }
}

/// One of the replies to `Monitor`.
pub(crate) fn monitored(now: &Monitored) -> Option<Event> {
    encoded(&Reply { continues: true, ..parameters(now) }).map(Event::from)
}

pub(super) fn encoded(reply: &Reply) -> Option<Vec<u8>> {
    // Silence would say that the service is broken.
    let too_long = |error| frame::encode(&unable(&format!("the answer cannot be sent: {error}")));
    frame::encode(reply).or_else(too_long).ok()
}

pub(super) fn failed(name: &str, details: Value) -> Reply {
    Reply { error: Some(format!("{INTERFACE}.{name}")), ..parameters(&details) }
}

pub(super) fn service_error(name: &str, details: Value) -> Reply {
    Reply { error: Some(format!("org.varlink.service.{name}")), ..parameters(&details) }
}

pub(super) fn busy(reason: &str) -> Reply {
    failed("Busy", json!({ "reason": reason }))
}

/// The answer to a caller beyond the limit.
pub(crate) fn crowded() -> Reply {
    busy("too many callers on the control socket, and this one had been silent longest, or came last")
}

/// A `Join` that was turned down, for people and, in full, for the successor.
pub(crate) fn refused(refusal: &Refusal) -> Reply {
    let name = match refusal {
        Refusal::Starting => "Starting",
        Refusal::Busy { .. } => "Busy",
        Refusal::Incompatible { .. } => "Incompatible",
        Refusal::BackingOff { .. } => "BackingOff",
        Refusal::Abandoned => "Abandoned",
        Refusal::NotAllowed { .. } | Refusal::MayNotSucceed { .. } => "NotAllowed",
        _ => "NotServing",
    };
    failed(name, json!({ "reason": refusal.to_string(), "refusal": refusal }))
}

/// A `Join` that cannot be served for a reason of our own. The successor does not ask again.
pub(crate) fn unable(reason: &str) -> Reply {
    failed("Failed", json!({ "reason": reason }))
}

/// A `Join` that was accepted.
pub(crate) fn joined(joined: &hotupdate_proto::Joined) -> Reply {
    parameters(joined)
}
