//! Connections that rest: their clients are silent, and they have no task, no buffers and no timer until
//! something happens. Such a connection migrates without being woken.
//!
//! Tasks are told that their connections are idle, not by a timer for each of them, but by one that looks at
//! all of them.
//!
//! Deliberately absent: what a task holds. The code that speaks a protocol knows it.

use std::fmt;
use std::future::poll_fn;
use std::mem;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Wake, Waker};

use hotupdate_proto::ShortText;
use hotupdate_proto::timing::fixed::connections::{BETWEEN_PORTIONS, IDLE_AFTER};
use tokio::task::unconstrained;
use tokio::time::sleep;

use super::activity::ConnectionActivity;
use super::connection::Connection;
use super::drain::Phase;
use super::record::{Owner, Record, Status};
use super::table::Connections;

/// Tasks that are woken at a time, so that requests do not wait behind them.
const PORTION: usize = 32;

/// What is left of the code that speaks with a client while its connection rests.
#[doc(hidden)]
pub trait AtRest: Send + 'static {
    /// What the connection migrates with.
    fn state(&self) -> Vec<u8>;

    /// The client says something or closes the connection, or the process wants something of it. It must not
    /// block.
    fn go_on(self: Box<Self>, connection: Connection);
}

/// A connection that rests.
pub(super) struct Resting {
    connection: Connection,
    pub(super) kind: &'static str,
    at_rest: Box<dyn AtRest>,
}

impl Resting {
    /// Migrates; if it cannot, it goes on here.
    pub(super) fn migrate(self) {
        let Self { connection, kind, at_rest } = self;
        let state = at_rest.state();
        let stays = Box::new(|connection, _| at_rest.go_on(connection));
        connection.leave(ShortText::from_static(kind), state, stays, None);
    }
}

impl fmt::Debug for Resting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What is at rest is the client's.
        let Self { connection: _, kind, at_rest: _ } = self;
        f.debug_struct("Resting").field("kind", kind).finish_non_exhaustive()
    }
}

/// For the crate `hotupdate-axum`.
#[doc(hidden)]
impl Connection {
    /// The connection has no task from here on. When its client says something or closes it, or when the
    /// process wants something of it, `at_rest` goes on with it, perhaps before this returns. Until then it
    /// migrates as [`Connection::migrate_bytes_or`] does.
    pub fn rest(self, kind: &'static str, at_rest: impl AtRest) {
        let record = self.tracker().record.clone();
        record.update(|status| status.without(Status::EQUIPPED | Status::RESTS));
        // It is not in a hurry now, as it will be when it migrates.
        record.cookie(self.socket());
        let waker = Waker::from(record.clone());
        let mut owner = record.owner();
        // An event that comes from here on waits for the lock, and finds the connection.
        let readable = poll_fn(|cx| self.socket().poll_readable(cx));
        // A task that has done much would be made to wait: by waking it, which here means something else.
        let readable = pin!(unconstrained(readable)).poll(&mut Context::from_waker(&waker));
        let resting = Resting { connection: self, kind, at_rest: Box::new(at_rest) };
        let before = mem::replace(&mut *owner, Owner::Resting(resting));
        drop(owner);
        drop(before);
        // What came before that was told to a task that has ended.
        if readable.is_ready() || !record.has_seen_all() || record.phase() != Phase::Serving {
            record.rouse();
        }
    }
}

/// Something has happened to the socket of a connection that rests.
impl Wake for Record {
    fn wake(self: Arc<Self>) {
        self.rouse();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rouse();
    }
}

impl Record {
    /// A connection that rests goes on.
    fn rouse(&self) {
        let owner = self.owner().take_resting();
        if let Some(Resting { connection, at_rest, .. }) = owner {
            at_rest.go_on(connection);
        }
    }
}

impl Owner {
    /// If the connection rests, it has no owner any more.
    pub(super) fn take_resting(&mut self) -> Option<Resting> {
        match mem::take(self) {
            Self::Resting(resting) => Some(resting),
            owner => {
                *self = owner;
                None
            }
        }
    }
}

/// For the crate `hotupdate-axum`.
#[doc(hidden)]
impl ConnectionActivity {
    /// Whether the task of the connection holds what the connection does not need while it rests.
    pub fn set_equipped(&self, equipped: bool) {
        self.record.update(|status| match equipped {
            true => status.with(Status::EQUIPPED),
            false => status.without(Status::EQUIPPED | Status::RESTS),
        });
    }

    /// Whether it should rest, when it is between two messages.
    #[inline]
    #[must_use]
    pub fn rests(&self) -> bool {
        self.record.status().has(Status::RESTS)
    }
}

#[doc(hidden)]
impl Connections {
    /// Tells the tasks of idle connections of this listener that they should rest. Ends when none of them
    /// holds anything, and no client is heard: as long as this looks at the clock, a read need not.
    pub async fn let_rest(&self, listener: &str) {
        loop {
            let looks = self.table.clock.look(IDLE_AFTER);
            sleep(IDLE_AFTER).await;
            drop(looks);
            let Some(idle) = self.idle(listener) else {
                if self.table.clock.is_busy(2 * IDLE_AFTER) {
                    continue;
                }
                return;
            };
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
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixStream;
    use tokio::sync::mpsc;

    use super::super::fixture::{Echo, Fixture, Woken, poll_once};
    use super::*;

    /// A connection that rests, its client, and where it goes on.
    fn resting(fixture: &Fixture) -> (UnixStream, mpsc::UnboundedReceiver<Connection>) {
        let (connection, client) = fixture.accept();
        (client, rest(connection))
    }

    fn rest(connection: Connection) -> mpsc::UnboundedReceiver<Connection> {
        let (goes_on, gone_on) = mpsc::unbounded_channel();
        connection.rest("echo", Echo(move |connection| drop(goes_on.send(connection))));
        gone_on
    }

    #[tokio::test]
    async fn a_connection_goes_on_when_its_client_says_something_or_leaves_and_once() {
        let fixture = Fixture::new();
        for leaves in [false, true] {
            let (mut client, mut gone_on) = resting(&fixture);
            assert!(poll_once(gone_on.recv()).is_pending());
            match leaves {
                true => drop(client),
                false => client.write_all(b"more").await.unwrap(),
            }
            let mut connection = gone_on.recv().await.unwrap();
            let mut bytes = [0; 8];
            assert_eq!(connection.read(&mut bytes).await.unwrap(), if leaves { 0 } else { 4 });
            assert!(gone_on.recv().await.is_none());
        }
        assert_eq!(fixture.connections.totals().finished, 2);
    }

    /// tokio makes a task wait that has read much: it wakes it, which here would mean that the connection has
    /// something to do, and while the connection is not at rest yet.
    #[tokio::test]
    async fn a_connection_of_a_task_that_has_done_much_rests_all_the_same() {
        let fixture = Fixture::new();
        tokio::spawn(async move {
            let (mut reads, mut writes) = tokio::io::duplex(1024);
            writes.write_all(&[0; 1024]).await.unwrap();
            while tokio::task::coop::has_budget_remaining() {
                assert!(poll_once(reads.read_exact(&mut [0])).is_ready());
            }
            let (mut client, mut gone_on) = resting(&fixture);
            assert!(poll_once(unconstrained(gone_on.recv())).is_pending());
            client.write_all(b"more").await.unwrap();
            assert!(gone_on.recv().await.is_some());
        })
        .await
        .unwrap();
    }

    #[tokio::test]
    async fn what_came_before_the_rest_is_not_lost() {
        let fixture = Fixture::new();
        let (mut connection, mut client) = fixture.accept();
        client.write_all(b"moremore").await.unwrap();
        // The buffer is full, so there may be more.
        connection.read_exact(&mut [0; 4]).await.unwrap();
        let mut gone_on = rest(connection);
        assert!(gone_on.recv().await.is_some(), "bytes");

        // A change is told to the task, which has ended.
        let (connection, _client) = fixture.accept();
        fixture.drain();
        assert!(rest(connection).recv().await.is_some(), "a change");
        let (connection, _client) = fixture.accept();
        assert!(rest(connection).recv().await.is_some(), "it comes while the process drains");
    }

    #[tokio::test]
    async fn a_connection_leaves_without_going_on_and_goes_on_if_it_comes_back() {
        let mut fixture = Fixture::new();
        let (_client, mut gone_on) = resting(&fixture);
        fixture.accept_kind("echo", None);
        assert!(poll_once(gone_on.recv()).is_pending(), "the process does not drain");
        fixture.drain();
        let request = fixture.migrations.try_recv().unwrap();
        assert_eq!((request.kind.as_str(), &request.state[..]), ("echo", &b"state"[..]));
        assert!(poll_once(gone_on.recv()).is_pending());
        request.give_back();
        let connection = gone_on.recv().await.unwrap();
        assert!(!connection.can_migrate("echo"), "it was refused");

        let mut gone_on = rest(connection);
        assert!(gone_on.recv().await.is_some(), "the process drains");
        let (_client, mut gone_on) = {
            fixture.connections.set_phase(Phase::Serving);
            resting(&fixture)
        };
        fixture.drain();
        fixture.migrations.try_recv().unwrap().migrated();
        assert!(gone_on.recv().await.is_none());
        assert_eq!(fixture.connections.migrated(), 1);
    }

    #[tokio::test]
    async fn a_drain_in_which_a_connection_cannot_leave_gives_it_a_task() {
        let fixture = Fixture::new();
        for kinds in [&[][..], &["another"], &["echo"]] {
            fixture.connections.end_migration();
            fixture.connections.set_phase(Phase::Serving);
            let (_client, mut gone_on) = resting(&fixture);
            kinds.iter().for_each(|kind| fixture.accept_kind(kind, None));
            if kinds.contains(&"echo") {
                fixture.connections.suspend_half(Duration::from_secs(60));
            }
            fixture.drain();
            assert!(gone_on.recv().await.is_some(), "{kinds:?}");
            assert!(fixture.migrations.is_empty(), "{kinds:?}");
        }
    }

    #[tokio::test]
    async fn a_drain_that_is_over_before_it_is_told_disturbs_no_rest() {
        let fixture = Fixture::new();
        fixture.connections.set_paced();
        let (_client, mut gone_on) = resting(&fixture);
        fixture.drain();
        fixture.connections.set_phase(Phase::Serving);
        let told = poll_once(fixture.connections.next_portion(0));
        assert!(told.is_pending() && !fixture.connections.is_calling());
        assert!(poll_once(gone_on.recv()).is_pending());
        fixture.accept_kind("echo", None);
        fixture.drain();
        assert!(poll_once(fixture.connections.next_portion(0)).is_ready(), "it is told of the next one");
    }

    #[tokio::test]
    async fn the_deadline_of_a_drain_ends_a_rest() {
        let fixture = Fixture::new();
        let (mut client, mut gone_on) = resting(&fixture);
        assert_eq!(fixture.connections.force().len(), 1);
        drop(gone_on.recv().await.unwrap());
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
        assert_eq!((fixture.connections.forced(), fixture.connections.rows().len()), (1, 0));
    }

    /// As with a task: nothing of it is left.
    #[test]
    fn a_connection_ends_with_its_runtime() {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let (mut client, connections) = runtime.block_on(async {
            let fixture = Fixture::new();
            let (connection, client) = fixture.accept();
            let runtime = tokio::runtime::Handle::current();
            let go_on = move |connection| drop(runtime.spawn(async move { drop(connection) }));
            connection.rest("echo", Echo(go_on));
            (client.into_std().unwrap(), fixture.connections)
        });
        drop(runtime);
        client.set_nonblocking(false).unwrap();
        assert_eq!(std::io::Read::read(&mut client, &mut [0]).unwrap(), 0);
        assert!(connections.rows().is_empty());
    }

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
