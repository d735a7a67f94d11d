//! Drives a connection's future and watches, beside it, what the process wants and how long the connection
//! has been idle.
//!
//! Deliberately absent: what to do then. HTTP/1.1 and the detection before it differ in that; HTTP/2 asks
//! itself, since it is frames that say when it can be taken apart.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hotupdate::MigrationSlot;
use hotupdate::connections::{Changes, ConnectionActivity, PollSnapshot};
use hotupdate::drain::Phase;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep};

use crate::carrier::Kinds;
use crate::detect::Protocol;
use crate::idle::{IdleTimeout, Observation, linger};
use crate::io::Io;

/// One connection's view of its process.
#[derive(Debug)]
pub(crate) struct Watch {
    changes: Changes,
    phase: Phase,
    slot: MigrationSlot,
    monitor: IdleMonitor,
}

/// Watches what is idle, and where a connection can be taken apart.
#[derive(Debug)]
struct IdleMonitor {
    activity: ConnectionActivity,
    /// As what it may migrate, if it may at all.
    kinds: Option<&'static Kinds>,
    timeout: IdleTimeout,
    /// What the client speaks, once that is known.
    protocol: Option<Protocol>,
    timer: Option<Pin<Box<Sleep>>>,
    /// It has served a request and may migrate after it: what follows is held back until that is known.
    may_migrate: bool,
}

/// Why [`Watch::next`] has returned.
#[derive(Debug)]
pub(crate) enum Event<T> {
    /// The connection's future has ended.
    Ended(T),
    /// The phase is another one.
    Phase(Phase),
    /// The process that serves now accepts the connection, it is between two messages, and it has a slot.
    Migrates,
    /// The connection was idle for too long, and nothing is in flight.
    TimedOut,
    /// The connection is idle, between two messages, and needs no task until something happens.
    Rests,
    /// The deadline of a drain has passed. It is counted already.
    Forced,
}

impl Watch {
    /// `kinds` says as what the connection may migrate, if it may at all.
    pub(crate) fn new(
        activity: &ConnectionActivity,
        header_timeout: Duration,
        kinds: Option<&'static Kinds>,
    ) -> Self {
        let changes = activity.changes();
        Self {
            phase: changes.phase(),
            changes,
            slot: activity.migration_slot(),
            monitor: IdleMonitor {
                activity: activity.clone(),
                kinds,
                timeout: IdleTimeout::new(activity.id(), header_timeout),
                protocol: None,
                timer: None,
                may_migrate: false,
            },
        }
    }

    /// `None` as long as hyper has not got the connection.
    pub(crate) fn set_protocol(&mut self, protocol: Option<Protocol>) {
        self.monitor.protocol = protocol;
    }

    #[cfg(feature = "http2")]
    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    pub(crate) fn activity(&self) -> &ConnectionActivity {
        &self.monitor.activity
    }

    /// Whether the process drains, and the one that serves now accepts the connection as one with HTTP/2.
    #[cfg(feature = "http2")]
    pub(crate) fn can_migrate_http2(&self) -> bool {
        self.monitor.can_migrate(self.phase, |kinds| kinds.http2)
    }

    /// As [`Watch::can_migrate_http2`], while streams are open.
    #[cfg(feature = "http2")]
    pub(crate) fn can_migrate_relayed(&self) -> bool {
        self.monitor.can_migrate(self.phase, |kinds| kinds.http2_relayed)
    }

    /// The connection's place in the queue of those that migrate.
    #[cfg(feature = "http2")]
    pub(crate) fn slot(&mut self) -> &mut MigrationSlot {
        &mut self.slot
    }

    /// Ready when what the process wants has changed, or is that the connection ends now; that is counted.
    #[cfg(feature = "http2")]
    #[inline]
    pub(crate) fn poll_change(&mut self, cx: &mut Context<'_>) -> Poll<Phase> {
        if self.phase != Phase::Forced {
            self.phase = ready!(self.changes.poll(cx));
        }
        if self.phase == Phase::Forced {
            self.monitor.activity.set_forced();
        }
        Poll::Ready(self.phase)
    }

    /// Ready when the connection was idle for too long, and was told to leave.
    #[cfg(feature = "http2")]
    pub(crate) fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.monitor.activity.wait();
        self.monitor.poll_timeout(self.phase, false, cx)
    }

    /// Polls `connection` until something has to be done. Safe to call again after every event but `Ended`.
    pub(crate) async fn next<F: Future>(&mut self, mut connection: Pin<&mut F>) -> Event<F::Output> {
        let Self { changes, phase, slot, monitor } = self;
        let event = poll_fn(|cx| {
            if *phase == Phase::Forced {
                return Poll::Ready(Event::Forced);
            }
            // Check for a phase change first, so that a stale phase never closes a connection.
            if let Poll::Ready(phase) = changes.poll(cx) {
                return Poll::Ready(Event::Phase(phase));
            }
            let migrates = monitor.can_migrate(*phase, |kinds| kinds.http1);
            let snapshot = monitor.begin_poll(migrates);
            // Then the connection: what has arrived is served, whatever the phase.
            if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                return Poll::Ready(Event::Ended(ended));
            }
            if *phase == Phase::Serving {
                slot.release();
                if monitor.activity.rests() && monitor.is_between(snapshot, cx) {
                    return Poll::Ready(Event::Rests);
                }
                ready!(monitor.poll_head_timeout(cx));
            } else {
                monitor.activity.wait();
                if migrates && monitor.is_between(snapshot, cx) {
                    if slot.poll_acquire(cx).is_ready() {
                        return Poll::Ready(Event::Migrates);
                    }
                    monitor.goes_on(cx);
                } else {
                    slot.release();
                }
                ready!(monitor.poll_timeout(*phase, migrates, cx));
            }
            if monitor.is_between(snapshot, cx) { Poll::Ready(Event::TimedOut) } else { Poll::Pending }
        })
        .await;
        match event {
            Event::Phase(now) => *phase = now,
            Event::Forced => monitor.activity.set_forced(),
            Event::Ended(_) | Event::Migrates | Event::TimedOut | Event::Rests => {}
        }
        event
    }

    /// Whether the client has just sent something that was not read. Then it is not idle: hyper gets the
    /// connection back.
    pub(crate) fn is_readable(&mut self) -> bool {
        let readable = self.phase != Phase::Serving && self.monitor.activity.is_readable();
        if readable {
            self.monitor.activity.bytes_read();
            self.monitor.timeout.begin_head(Instant::now());
        }
        readable
    }

    /// The end of the connection that comes now is our wish, if the process drains.
    pub(crate) fn closing(&self) {
        if self.phase != Phase::Serving {
            self.monitor.activity.set_closing();
        }
    }

    /// Ends the connection in a way that cannot destroy an answer on its way to the client: FIN, then reading
    /// on for a moment, then close.
    pub(crate) async fn close<T: AsyncRead + AsyncWrite + Unpin>(&self, io: Io<T>) {
        let until = linger(self.changes.phase(), Instant::now());
        // Neither an error nor the timeout leaves anything to do.
        let _ = tokio::time::timeout_at(until, io.end()).await;
    }
}

impl IdleMonitor {
    fn can_migrate(&self, phase: Phase, kind: impl FnOnce(&Kinds) -> &str) -> bool {
        matches!(phase, Phase::Draining(_))
            && self.kinds.is_some_and(|kinds| self.activity.can_migrate(kind(kinds)))
    }

    /// Right before the connection is polled. A client that pipelines without a pause would otherwise never
    /// be between two messages: each poll would begin the next request.
    fn begin_poll(&mut self, migrates: bool) -> PollSnapshot {
        self.may_migrate = migrates && (self.may_migrate || self.activity.is_serving());
        self.activity.begin_poll(self.may_migrate)
    }

    /// There is no slot for it yet: the next request is served here.
    fn goes_on(&mut self, cx: &Context<'_>) {
        if std::mem::take(&mut self.may_migrate) {
            // What was held back can be read, and no event says so.
            cx.waker().wake_by_ref();
        }
    }

    /// Whether the connection can be taken apart so that nothing is lost and nothing is taken for a request.
    fn is_between(&self, snapshot: PollSnapshot, cx: &Context<'_>) -> bool {
        // Before the protocol is known nothing is taken out of what was read.
        if self.protocol.is_none() || self.activity.is_between_messages(snapshot) {
            return true;
        }
        if self.activity.comes_to_rest() {
            // It is known after another poll, for which there is no other reason.
            cx.waker().wake_by_ref();
        }
        false
    }

    /// While the process serves only half a head is limited, and most polls need no clock.
    fn poll_head_timeout(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.activity.has_begun_head() {
            self.timeout.reset();
            return Poll::Pending;
        }
        self.poll_timeout(Phase::Serving, false, cx)
    }

    /// Ready when the connection was idle for too long.
    fn poll_timeout(&mut self, phase: Phase, migrates: bool, cx: &mut Context<'_>) -> Poll<()> {
        let Self { activity, kinds: _, timeout, protocol, timer, may_migrate: _ } = self;
        let now = Instant::now();
        let observation = if *protocol == Some(Protocol::Http2) {
            // Bytes belong to many requests at once, so there is no half head, and all of them count as
            // activity.
            Observation { now, busy: activity.is_serving(), moved: activity.take_moved(), head: false }
        } else {
            let head = activity.has_begun_head();
            Observation { now, busy: activity.is_busy(), moved: activity.take_ended(), head }
        };
        let Some(mut end) = timeout.ends(phase, observation) else {
            // The timer stays for the next time; an old wake-up does no harm.
            return Poll::Pending;
        };
        if migrates {
            // The client of a connection that can migrate is not told to leave. A change ends this wait, or
            // the end of a suspension.
            let Some(until) = activity.suspended_until() else { return Poll::Pending };
            end = end.max(until);
        }
        let timer = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(end)));
        if timer.deadline() != end {
            timer.as_mut().reset(end);
        }
        timer.as_mut().poll(cx)
    }
}
