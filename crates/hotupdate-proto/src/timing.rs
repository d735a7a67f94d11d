//! Every named wait of all crates, and the reason for its default: what a program can set, and in [`fixed`]
//! what it cannot.

pub mod fixed;

use std::fmt;
use std::time::{Duration, Instant};

/// How long each wait of a handoff may take. All of them can be set; the defaults fit a service on one
/// machine.
///
/// ```
/// # use std::time::Duration;
/// # use hotupdate_proto::Timing;
/// let timing = Timing::default().stop(Duration::from_secs(10)).released(Duration::from_secs(20));
/// assert_eq!(timing.stop, Duration::from_secs(10));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Timing {
    /// Successor: finding an owner of the control socket that answers. Long enough for a first start that
    /// warms up.
    pub find: Duration,
    /// Both: a caller on the control socket has to say what it wants, so that a silent one costs nothing.
    pub hello: Duration,
    /// Successor: from `Join` to its reply. The incumbent only has to look at its state.
    pub reply: Duration,
    /// Both: one batch of the inventory, and its acknowledgement: microseconds of work, seconds on a machine
    /// that swaps.
    pub batch: Duration,
    /// Incumbent: from `Join` to `ready`. Warming caches takes time; a program that hangs has to end some
    /// time.
    pub lease: Duration,
    /// Incumbent: how long a successor may stand by for an operator's command.
    pub standby: Duration,
    /// Incumbent: the application ends what only one process may do (its hook `before_release`). The clients
    /// are served meanwhile.
    pub before_release: Duration,
    /// Incumbent: its own accept loops have to stop, and its state has to be exported.
    pub stop: Duration,
    /// Incumbent: from `released` to `serving`. No process accepts meanwhile, so this is short; clients wait
    /// in the backlog.
    pub serving: Duration,
    /// Successor: from `ready` to `released`, beside `before_release`; longer than `stop`, so that the
    /// incumbent gives up first and says why.
    pub released: Duration,
    /// Predecessor: how long it holds its parked listeners, to take over again if the successor dies.
    pub probation: Duration,
    /// Serving process: how long no successor is taken after a second one in a row took over and died in its
    /// probation, which costs clients their connections. It doubles with each further one, up to eight times
    /// as long. An operator's own handoff is taken at once.
    pub crash_backoff: Duration,
    /// Predecessor: how long open connections may take to end. nginx waits for ever, HAProxy too; we do not.
    pub drain: Duration,
    /// Predecessor: how long connections may take to go once they are forced.
    pub force: Duration,
    /// Serving process, rollback: from `resume` to the predecessor's `serving`.
    pub resume: Duration,
    /// Serving process: what the oldest generation still gets when there are too many.
    pub hurry: Duration,
    /// Predecessor: the serving process has to say that it holds connections that migrate to it.
    pub prepared: Duration,
    /// Serving process: before its accept loops stop, predecessors have to finish the migrations that are
    /// under way. A stop waits up to `prepared` longer for one that hangs, as long as it may still commit
    /// them.
    pub quiesce: Duration,
    /// Both: the other side has to take a message that was sent.
    pub write: Duration,
    /// Predecessor: its service manager has to confirm that the process that serves is the main one, before
    /// this one ends. A manager that loads a thousand units takes seconds.
    pub confirm: Duration,
    /// Serving process: how long it waits, when it could become the main process of a service manager, until
    /// the process that has started it has ended, so that the manager is its parent. `hotctl` ends at once,
    /// and a script that started this one and goes on to run may never.
    pub parent: Duration,
    /// Owner of the control socket: between two looks whether its file and its lock are still at their path.
    /// Short enough that an operator hardly notices, and long enough that an idle process stays one.
    /// [`Duration::MAX`]: it never looks, as in a test whose folder goes before its services do.
    pub path_check: Duration,
    /// Predecessor: how long after the beginning of its drain a silent connection is left alone; at most a
    /// quarter of the drain. Most clients end by themselves what they have begun.
    pub drain_grace: Duration,
    /// Predecessor: the time after the grace over which silent connections are closed, so that not all of
    /// their clients come back in the same instant; at most half of the drain.
    pub drain_spread: Duration,
    /// The same grace where the service stops and no other process takes its clients: as long as a request
    /// may be on its way that its client had sent before, and no longer. There is no spread then.
    pub drain_stop: Duration,
    /// Predecessor: how long new requests of an HTTP/2 connection wait for those that are open to finish, so
    /// that the connection can migrate. If they take longer, it serves all of them and tries again when they
    /// have ended.
    pub drain_hold: Duration,
    /// Serving process: how long after SIGHUP its terminal may take to be gone, which says that the signal
    /// asked for nothing; and how long after that another SIGHUP is the same news. An operator at a terminal
    /// waits as long for a new version.
    pub terminal: Duration,
    /// Serving process, and a predecessor that drains: from a client's connection to the end of its TLS
    /// handshake, for a server with TLS. A phone in a tunnel needs seconds, and a silent client must not hold
    /// a place.
    pub handshake: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            find: Duration::from_secs(30),
            hello: Duration::from_secs(5),
            reply: Duration::from_secs(5),
            batch: Duration::from_secs(5),
            lease: Duration::from_secs(60),
            standby: Duration::from_secs(3600),
            before_release: Duration::from_secs(5),
            stop: Duration::from_secs(3),
            serving: Duration::from_secs(2),
            released: Duration::from_secs(10),
            probation: Duration::from_secs(5),
            crash_backoff: Duration::from_secs(10),
            drain: Duration::from_secs(60),
            force: Duration::from_secs(2),
            resume: Duration::from_secs(5),
            hurry: Duration::from_secs(5),
            prepared: Duration::from_secs(5),
            quiesce: Duration::from_secs(2),
            write: Duration::from_secs(5),
            confirm: Duration::from_secs(30),
            parent: Duration::from_secs(5),
            path_check: Duration::from_secs(2),
            drain_grace: Duration::from_secs(5),
            drain_spread: Duration::from_secs(10),
            drain_stop: Duration::from_millis(200),
            drain_hold: Duration::from_millis(100),
            terminal: Duration::from_millis(200),
            handshake: Duration::from_secs(10),
        }
    }
}

impl Timing {
    /// Every deadline this many times as long: a slow machine needs more, a test has less.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use hotupdate_proto::Timing;
    /// assert_eq!(Timing::default().scaled(0.5).serving, Duration::from_secs(1));
    /// ```
    #[must_use]
    pub fn scaled(&self, factor: f64) -> Self {
        // What is no span of time (a negative factor, an overflow) is as good as for ever.
        let scaled = |wait: Duration| {
            Duration::try_from_secs_f64(wait.as_secs_f64() * factor).unwrap_or(Duration::MAX)
        };
        Self {
            find: scaled(self.find),
            hello: scaled(self.hello),
            reply: scaled(self.reply),
            batch: scaled(self.batch),
            lease: scaled(self.lease),
            standby: scaled(self.standby),
            before_release: scaled(self.before_release),
            stop: scaled(self.stop),
            serving: scaled(self.serving),
            released: scaled(self.released),
            probation: scaled(self.probation),
            crash_backoff: scaled(self.crash_backoff),
            drain: scaled(self.drain),
            force: scaled(self.force),
            resume: scaled(self.resume),
            hurry: scaled(self.hurry),
            prepared: scaled(self.prepared),
            quiesce: scaled(self.quiesce),
            write: scaled(self.write),
            confirm: scaled(self.confirm),
            parent: scaled(self.parent),
            path_check: scaled(self.path_check),
            drain_grace: scaled(self.drain_grace),
            drain_spread: scaled(self.drain_spread),
            drain_stop: scaled(self.drain_stop),
            drain_hold: scaled(self.drain_hold),
            terminal: scaled(self.terminal),
            handshake: scaled(self.handshake),
        }
    }
}

/// One method for each field: a program that sets one of them goes on to compile when another is added.
macro_rules! setters {
    ($($name:ident)*) => {
        impl Timing {
            $(
                #[doc = concat!(
                    "Sets [`", stringify!($name), "`](Self#structfield.", stringify!($name), ")."
                )]
                #[must_use]
                pub fn $name(mut self, wait: Duration) -> Self {
                    self.$name = wait;
                    self
                }
            )*
        }
    };
}

setters! {
    find hello reply batch lease standby before_release stop serving released probation crash_backoff
    drain force resume hurry prepared quiesce write confirm parent path_check drain_grace drain_spread
    drain_stop drain_hold terminal handshake
}

/// How long a process waits for a program that it runs and speaks for, see [`crate::program`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ProgramTiming {
    /// From fork(2) to execve(2): a file system may be slow.
    pub exec: Duration,
    /// From its start until it is ready. Interpreters that import much, and caches that are filled, take tens
    /// of seconds.
    pub ready: Duration,
    /// How long it has to go on after that, before the version before it is told to stop. There are programs
    /// that say that they are ready and end a moment later: gunicorn does so before its workers import the
    /// application.
    pub settle: Duration,
    /// Between two requests that ask whether it is ready.
    pub probe: Duration,
    /// The answer to such a request.
    pub answer: Duration,
    /// From the signal that asks it to stop until it is killed, if operators do not say less: as
    /// [`Timing::drain`], which is too short for programs that stop more slowly.
    pub stop: Duration,
    /// What [`Timing::drain`] is for such a process instead: no shorter than any `stop`.
    pub drain: Duration,
    /// How long the process that serves gives a process that runs a program until it is ready, instead of
    /// [`Timing::lease`]: longer than any `ready`, since the process itself watches its program.
    pub lease: Duration,
}

impl Default for ProgramTiming {
    fn default() -> Self {
        Self {
            exec: Duration::from_secs(10),
            ready: Duration::from_secs(60),
            settle: Duration::from_secs(3),
            probe: Duration::from_millis(100),
            answer: Duration::from_secs(2),
            stop: Duration::from_secs(60),
            drain: Duration::from_secs(86_400),
            lease: Duration::from_secs(3600),
        }
    }
}

/// Which wait ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "each is described at the field of `Timing` with the same name")]
#[non_exhaustive]
pub enum Deadline {
    Find,
    Reply,
    Batch,
    Lease,
    Standby,
    BeforeRelease,
    Stop,
    Serving,
    Released,
    Probation,
    Drain,
    Force,
    Resume,
    Prepared,
    Quiesce,
}

impl Deadline {
    /// Every deadline of the machines.
    pub const ALL: [Self; 15] = [
        Self::Find,
        Self::Reply,
        Self::Batch,
        Self::Lease,
        Self::Standby,
        Self::BeforeRelease,
        Self::Stop,
        Self::Serving,
        Self::Released,
        Self::Probation,
        Self::Drain,
        Self::Force,
        Self::Resume,
        Self::Prepared,
        Self::Quiesce,
    ];
}

impl fmt::Display for Deadline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Find => "no process answered on the control socket in time (deadline `find`)",
            Self::Reply => "the incumbent did not answer `Join` in time (deadline `reply`)",
            Self::Batch => "the other side did not go on with the inventory in time (deadline `batch`)",
            Self::Lease => "it was not ready when its lease ended (deadline `lease`)",
            Self::Standby => "no operator released it in time (deadline `standby`)",
            Self::BeforeRelease => {
                "the application did not end in time what only one process may do (deadline `before_release`)"
            }
            Self::Stop => {
                "the accept loops did not stop, or the state was not exported, in time (deadline `stop`)"
            }
            Self::Serving => "it was released and did not serve in time (deadline `serving`)",
            Self::Released => "the incumbent did not release its listeners in time (deadline `released`)",
            Self::Probation => "the probation is over (deadline `probation`)",
            Self::Drain => "connections were left at the end of the drain (deadline `drain`)",
            Self::Force => "connections did not go although they were forced (deadline `force`)",
            Self::Resume => "the predecessor did not resume in time (deadline `resume`)",
            Self::Prepared => {
                "the serving process did not say in time that it holds connections (deadline `prepared`)"
            }
            Self::Quiesce => "predecessors did not finish their migrations in time (deadline `quiesce`)",
        })
    }
}

/// A hundred years: what "never" means where an [`Instant`] is needed.
const FAR: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// The moment so long after `now`. A wait that is too long for an [`Instant`] (`Duration::MAX` in a setting,
/// a large number from the other side) is as good as for ever and must not panic.
pub(crate) fn after(now: Instant, wait: Duration) -> Instant {
    now + wait.min(FAR)
}

/// Whole milliseconds, as they go over the wire.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
