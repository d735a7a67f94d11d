//! Drives a connection's future and sees, beside it, what its process wants and how long it has been silent.
//!
//! Deliberately absent: what to do then. HTTP/1.1, HTTP/2 and the detection before them differ in that, and in nothing
//! else.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hotupdate::connections::{ConnectionActivity, Migration};
use hotupdate::drain::Phase;
use hotupdate::{Connection, Drain, MigrationSlot};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, Sleep};

use crate::detect::Protocol;
use crate::idle::{IdleTimeout, Observation, linger};
use crate::moving::KIND;
use crate::pulse::{PollSnapshot, Pulse};

/// One connection's view of its process.
#[derive(Debug)]
pub(crate) struct Watch {
    drain: Drain,
    phase: Phase,
    activity: ConnectionActivity,
    monitor: IdleMonitor,
    slot: MigrationSlot,
}

/// Listens to the silence of one connection.
#[derive(Debug)]
struct IdleMonitor {
    pulse: Arc<Pulse>,
    silence: IdleTimeout,
    /// What the client speaks, once that is known.
    speaks: Option<Protocol>,
    timer: Option<Pin<Box<Sleep>>>,
    /// It has served a request and may leave after it: what follows is held back until it is known.
    may_leave: bool,
}

/// How long it may take to see that the other process has not said in time what it takes.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// Why [`Watch::next`] has returned.
#[derive(Debug)]
pub(crate) enum Event<T> {
    /// The connection's future has ended.
    Ended(T),
    /// The phase is another one.
    Phase(Phase),
    /// The process that serves now takes the connection, it is between two messages, and it is its turn.
    Leaves,
    /// The connection was silent for too long, and nothing is in flight.
    Silent,
    /// The deadline of a drain has passed. It is counted already.
    Forced,
}

impl Watch {
    pub(crate) fn new(connection: &Connection, pulse: Arc<Pulse>, header_timeout: Duration) -> Self {
        let silence = IdleTimeout::new(connection.id(), header_timeout);
        let drain = connection.drain();
        Self {
            phase: drain.phase(),
            drain,
            activity: connection.activity(),
            monitor: IdleMonitor { pulse, silence, speaks: None, timer: None, may_leave: false },
            slot: connection.migration_slot(),
        }
    }

    pub(crate) fn speaks_http1(&mut self) {
        self.monitor.speaks = Some(Protocol::Http1);
    }

    #[cfg(feature = "http2")]
    pub(crate) fn speaks_http2(&mut self) {
        self.monitor.speaks = Some(Protocol::Http2);
    }

    /// The other process did not take the connection. It is not offered again until something changes.
    pub(crate) fn stays(&mut self) {
        self.monitor.pulse.set_stays(true);
        self.slot.release();
    }

    #[cfg(feature = "http2")]
    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    /// Polls `connection` until something has to be done. Safe to call again after every event but `Ended`.
    pub(crate) async fn next<F: Future>(&mut self, mut connection: Pin<&mut F>) -> Event<F::Output> {
        let Self { drain, phase, activity, monitor, slot } = self;
        let event = {
            let mut changed = pin!(drain.changed());
            poll_fn(|cx| {
                if *phase == Phase::Forced {
                    return Poll::Ready(Event::Forced);
                }
                monitor.pulse.register(cx.waker());
                // Before the connection: a request that has just arrived is not told to leave because of what was.
                if let Poll::Ready(phase) = changed.as_mut().poll(cx) {
                    return Poll::Ready(Event::Phase(phase));
                }
                let moves = monitor.moves(*phase, activity);
                let turn = monitor.begin_turn(moves);
                // Then the connection: what has arrived is served, whatever the phase.
                if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                    return Poll::Ready(Event::Ended(ended));
                }
                if moves == Migration::Available && monitor.is_between(turn, cx) {
                    if slot.poll_acquire(cx).is_ready() {
                        return Poll::Ready(Event::Leaves);
                    }
                    monitor.goes_on(cx);
                } else {
                    slot.release();
                }
                ready!(monitor.poll_silence(*phase, moves, cx));
                if monitor.is_between(turn, cx) { Poll::Ready(Event::Silent) } else { Poll::Pending }
            })
            .await
        };
        match event {
            Event::Phase(now) => {
                *phase = now;
                monitor.pulse.set_stays(false);
            }
            Event::Forced => activity.set_forced(),
            Event::Ended(_) | Event::Leaves | Event::Silent => {}
        }
        event
    }

    /// Whether the client has just said something that nobody has read. Then it is not silent: hyper gets the connection
    /// back.
    pub(crate) fn speaks(&mut self, connection: &Connection) -> bool {
        let speaks = self.phase != Phase::Serving && connection.is_readable();
        if speaks {
            self.monitor.pulse.bytes_read();
            self.monitor.silence.speaks(Instant::now());
        }
        speaks
    }

    /// The end of the connection that comes now is our wish, if the process drains.
    pub(crate) fn closing(&self) {
        if self.phase != Phase::Serving {
            self.activity.set_closing();
        }
    }

    /// Ends the connection in a way that cannot destroy an answer on its way to the client: FIN, then reading on for a
    /// moment, then close.
    pub(crate) async fn close(&self, mut connection: Connection) {
        let until = linger(self.drain.phase(), Instant::now());
        let farewell = async {
            connection.shutdown().await?;
            let mut waste = [0; 1024];
            while connection.read(&mut waste).await? > 0 {}
            std::io::Result::Ok(())
        };
        // Neither an error nor the timeout leaves anything to do.
        let _ = tokio::time::timeout_at(until, farewell).await;
    }
}

impl IdleMonitor {
    fn moves(&self, phase: Phase, activity: &ConnectionActivity) -> Migration {
        if !matches!(phase, Phase::Draining(_)) || self.speaks == Some(Protocol::Http2) || self.pulse.stays()
        {
            return Migration::Unavailable;
        }
        activity.migration(KIND)
    }

    /// Right before the connection is polled. A client that pipelines without a pause would otherwise never be between two
    /// messages: each poll would begin the next request.
    fn begin_turn(&mut self, moves: Migration) -> PollSnapshot {
        let turn = self.pulse.turn();
        self.may_leave = moves == Migration::Available && (self.may_leave || self.pulse.is_serving());
        self.pulse.hold_back(self.may_leave);
        turn
    }

    /// It is not its turn to leave: the next request is served here.
    fn goes_on(&mut self, cx: &Context<'_>) {
        if std::mem::take(&mut self.may_leave) {
            // Nobody else says that what was held back can be read.
            cx.waker().wake_by_ref();
        }
    }

    /// Whether the connection can be taken apart so that nothing is lost and nothing is taken for a request.
    fn is_between(&self, turn: PollSnapshot, cx: &Context<'_>) -> bool {
        // Before the protocol is known nothing is taken out of what was read, and HTTP/2 is not taken apart.
        if self.speaks != Some(Protocol::Http1) || self.pulse.is_between_messages(turn) {
            return true;
        }
        if self.pulse.comes_to_rest() {
            // It is known after another poll, for which there is no other reason.
            cx.waker().wake_by_ref();
        }
        false
    }

    /// Ready when the silence has lasted too long.
    fn poll_silence(&mut self, phase: Phase, moves: Migration, cx: &mut Context<'_>) -> Poll<()> {
        let Self { pulse, silence, speaks, timer, may_leave: _ } = self;
        let now = Instant::now();
        let look = if *speaks == Some(Protocol::Http2) {
            let moved = pulse.take_ended() | pulse.take_moved();
            Observation { now, busy: pulse.is_serving(), moved, head: false }
        } else {
            Observation {
                now,
                busy: pulse.is_busy(),
                moved: pulse.take_ended(),
                head: pulse.has_begun_head(),
            }
        };
        let Some(mut end) = silence.ends(phase, look) else {
            // The timer stays for the next time; an old wake-up does no harm.
            return Poll::Pending;
        };
        if moves != Migration::Unavailable {
            // Nobody who can move is told to leave.
            end = end.max(now + ASK_AGAIN);
        }
        let timer = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(end)));
        if timer.deadline() != end {
            timer.as_mut().reset(end);
        }
        timer.as_mut().poll(cx)
    }
}
