//! HTTPS: what its clients notice of handoffs and of processes that are killed.

use std::time::Duration;

use integration_tests::tls::{self, Victim, kill};

use crate::alone;

#[test]
fn two_hundred_busy_and_two_thousand_silent_clients_outlive_fifty_versions() {
    let _alone = alone();
    tls::outlive(200, 2_000, 50);
}

#[test]
fn either_process_is_killed_at_every_moment() {
    let _alone = alone();
    for moment in (0..200).step_by(2).map(Duration::from_millis) {
        for victim in [Victim::Incumbent, Victim::Successor] {
            kill(victim, moment);
        }
    }
}
