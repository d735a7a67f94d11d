//! Picking up connections that another process hands over.
//!
//! Deliberately absent: how they get here, see `driver/moves.rs`.

use std::fmt;

use hotupdate_proto::Kind;
use hotupdate_proto::text::OneLine;
use serde::de::DeserializeOwned;

use crate::connections::Connection;

/// What begins to serve a connection once it is ours.
pub type PickUp = Box<dyn FnOnce(Connection) + Send>;

/// What looks at the state of a connection that arrives, while it is not ours yet: `None` leaves it where it is.
type Look = Box<dyn Fn(Vec<u8>) -> Option<PickUp> + Send + Sync>;

/// Picks up one kind of connection.
pub(crate) struct Adopter {
    pub(crate) kind: Kind,
    look: Look,
}

impl Adopter {
    pub(crate) fn new(
        kind: &str,
        listener: Option<&str>,
        look: impl Fn(Vec<u8>) -> Option<PickUp> + Send + Sync + 'static,
    ) -> Self {
        let kind = Kind { kind: kind.to_owned(), listener: listener.map(ToOwned::to_owned) };
        Self { kind, look: Box::new(look) }
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
                    tracing::warn!(kind = name, error = %OneLine(&error), "a connection is not taken: its state makes no sense here");
                    None
                }
            }
        })
    }

    pub(crate) fn fits(&self, kind: &str, listener: &str) -> bool {
        self.kind.kind == kind && self.kind.listener.as_deref().is_none_or(|only| only == listener)
    }

    pub(crate) fn look(&self, state: Vec<u8>) -> Option<PickUp> {
        (self.look)(state)
    }
}

impl fmt::Debug for Adopter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Adopter").field(&self.kind).finish()
    }
}
