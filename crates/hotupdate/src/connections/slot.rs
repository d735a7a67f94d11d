//! What a connection holds to migrate in its turn.
//!
//! Deliberately absent: whose turn it is, which the queue says.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::queue::Place;
use super::record::{Record, Status};

/// A connection's place in the queue of those that migrate to the next version.
///
/// A connection that migrates without it does so at once, and waits unserved until all that came before have
/// migrated; with 100,000 connections these are seconds.
///
/// ```no_run
/// # async fn step(_: &mut hotupdate::Connection) {}
/// async fn converse(mut connection: hotupdate::Connection) {
///     let mut slot = connection.migration_slot();
///     loop {
///         tokio::select! {
///             () = slot.acquire("echo") => match connection.migrate("echo", &()).await {
///                 Ok(()) => return,                            // the next version goes on
///                 Err(stays) => connection = stays.connection, // serve it here; try again after a change
///             },
///             () = step(&mut connection) => {}
///         }
///     }
/// }
/// ```
#[derive(Debug)]
pub struct MigrationSlot {
    pub(super) record: Arc<Record>,
    pub(super) place: Place,
}

impl MigrationSlot {
    pub(super) fn new(record: Arc<Record>) -> Self {
        Self { record, place: Place::None }
    }

    /// Resolves when the connection can migrate (see
    /// [`Connection::can_migrate`](crate::Connection::can_migrate)) and has a slot. Connections whose clients
    /// have been silent for a second come first.
    ///
    /// The slot is held until this value is dropped, or asked for something else. Safe to cancel: the place
    /// in the queue is lost.
    pub async fn acquire(&mut self, kind: &str) {
        self.release();
        let waiting = Waiting(self);
        poll_fn(|cx| {
            let record = &waiting.0.record;
            // First, so that a change that comes now wakes this task.
            record.register(cx.waker());
            record.see();
            if record.table.phase.borrow().is_draining() && record.can_migrate(kind) {
                return waiting.0.poll_acquire(cx);
            }
            waiting.0.release();
            Poll::Pending
        })
        .await;
    }

    /// Resolves when the connection has a slot, whether or not it can migrate.
    ///
    /// Safe to cancel, as [`MigrationSlot::acquire`] is.
    pub async fn acquire_any(&mut self) {
        let waiting = Waiting(self);
        poll_fn(|cx| waiting.0.poll_acquire(cx)).await;
    }

    /// As [`MigrationSlot::acquire_any`]. Between two calls the place in the queue is kept, and the slot,
    /// until [`MigrationSlot::release`]: a caller that neither polls again nor releases holds up other
    /// connections.
    pub fn poll_acquire(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.record.table.queue.poll(&self.record, &mut self.place, cx)
    }

    /// Gives up the slot, or the place in the queue.
    #[inline]
    pub fn release(&mut self) {
        if !matches!(self.place, Place::None) || self.record.status().has(Status::EXPECTED) {
            self.record.table.queue.leave(&self.record, &mut self.place);
        }
    }
}

impl Drop for MigrationSlot {
    fn drop(&mut self) {
        self.release();
    }
}

/// Gives up the place in the queue when the wait is cancelled. A slot that was granted is kept.
struct Waiting<'a>(&'a mut MigrationSlot);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if matches!(self.0.place, Place::Waits(_)) {
            self.0.release();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::fixture::{Fixture, poll_once};
    use super::*;

    #[tokio::test]
    async fn a_slot_needs_a_drain_and_a_process_that_accepts_the_kind() {
        let fixture = Fixture::new();
        let mut slot = fixture.connection().migration_slot();
        fixture.accept_kind("echo", None);
        assert!(poll_once(slot.acquire("echo")).is_pending(), "the process serves");
        fixture.drain();
        assert!(poll_once(slot.acquire("echo")).is_ready());
        assert!(poll_once(slot.acquire("another")).is_pending());
        fixture.accept_kind("echo", Some("another listener"));
        assert!(poll_once(slot.acquire("echo")).is_pending());
        fixture.accept_kind("echo", Some("test"));
        assert!(poll_once(slot.acquire("echo")).is_ready());
        fixture.connections.end_migration();
        assert!(poll_once(slot.acquire("echo")).is_pending());
    }

    #[tokio::test]
    async fn a_change_is_a_new_chance_and_comes_to_a_connection_that_waits() {
        let fixture = Fixture::new();
        let connection = fixture.connection();
        let mut slot = connection.migration_slot();
        let acquired = tokio::spawn(async move { slot.acquire("echo").await });
        for change in [Fixture::drain, |fixture: &Fixture| fixture.connections.end_migration()] {
            tokio::task::yield_now().await;
            change(&fixture);
        }
        tokio::task::yield_now().await;
        assert!(!acquired.is_finished());
        fixture.accept_kind("echo", None);
        tokio::time::timeout(Duration::from_secs(60), acquired).await.expect("it is told").unwrap();
    }

    #[tokio::test]
    async fn a_connection_that_was_refused_has_no_slot_until_something_changes() {
        let mut fixture = Fixture::new();
        let connection = fixture.connection();
        let mut slot = connection.migration_slot();
        fixture.drain();
        fixture.accept_kind("echo", None);
        assert!(poll_once(slot.acquire("echo")).is_ready());
        let refuses = async {
            fixture.migrations.recv().await.unwrap().give_back();
        };
        let (migrated, ()) = tokio::join!(connection.migrate("echo", &1), refuses);
        let connection = migrated.unwrap_err().connection;
        assert!(!connection.can_migrate("echo"));
        assert!(poll_once(slot.acquire("echo")).is_pending());
        assert!(poll_once(fixture.connections.next_portion(0)).is_ready(), "it has asked to leave");
        fixture.connections.table.queue.assert_empty();
        fixture.accept_kind("echo", None);
        assert!(poll_once(slot.acquire("echo")).is_ready());
    }

    /// The other process answers again while the refusal is on its way to the connection.
    #[tokio::test]
    async fn a_refusal_from_before_a_change_does_not_count() {
        let mut fixture = Fixture::new();
        let connection = fixture.connection();
        fixture.drain();
        fixture.accept_kind("echo", None);
        let migrated = async {
            let request = fixture.migrations.recv().await.unwrap();
            fixture.connections.resume_migration();
            request.give_back();
        };
        let (migrated, ()) = tokio::join!(connection.migrate("echo", &1), migrated);
        assert!(migrated.unwrap_err().connection.can_migrate("echo"));
    }

    #[tokio::test]
    async fn a_wait_that_is_cancelled_gives_up_the_place_and_not_the_slot() {
        let fixture = Fixture::new();
        let [mut first, mut second] = [(); 2].map(|()| fixture.connection().migration_slot());
        assert!(poll_once(first.acquire_any()).is_ready());
        assert!(matches!(first.place, Place::Granted));
        fixture.connections.suspend_migration(tokio::time::Instant::now() + Duration::from_secs(60));
        assert!(poll_once(second.acquire_any()).is_pending());
        assert!(matches!(second.place, Place::None));
        assert!(poll_once(first.acquire_any()).is_ready(), "it has it still");
        drop(first);
        fixture.connections.table.queue.assert_empty();
    }
}
