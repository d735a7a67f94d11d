//! Whatever a caller does on the control socket: the service answers, nothing is left behind, the next
//! handoff works.
//!
//! Deliberately absent: callers that join (`hostile.rs`), and those that may not (`control_socket.rs`).

mod calls;
mod crowds;
mod joins;
mod nonsense;

use std::time::Duration;

use crate::common::peer::status;
use crate::common::{
    BRIEF, Folder, alone, ask, describe_descriptors, descriptors, nothing_leaked, replace_by, serve,
};
use hotupdate::{Builder, Timing};

/// Does `attack` to a service with these settings.
pub(crate) fn survives_with(settings: impl FnOnce(Builder) -> Builder, attack: impl AsyncFnOnce(&Folder)) {
    alone(withstand(settings, attack));
}

async fn withstand(settings: impl FnOnce(Builder) -> Builder, attack: impl AsyncFnOnce(&Folder)) {
    let folder = Folder::new();
    let starting = settings(folder.builder("v1")).join().await.unwrap();
    let (first, address) = serve(starting, "v1").await;
    assert_eq!(ask(address).await, "v1");
    let before = descriptors();
    attack(&folder).await;
    assert_eq!(ask(address).await, "v1", "it serves on");
    assert_eq!(status(&folder.control()).await["serving"]["state"], "serving");
    nothing_leaked(before).await;
    let (_second, same) = replace_by(&folder, &first, "v2").await;
    assert_eq!(same, address);
    assert!(descriptors() <= before + 4, "{:#?}", describe_descriptors());
}

pub(crate) fn survives(attack: impl AsyncFnOnce(&Folder)) {
    survives_with(|builder| builder, attack);
}

pub(crate) fn impatient(builder: Builder) -> Builder {
    builder.timing(timing().hello(BRIEF))
}

pub(crate) fn timing() -> Timing {
    Timing::default().probation(Duration::ZERO)
}
