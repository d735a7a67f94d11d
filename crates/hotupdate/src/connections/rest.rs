//! Connections that are idle hold nothing that only messages need: their tasks are told so, and not by a
//! timer for each of them, but by one that looks at all of them.
//!
//! Deliberately absent: what a task holds. The code that speaks a protocol knows it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::activity::ConnectionActivity;
use super::record::{Record, Status};
use super::table::Connections;

/// A client that is silent for so long is not about to ask again. To make a connection ready for messages
/// once more costs as much as a tenth of a small request.
const IDLE_AFTER: Duration = Duration::from_secs(1);

/// Tasks that are woken at a time, so that requests do not wait behind them.
const PORTION: usize = 32;

const BETWEEN_PORTIONS: Duration = Duration::from_millis(1);

/// For the crate `hotupdate-axum`.
#[doc(hidden)]
impl ConnectionActivity {
    /// Whether the task of the connection holds buffers for messages from here on.
    pub fn set_equipped(&self, equipped: bool) {
        self.record.update(|status| match equipped {
            true => status.with(Status::EQUIPPED),
            false => status.without(Status::EQUIPPED | Status::RESTS),
        });
    }

    /// Whether it should give them back, when it is between two messages.
    #[inline]
    #[must_use]
    pub fn rests(&self) -> bool {
        self.record.status().has(Status::RESTS)
    }
}

#[doc(hidden)]
impl Connections {
    /// Tells the tasks of idle connections of this listener to give back what they hold. Ends when none of
    /// them holds anything.
    pub async fn let_rest(&self, listener: &str) {
        loop {
            let looks = self.table.clock.look(IDLE_AFTER);
            sleep(IDLE_AFTER).await;
            drop(looks);
            let Some(idle) = self.idle(listener) else { return };
            for portion in idle.chunks(PORTION) {
                portion.iter().for_each(|record| record.rest());
                sleep(BETWEEN_PORTIONS).await;
            }
        }
    }

    /// Tells all that could rest, however long their clients have been silent.
    #[cfg(feature = "test-util")]
    pub(crate) fn rest_now(&self) {
        let rows: Vec<_> = self.table.rows().values().cloned().collect();
        rows.iter().for_each(|record| record.rest());
    }

    /// `None` if none of these connections holds anything.
    fn idle(&self, listener: &str) -> Option<Vec<Arc<Record>>> {
        let rows = self.table.rows();
        let equipped = |record: &&Arc<Record>| {
            record.listener.as_str() == listener && record.status().has(Status::EQUIPPED)
        };
        let mut equipped = rows.values().filter(equipped).peekable();
        equipped.peek()?;
        Some(equipped.filter(|record| record.is_idle()).cloned().collect())
    }
}

impl Record {
    fn is_idle(&self) -> bool {
        self.silence() >= IDLE_AFTER && self.status().may_rest()
    }

    fn rest(&self) {
        let before =
            self.update(|status| if status.may_rest() { status.with(Status::RESTS) } else { status });
        if before.may_rest() {
            self.wake();
        }
    }
}

impl Status {
    fn may_rest(self) -> bool {
        self.has(Self::EQUIPPED) && !self.has(Self::RESTS | Self::HEAD_BEGUN) && !self.is_serving()
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::super::fixture::{Fixture, Woken, poll_once};
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_what_is_idle_and_holds_something_is_told_to_rest_and_once() {
        let fixture = Fixture::new();
        let all = [(); 5].map(|()| fixture.connection());
        let [idle, active, head, upgraded, bare] = all.each_ref().map(|connection| connection.activity());
        let woken = [(); 5].map(|()| Arc::new(Woken::default()));
        for (connection, woken) in all.iter().zip(&woken) {
            connection.tracker().record.register(&Waker::from(woken.clone()));
            connection.activity().set_equipped(true);
        }
        bare.set_equipped(false);
        let _request = active.begin_request();
        head.bytes_read();
        upgraded.set_upgraded("raw");
        let activities = [&idle, &active, &head, &upgraded, &bare];
        assert!(poll_once(fixture.connections.let_rest("another")).is_pending());
        let told = tokio::spawn({
            let connections = fixture.connections.clone();
            async move { connections.let_rest("test").await }
        });
        for _ in 0..3 {
            tokio::time::sleep(2 * IDLE_AFTER).await;
            assert_eq!(activities.map(ConnectionActivity::rests), [true, false, false, false, false]);
            assert_eq!(woken.each_ref().map(|woken| woken.count()), [1, 0, 0, 0, 0]);
        }
        idle.bytes_read();
        assert!(!idle.rests(), "its client is back");
        drop(idle.begin_request());
        tokio::time::sleep(2 * IDLE_AFTER).await;
        assert!(idle.rests() && woken[0].count() == 2);
        assert!(!told.is_finished());
        activities.into_iter().for_each(|activity| activity.set_equipped(false));
        tokio::time::timeout(2 * IDLE_AFTER, told).await.expect("there is nothing to tell").unwrap();
        assert!(!idle.rests());
    }
}
