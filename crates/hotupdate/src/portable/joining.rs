//! Every start is a first start.

use std::collections::HashMap;

use hotupdate_proto::{Generation, environment};
use tracing::Span;

use super::signals::Signals;
use super::{NO_HANDOFF, driver};
use crate::error::{Error, ErrorKind, Result};
use crate::settings::Settings;
use crate::starting::Starting;

pub(crate) async fn join(settings: Settings) -> Result<Starting> {
    // What was started as the next version must not be a second service.
    if std::env::var_os(environment::ATTEMPT).is_some_and(|attempt| !attempt.is_empty()) {
        let doing = format!("joining at {}", settings.path.display());
        return Err(Error::new(ErrorKind::Refused, doing, NO_HANDOFF));
    }
    let signals = Signals::install(&settings)?;
    tracing::info!("first start; {NO_HANDOFF}");
    let (release, abandon_listeners) = (settings.release, settings.abandon_listeners);
    let timing = settings.timing.clone();
    let (application, connections) = driver::start(settings, signals);
    Ok(Starting {
        application,
        generation: Generation::FIRST,
        span: Span::none(),
        incumbent: None,
        in_probation: None,
        release,
        abandon_listeners,
        timing,
        offered: Vec::new(),
        state: HashMap::new(),
        stored: HashMap::new(),
        connections,
        resources: Default::default(),
        misdirected: Some(format!("{NO_HANDOFF}: end the one that has this address first")),
        ready: Default::default(),
        failed: None,
        serving: Default::default(),
    })
}
