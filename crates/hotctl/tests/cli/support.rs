//! A service that is not one: it speaks Varlink on a control socket, and a test decides what it says.
//!
//! Deliberately absent: the state machines. A real service is in `integration-tests`; here hotctl meets
//! whatever a test can think of.

pub(crate) mod fake;
pub(crate) mod run;

use std::thread;
use std::time::{Duration, Instant};

/// The one helper that waits: asks until there is an answer, and fails loudly after a minute.
pub(crate) fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < until, "never happened: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}
