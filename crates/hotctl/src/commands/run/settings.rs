//! What the command line says, and what the version before has said where it says nothing.

use std::io;
use std::time::Duration;

use hotupdate::State;
use hotupdate_proto::ProgramTiming;
use hotupdate_proto::program::Readiness;
use serde::{Deserialize, Serialize};
use signal_hook::consts::SIGTERM;

use super::probe::Target;
use crate::cli;
use crate::listen_spec::ListenSpec;

/// Under this name it goes to the next version.
pub(super) const STATE: &str = "hotctl/run";

/// What is in it.
pub(super) const SCHEMA: &str = "json/1";

/// How COMMAND is run, but for COMMAND itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Settings {
    /// As on the command line; paths are absolute.
    pub(super) listen: Vec<ListenSpec>,
    pub(super) ready: Ready,
    pub(super) ready_within: Duration,
    pub(super) settle: Duration,
    pub(super) stop_signal: i32,
    pub(super) stop_within: Duration,
    pub(super) blocking: bool,
}

/// How COMMAND is known to be ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Ready {
    Runs,
    Says,
    Answers(Target),
}

impl Settings {
    /// # Errors
    /// What is missing, in words.
    pub(super) fn of(
        options: &cli::Run,
        before: Option<&State>,
        waits: &ProgramTiming,
    ) -> Result<Self, String> {
        let before =
            before.filter(|state| state.schema == SCHEMA).and_then(|state| Self::from_bytes(&state.bytes));
        let before = before.unwrap_or_else(|| Self::default(waits));
        let said =
            options.ready_http.as_deref().and_then(|text| Target::parse(text).ok()).map(Ready::Answers);
        let said = said.or(options.ready_notify.then_some(Ready::Says));
        let settings = Self {
            listen: match options.listen.as_slice() {
                [] => before.listen,
                said => said
                    .iter()
                    .map(ListenSpec::absolute)
                    .collect::<io::Result<_>>()
                    .map_err(|error| format!("the working directory is gone: {error}"))?,
            },
            ready: said.unwrap_or(before.ready),
            ready_within: options.ready_within.unwrap_or(before.ready_within),
            settle: options.settle.unwrap_or(before.settle),
            stop_signal: options.stop_signal.unwrap_or(before.stop_signal),
            stop_within: options.stop_within.unwrap_or(before.stop_within),
            blocking: options.blocking || before.blocking,
        };
        settings.check()
    }

    fn default(waits: &ProgramTiming) -> Self {
        Self {
            listen: Vec::new(),
            ready: Ready::Runs,
            ready_within: waits.ready,
            settle: waits.settle,
            stop_signal: SIGTERM,
            stop_within: waits.stop,
            blocking: false,
        }
    }

    fn check(self) -> Result<Self, String> {
        if self.listen.is_empty() {
            return Err(
                "no version before this one was run by `hotctl run`, so name the listeners (--listen \
                        http=0.0.0.0:8080)"
                    .to_owned(),
            );
        }
        for (index, spec) in self.listen.iter().enumerate() {
            if self.listen[..index].iter().any(|before| before.name == spec.name) {
                return Err(format!("two listeners have the name {}", spec.name));
            }
        }
        Ok(self)
    }

    pub(super) fn timing(&self, waits: &ProgramTiming) -> ProgramTiming {
        ProgramTiming {
            ready: self.ready_within,
            settle: self.settle,
            stop: self.stop_within,
            ..waits.clone()
        }
    }

    pub(super) fn readiness(&self) -> Readiness {
        match self.ready {
            Ready::Runs => Readiness::Runs,
            Ready::Says => Readiness::Says,
            Ready::Answers(_) => Readiness::Answers,
        }
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("text and numbers are JSON")
    }

    /// Nothing from a version that says it in another way.
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}
