//! Drives a connection's future and sees, beside it, what its process wants and how long it has been silent.
//!
//! Deliberately absent: what to do then. HTTP/1.1, HTTP/2 and the detection before them differ in that, and in nothing
//! else.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hotupdate::connections::{Activity, Moves};
use hotupdate::drain::Phase;
use hotupdate::{Connection, Drain, Exit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, Sleep};

use crate::moving::KIND;
use crate::pulse::{Pulse, Turn};
use crate::silence::{Look, Silence, linger};

/// One connection's view of its process.
#[derive(Debug)]
pub(crate) struct Watch {
    drain: Drain,
    phase: Phase,
    activity: Activity,
    ear: Ear,
    exit: Exit,
}

/// Listens to the silence of one connection.
#[derive(Debug)]
struct Ear {
    pulse: Arc<Pulse>,
    silence: Silence,
    speaks: Speaks,
    timer: Option<Pin<Box<Sleep>>>,
    /// It has served a request and may leave after it: what follows is held back until it is known.
    may_leave: bool,
}

/// What is driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Speaks {
    /// Nobody knows yet.
    Unknown,
    Http1,
    /// Bytes belong to many requests at once, so there is no half head, and all of them break silence.
    Http2,
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
        let silence = Silence::new(connection.id(), header_timeout);
        let drain = connection.drain();
        Self {
            phase: drain.phase(),
            drain,
            activity: connection.activity(),
            ear: Ear { pulse, silence, speaks: Speaks::Unknown, timer: None, may_leave: false },
            exit: connection.exit(),
        }
    }

    pub(crate) fn speaks_http1(&mut self) {
        self.ear.speaks = Speaks::Http1;
    }

    pub(crate) fn speaks_http2(&mut self) {
        self.ear.speaks = Speaks::Http2;
    }

    /// The other process did not take the connection. It is not offered again until something changes.
    pub(crate) fn stays(&mut self) {
        self.ear.pulse.set_stays(true);
        self.exit.step_out();
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    /// Polls `connection` until something has to be done. Safe to call again after every event but `Ended`.
    pub(crate) async fn next<F: Future>(&mut self, mut connection: Pin<&mut F>) -> Event<F::Output> {
        let Self { drain, phase, activity, ear, exit } = self;
        let event = {
            let mut changed = pin!(drain.changed());
            poll_fn(|cx| {
                if *phase == Phase::Forced {
                    return Poll::Ready(Event::Forced);
                }
                ear.pulse.register(cx.waker());
                // Before the connection: a request that has just arrived is not told to leave because of what was.
                if let Poll::Ready(phase) = changed.as_mut().poll(cx) {
                    return Poll::Ready(Event::Phase(phase));
                }
                let moves = ear.moves(*phase, activity);
                let turn = ear.begin_turn(moves);
                // Then the connection: what has arrived is served, whatever the phase.
                if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                    return Poll::Ready(Event::Ended(ended));
                }
                if moves == Moves::Yes && ear.is_between(turn, cx) {
                    if exit.poll_next(cx).is_ready() {
                        return Poll::Ready(Event::Leaves);
                    }
                    ear.goes_on(cx);
                } else {
                    exit.step_out();
                }
                ready!(ear.poll_silence(*phase, moves, cx));
                if ear.is_between(turn, cx) { Poll::Ready(Event::Silent) } else { Poll::Pending }
            })
            .await
        };
        match event {
            Event::Phase(now) => {
                *phase = now;
                ear.pulse.set_stays(false);
            }
            Event::Forced => activity.forced(),
            Event::Ended(_) | Event::Leaves | Event::Silent => {}
        }
        event
    }

    /// Whether the client has just said something that nobody has read. Then it is not silent: hyper gets the connection
    /// back.
    pub(crate) fn speaks(&mut self, connection: &Connection) -> bool {
        let speaks = self.phase != Phase::Serving && connection.is_readable();
        if speaks {
            self.ear.pulse.bytes_read();
            self.ear.silence.speaks(Instant::now());
        }
        speaks
    }

    /// The end of the connection that comes now is our wish, if the process drains.
    pub(crate) fn closing(&self) {
        if self.phase != Phase::Serving {
            self.activity.closing();
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

impl Ear {
    fn moves(&self, phase: Phase, activity: &Activity) -> Moves {
        if !matches!(phase, Phase::Draining(_)) || self.speaks == Speaks::Http2 || self.pulse.stays() {
            return Moves::No;
        }
        activity.moves(KIND)
    }

    /// Right before the connection is polled. A client that pipelines without a pause would otherwise never be between two
    /// messages: each poll would begin the next request.
    fn begin_turn(&mut self, moves: Moves) -> Turn {
        let turn = self.pulse.turn();
        self.may_leave = moves == Moves::Yes && (self.may_leave || self.pulse.is_serving());
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
    fn is_between(&self, turn: Turn, cx: &Context<'_>) -> bool {
        // Before the protocol is known nothing is taken out of what was read, and HTTP/2 is not taken apart.
        if self.speaks != Speaks::Http1 || self.pulse.is_between_messages(turn) {
            return true;
        }
        if self.pulse.comes_to_rest() {
            // It is known after another poll, for which there is no other reason.
            cx.waker().wake_by_ref();
        }
        false
    }

    /// Ready when the silence has lasted too long.
    fn poll_silence(&mut self, phase: Phase, moves: Moves, cx: &mut Context<'_>) -> Poll<()> {
        let Self { pulse, silence, speaks, timer, may_leave: _ } = self;
        let now = Instant::now();
        let look = if *speaks == Speaks::Http2 {
            let moved = pulse.take_ended() | pulse.take_moved();
            Look { now, busy: pulse.is_serving(), moved, head: false }
        } else {
            Look { now, busy: pulse.is_busy(), moved: pulse.take_ended(), head: pulse.has_begun_head() }
        };
        let Some(mut end) = silence.ends(phase, look) else {
            // The timer stays for the next time; an old wake-up does no harm.
            return Poll::Pending;
        };
        if moves != Moves::No {
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
