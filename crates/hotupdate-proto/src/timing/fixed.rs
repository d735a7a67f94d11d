//! The waits that no program sets, by the part that waits.
//!
//! Those that can be set are in [`Timing`](super::Timing) and [`ProgramTiming`](super::ProgramTiming). No
//! crate has a wait of its own, and a test of the sources sees to it.
//!
//! Deliberately absent: how often `hotctl watch` draws, and over what time its rates are: no process waits
//! for that.

/// Connections, and the queue of those that migrate.
pub mod connections {
    use std::time::Duration;

    /// A connection is idle when its client has been silent for so long: it is not about to ask again. To
    /// give it a task and buffers once more costs a part of a small request.
    pub const IDLE_AFTER: Duration = Duration::from_secs(1);

    /// Between two portions of idle connections whose tasks are woken to rest, so that requests come between
    /// them.
    pub const BETWEEN_PORTIONS: Duration = Duration::from_millis(1);

    /// Clients are being served if one of them has sent something in this time.
    pub const BUSY_FOR: Duration = Duration::from_millis(20);

    /// How long clients come first. On a machine without a moment to spare each portion takes long, and all
    /// connections have to be gone before the drain ends.
    pub const GENTLE_FOR: Duration = Duration::from_secs(2);

    /// How long the connections of a portion may take to say what they do, which is a matter of microseconds.
    /// One whose task is busy with something else joins a later portion.
    pub const ANSWER: Duration = Duration::from_millis(2);

    /// How often a predecessor tells how its drain goes, if there is something to tell.
    pub const PROGRESS: Duration = Duration::from_millis(100);
}

/// The control socket, and joining over it.
pub mod control {
    use std::time::Duration;

    /// How long a new caller waits for the place of one that is idle.
    pub const LEAVING: Duration = Duration::from_millis(50);

    /// How long accepting callers pauses after an error, such as being out of descriptors, and between two
    /// looks for more.
    pub const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

    /// Between two looks at a path whose owner is just starting or ending.
    pub const LOOK_AGAIN: Duration = Duration::from_millis(10);

    /// Between two calls to an incumbent that is itself still starting.
    pub const ASK_AGAIN: Duration = Duration::from_millis(50);

    /// The least time that a list of connections takes. To write one of 100,000 rows takes a good part of a
    /// second of one processor, which belongs to the clients of the service.
    pub const LISTING_TIME: Duration = Duration::from_millis(250);
}

/// The task that owns the state of a process.
pub mod driver {
    use std::time::Duration;

    /// How old the sum of the counters may be that is shown: younger than what any scraper notices, and old
    /// enough that a busy process does not add up with every request, nor wakes a predecessor for more than a
    /// moment in each second.
    pub const AGE: Duration = Duration::from_secs(1);

    /// Between two tries to open a listener, which fails when the kernel is short of memory or of watches
    /// (epoll_ctl(2)).
    pub const REOPEN_PAUSE: Duration = Duration::from_millis(50);

    /// A deadline that is missed by more than this was not missed by a busy process, but by one that stood
    /// still.
    pub const LATE: Duration = Duration::from_millis(100);

    /// What has arrived while a process stood still is read in this time; the tasks that read it have not run
    /// yet.
    pub const CATCH_UP: Duration = Duration::from_millis(50);

    /// How long the tasks of the last connections may take to end before what all of them have used is given
    /// back. They end in a moment; on a machine that has much else to do some of them come a little later,
    /// and what they still hold lies across the rest.
    pub const MEMORY_SETTLES: Duration = Duration::from_millis(200);

    /// How often the line about the service changes that its manager shows, if only numbers in it do.
    pub const STATUS: Duration = Duration::from_secs(1);
}

/// Listeners and links, where the kernel is short of something.
pub mod sockets {
    use std::time::Duration;

    /// How long accepting pauses when it is not possible, because the process has no descriptor left
    /// (accept(2), `EMFILE`) or for another reason: the clients wait in the backlog meanwhile, and
    /// connections that end make room.
    pub const CANNOT_ACCEPT_PAUSE: Duration = Duration::from_millis(50);

    /// Between two tries to send while the receiver's queue is full and the descriptor is parked.
    pub const FULL_QUEUE_PAUSE: Duration = Duration::from_millis(2);

    /// Between two tries to send on a link when the kernel has no memory, or no room for descriptors.
    pub const SHORTAGE_PAUSE: Duration = Duration::from_millis(2);
}

/// The process, its log and its service manager.
pub mod process {
    use std::time::Duration;

    /// A journal that does not take a connection in this time is as good as none.
    pub const JOURNAL_ANSWERS: Duration = Duration::from_secs(1);

    /// A warning that comes again and again is at most one line in this time.
    pub const LOG_PAUSE: Duration = Duration::from_secs(1);

    /// Between two looks at a terminal that may be closing.
    pub const TERMINAL_LOOK: Duration = Duration::from_millis(10);

    /// The least time between two pings to the watchdog of a service manager. None means less, and no process
    /// should do nothing else.
    pub const WATCHDOG_LEAST: Duration = Duration::from_millis(10);
}

/// HTTP and WebSockets.
pub mod http {
    use std::time::Duration;

    /// How long a client may take for the head of a request once it has begun, if the server does not set it.
    /// Generous, for phones in tunnels; finite, because half a head costs memory (RFC 9112 leaves it to the
    /// server; hyper's own default is the same).
    pub const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(30);

    /// How long the rest of a head may take that had begun when its connection was about to be closed: a
    /// packet or two, on a bad network. A client that sends half a head and no more must not hold a drain.
    pub const HALF_HEAD: Duration = Duration::from_secs(1);

    /// How long a connection that was closed on our side is still read from, so that what its client is just
    /// sending meets no reset, which could destroy an answer it has not read yet (RFC 9112, section 9.6).
    pub const LINGER: Duration = Duration::from_secs(1);

    /// How long the client of an HTTP/2 connection may take for the rest of a frame that had begun when its
    /// connection was about to move without the streams that are open. What it sends else waits meanwhile.
    pub const SPLIT: Duration = Duration::from_millis(250);

    /// When such a connection is tried again if no pair of sockets could be made for its streams: the process
    /// was short of descriptors or memory, and other connections that leave give theirs back.
    pub const RELAY_AGAIN: Duration = Duration::from_millis(250);

    /// How long a server may be awaited while its process is not ready before the log says so: `ready` that
    /// is called after the server was awaited, and not before, never comes.
    pub const READY_OVERDUE: Duration = Duration::from_secs(10);

    /// How much later than scheduled clients of WebSockets are told to reconnect. A migration also fails when
    /// the next version is just dying; then this process serves again in a moment, and its clients need not
    /// reconnect.
    pub const RECONNECT_DELAY: Duration = Duration::from_secs(1);

    /// How long a client may take to answer a close frame (RFC 6455, section 7.1.1: the server closes after
    /// that).
    pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
}

/// TLS.
pub mod tls {
    use std::time::Duration;

    /// Between two looks at the clock whether the keys for session tickets are to be changed: so much longer
    /// than its six hours a key makes tickets at most. A timer of six hours would not do, for the clock may
    /// be set, and a machine that sleeps has timers that sleep, too.
    pub const ROTATION_LOOK: Duration = Duration::from_secs(10 * 60);
}

/// Tests of an application, with `hotupdate::testing`.
pub mod testing {
    use std::time::Duration;

    /// How long a process may take to serve and to end: longer than anything takes on a machine that has much
    /// else to do.
    pub const SOON: Duration = Duration::from_secs(60);

    /// How long the control socket may take to answer.
    pub const ANSWER: Duration = Duration::from_secs(5);

    /// How often a process is looked at that is waited for.
    pub const INTERVAL: Duration = Duration::from_millis(5);
}

/// `hotctl`, where no option of it says another time.
pub mod operator {
    use std::time::Duration;

    /// A call that changes nothing, such as `Status`.
    pub const ANSWER: Duration = Duration::from_secs(5);

    /// A change: longer than the default lease of a successor ([`Timing::lease`](crate::Timing::lease)), so
    /// that the service gives up first and says why.
    pub const CHANGE: Duration = Duration::from_secs(90);

    /// A status that is asked for beside something else, which must not fail or wait because of it.
    pub const TRY_STATUS: Duration = Duration::from_secs(2);

    /// How often hotctl checks for Ctrl-C and for the exit of a child while it waits.
    pub const TICK: Duration = Duration::from_millis(50);

    /// The call that asks a socket whether it is a control socket, and which service answers there: short, so
    /// that one process that does not answer does not delay a list.
    pub const PROBE: Duration = Duration::from_secs(1);

    /// After this much silence of a stream of statuses, the status is asked for again.
    pub const SILENCE: Duration = Duration::from_millis(500);

    /// A look at a connection on which nothing is expected.
    pub const LOOK: Duration = Duration::from_millis(1);

    /// From fork(2) to execve(2) of a command that is kept: a file system may be slow.
    pub const EXEC: Duration = Duration::from_secs(10);

    /// How long the process that attends a handoff may take until it is ready.
    pub const ATTENDANT: Duration = Duration::from_secs(10);

    /// How long it waits for the end of an attempt whose hotctl is gone. The deadline `serving` of a service
    /// is 2 s by default, and within it the service cannot abort.
    pub const VERDICT: Duration = Duration::from_secs(5);

    /// How long the command of such an attempt may take to end after SIGTERM.
    pub const LAST_SECONDS: Duration = Duration::from_secs(10);

    /// A process that has drained exits within this time or says what it still does, unless it stays for its
    /// supervisor.
    pub const EXITS: Duration = Duration::from_secs(1);

    /// A failure is seen from two sides: the child exits, and the service gives the attempt up and says why.
    /// So long hotctl waits for the second one; it comes at once if it comes.
    pub const SETTLE: Duration = Duration::from_millis(500);

    /// How long hotctl waits for the end of an attempt that it aborts. The deadline `serving` is 2 s by
    /// default; where it is longer, the successor gets SIGTERM nevertheless, which a service survives at any
    /// time.
    pub const ABORT_TIMEOUT: Duration = Duration::from_secs(3);

    /// How long `stop --wait` waits beyond the deadline of the drain: closing connections takes a moment,
    /// too.
    pub const SLACK: Duration = Duration::from_secs(10);

    /// How long a screen that was told to end may still draw. A terminal that is stopped (Ctrl-S, a
    /// connection that hangs) takes nothing, and a write to it does not return.
    pub const LAST_DRAWING: Duration = Duration::from_secs(1);
}

/// `hotctl hold`, which starts a service again.
pub mod hold {
    use std::time::Duration;

    /// How long it waits for the exit of its command, to say how it exited: the kernel frees the lock a
    /// little earlier. If another process crashed, the command may well be draining.
    pub const SETTLE: Duration = Duration::from_millis(200);

    /// When it looks again at a lock that is free although the service answers, or that is not there, and for
    /// a service that does not answer.
    pub const LOOK_AGAIN: Duration = Duration::from_secs(1);

    /// How long a service may take to accept the connection.
    pub const CONNECT: Duration = Duration::from_secs(2);

    /// A stream of statuses may be silent for as long as nothing happens.
    pub const SILENCE: Duration = Duration::from_secs(3600);

    /// The second pause before a restart; the first restart is at once, because most crashes do not come back
    /// at once.
    pub const SHORTEST: Duration = Duration::from_millis(100);

    /// Pauses double up to here.
    pub const LONGEST: Duration = Duration::from_secs(5);

    /// A service that ran this long is stable; the restart count resets.
    pub const STABLE_AFTER: Duration = Duration::from_secs(10);
}
