//! What a process does with connections that another version migrates to it.
//!
//! [`Starting::on_migrated`](crate::Starting::on_migrated) is enough for most applications; what is here
//! belongs to [`Starting::on_migrated_bytes`](crate::Starting::on_migrated_bytes).

use std::fmt;

use hotupdate_proto::ConnectionKind;
use hotupdate_proto::text::OneLine;
use serde::de::DeserializeOwned;

use crate::connections::{Connection, Relay};

/// Goes on with a connection once this process owns it.
pub type Resume = Box<dyn FnOnce(Connection) + Send>;

/// Looks at the state of a connection that is offered, and at the relay to the process that goes on with what
/// is open on it; `None` leaves it with the other process.
type Inspect = Box<dyn Fn(Vec<u8>, Option<Relay>) -> Option<Resume> + Send + Sync>;

/// Accepts one kind of connection.
pub(crate) struct Handler {
    pub(crate) kind: ConnectionKind,
    /// Asked when the process is ready.
    is_wanted: Box<dyn Fn() -> bool + Send + Sync>,
    inspect: Inspect,
}

impl Handler {
    pub(crate) fn new(
        kind: &str,
        listener: Option<&str>,
        inspect: impl Fn(Vec<u8>) -> Option<Resume> + Send + Sync + 'static,
    ) -> Self {
        Self::with_relay(kind, listener, move |state, relay| match relay {
            None => inspect(state),
            // What is open on it would be lost.
            Some(_) => None,
        })
    }

    pub(crate) fn with_relay(
        kind: &str,
        listener: Option<&str>,
        inspect: impl Fn(Vec<u8>, Option<Relay>) -> Option<Resume> + Send + Sync + 'static,
    ) -> Self {
        let kind = ConnectionKind::new(kind, listener);
        Self { kind, is_wanted: Box::new(|| true), inspect: Box::new(inspect) }
    }

    /// It accepts nothing unless this says so when the process is ready.
    pub(crate) fn only_if(self, is_wanted: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self { is_wanted: Box::new(is_wanted), ..self }
    }

    pub(crate) fn is_wanted(&self) -> bool {
        (self.is_wanted)()
    }

    /// With state that is JSON, and a task for each connection.
    pub(crate) fn of_json<S, F, Fut>(kind: &str, serve: F) -> Self
    where
        S: DeserializeOwned + Send + 'static,
        F: Fn(Connection, S) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let name = kind.to_owned();
        Self::new(kind, None, move |bytes| {
            let serve = serve.clone();
            match serde_json::from_slice(&bytes) {
                Ok(state) => Some(Box::new(move |connection| drop(tokio::spawn(serve(connection, state))))),
                Err(error) => {
                    let error = error.to_string();
                    tracing::warn!(
                        kind = name, error = %OneLine(&error),
                        "a connection stays where it is: this version cannot read its state"
                    );
                    None
                }
            }
        })
    }

    pub(crate) fn fits(&self, kind: &str, listener: &str) -> bool {
        self.kind.kind == kind && self.kind.listener.as_deref().is_none_or(|only| only == listener)
    }

    /// Whether some connection would fit both.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        let listeners = [&self.kind.listener, &other.kind.listener];
        self.kind.kind == other.kind.kind
            && (listeners[0] == listeners[1] || listeners.iter().any(|listener| listener.is_none()))
    }

    pub(crate) fn inspect(&self, state: Vec<u8>, relay: Option<Relay>) -> Option<Resume> {
        (self.inspect)(state, relay)
    }
}

impl fmt::Debug for Handler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Handler").field(&self.kind).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_handlers_overlap_if_some_connection_fits_both() {
        let handler = |kind, listener| Handler::new(kind, listener, |_| None);
        let any = handler("echo", None);
        let one = handler("echo", Some("a"));
        assert!(any.overlaps(&one) && one.overlaps(&any) && one.overlaps(&one));
        assert!(!one.overlaps(&handler("echo", Some("b"))));
        assert!(!any.overlaps(&handler("chat", None)));
        assert!(one.fits("echo", "a") && !one.fits("echo", "b") && any.fits("echo", "b"));
    }
}
