//! The traffic secrets of a connection, which rustls says nowhere else than in its key log.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::KeyLog;

use crate::secret::Secret;

/// The log of one connection. What the user's own log wants to see it sees as before.
pub(super) struct SecretLog {
    secrets: Mutex<Secrets>,
    keep_exporter: bool,
    users: Arc<dyn KeyLog>,
}

/// Of TLS 1.3; empty in TLS 1.2.
#[derive(Default)]
pub(super) struct Secrets {
    /// What the client's first keys are made of.
    pub(super) client: Secret,
    /// And ours.
    pub(super) server: Secret,
    /// Empty unless it is to be kept.
    pub(super) exporter: Secret,
}

impl SecretLog {
    pub(super) fn new(users: Arc<dyn KeyLog>, keep_exporter: bool) -> Self {
        Self { secrets: Mutex::default(), keep_exporter, users }
    }

    pub(super) fn take(&self) -> Secrets {
        std::mem::take(&mut *self.secrets.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn is_ours(&self, label: &str) -> bool {
        matches!(label, CLIENT | SERVER) || label == EXPORTER && self.keep_exporter
    }
}

const CLIENT: &str = "CLIENT_TRAFFIC_SECRET_0";
const SERVER: &str = "SERVER_TRAFFIC_SECRET_0";
const EXPORTER: &str = "EXPORTER_SECRET";

impl KeyLog for SecretLog {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        if self.is_ours(label) {
            let mut secrets = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
            let place = match label {
                CLIENT => &mut secrets.client,
                SERVER => &mut secrets.server,
                _ => &mut secrets.exporter,
            };
            *place = Secret::new(secret);
        }
        if self.users.will_log(label) {
            self.users.log(label, client_random, secret);
        }
    }

    fn will_log(&self, label: &str) -> bool {
        self.is_ours(label) || self.users.will_log(label)
    }
}

impl fmt::Debug for SecretLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretLog").finish_non_exhaustive()
    }
}
