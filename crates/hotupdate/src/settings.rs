//! What was set before joining, as the other parts of a process read it.

use std::path::PathBuf;

use hotupdate_proto::environment::NAME;
use hotupdate_proto::incumbent::Local;
use hotupdate_proto::message::Release;
use hotupdate_proto::supervision::AfterDrain;
use hotupdate_proto::{
    FEATURE_COUNTS, FEATURE_MIGRATE, FEATURE_REBIND, FEATURE_SUPERVISION, FEATURE_TROUBLE, Process, Timing,
    VERSIONS, default_name,
};

use crate::control::Users;
use crate::platform::SignalKind;
use crate::process::identity;

/// The settings of one process.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) path: PathBuf,
    pub(crate) version: String,
    pub(crate) name: Option<String>,
    /// The command line of the program for which this process speaks, if there is one.
    pub(crate) program: Option<String>,
    pub(crate) release: Release,
    pub(crate) timing: Timing,
    pub(crate) users: Users,
    pub(crate) successor_signal: Option<SignalKind>,
    pub(crate) stop_signals: bool,
    /// Without it the process looks whether its end would be taken for the end of the service.
    pub(crate) after_drain: Option<AfterDrain>,
    pub(crate) max_draining: usize,
    pub(crate) migrate_connections: bool,
    pub(crate) abandon_listeners: bool,
    pub(crate) descriptor_store: Option<bool>,
}

impl Settings {
    /// The defaults of a service whose control socket is at this path.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            path,
            version: String::new(),
            name: None,
            program: None,
            release: Release::Now,
            timing: Timing::default(),
            users: Users::default(),
            successor_signal: None,
            stop_signals: true,
            after_drain: None,
            max_draining: 8,
            migrate_connections: true,
            abandon_listeners: false,
            descriptor_store: None,
        }
    }

    pub(crate) fn local(&self) -> Local {
        Local {
            process: Process::new(random_hex(), std::process::id(), self.version.clone())
                .named(self.name())
                .running(self.program.as_deref()),
            versions: VERSIONS,
            features: self.features(),
            timing: self.timing.clone(),
            max_draining: self.max_draining,
        }
    }

    fn features(&self) -> Vec<String> {
        let migrate = self.migrate_connections.then_some(FEATURE_MIGRATE);
        let always = [FEATURE_COUNTS, FEATURE_REBIND, FEATURE_SUPERVISION, FEATURE_TROUBLE];
        migrate.into_iter().chain(always).map(str::to_owned).collect()
    }

    fn name(&self) -> String {
        let given = self.name.clone().or_else(|| std::env::var(NAME).ok());
        given
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| default_name(&identity::host(), std::process::id()))
    }
}

/// 128 random bits in hexadecimal.
pub(crate) fn random_hex() -> String {
    identity::random().iter().map(|byte| format!("{byte:02x}")).collect()
}
