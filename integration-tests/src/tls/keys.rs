//! The secrets of connections, as clients log them (`SSLKEYLOGFILE`).

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use rustls::KeyLog;

/// Secrets of many connections.
#[derive(Debug, Default)]
pub struct Keys(Mutex<HashMap<Name, Vec<u8>>>);

/// The client's random number, and a label.
type Name = (Vec<u8>, String);

impl Keys {
    /// What the application keys of all connections are made of.
    #[must_use]
    pub fn traffic_secrets(&self) -> Vec<Vec<u8>> {
        let secrets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let application = secrets.iter().filter(|((_, label), _)| label.ends_with("_TRAFFIC_SECRET_0"));
        application.map(|(_, secret)| secret.clone()).collect()
    }

    pub(super) fn secret(&self, client_random: &[u8], label: &str) -> Option<Vec<u8>> {
        let secrets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        secrets.get(&(client_random.to_vec(), label.to_owned())).cloned()
    }
}

impl KeyLog for Keys {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let mut secrets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        secrets.insert((client_random.to_vec(), label.to_owned()), secret.to_vec());
    }
}
