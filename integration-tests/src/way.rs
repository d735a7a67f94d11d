//! The three ways to start a successor, and what a handoff came to.
//!
//! Deliberately absent: handoffs that fail. Tests of those say what they do step by step.

use std::fmt;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::client::who_answers;
use crate::load::Window;
use crate::process::{Sandbox, Service, Serving, eventually};
use crate::status::Status;

/// From the start of the successor until it serves, on a machine that has much else to do.
const HANDOFF_DEADLINE: Duration = Duration::from_secs(20);

/// Clients that are asked to come again do so in this time; their requests count as during the handoff.
const AFTERMATH: Duration = Duration::from_millis(200);

/// How a successor is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// It is started by hand, with the same control socket.
    ByHand,
    /// `hotctl handoff -- axum-server …`.
    Hotctl,
    /// SIGHUP tells the serving process to start itself anew: same program, same arguments, same version.
    Sighup,
}

impl Way {
    /// All ways.
    pub const ALL: [Self; 3] = [Self::ByHand, Self::Hotctl, Self::Sighup];

    /// The ways by turns.
    #[must_use]
    pub fn turn(number: usize) -> Self {
        Self::ALL[number % Self::ALL.len()]
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::ByHand => "by hand",
            Self::Hotctl => "hotctl handoff",
            Self::Sighup => "SIGHUP",
        })
    }
}

/// A handoff that went well.
#[derive(Clone, Copy, Debug)]
pub struct Handover {
    /// The process that served before.
    pub from: Serving,
    /// The process that serves now.
    pub to: Serving,
    /// The time in which no process accepted; `None` if the service does not know.
    pub gap: Option<Duration>,
    /// From the start of the successor until it served.
    pub took: Duration,
    /// The same time and what follows from it.
    pub window: Window,
}

impl Handover {
    /// Replaces `from` by a new process. `version` and `arguments` do not count on SIGHUP.
    ///
    /// # Panics
    ///
    /// If the new process does not come to serve, or another one answers.
    #[must_use]
    #[track_caller]
    pub fn run(sandbox: &Sandbox, way: Way, from: Serving, version: &str, arguments: &[&str]) -> Self {
        let begun = Instant::now();
        match way {
            Way::ByHand => drop(Service::start(sandbox, version, arguments)),
            Way::Hotctl => drop(sandbox.handoff(version, arguments).expect_success()),
            Way::Sighup => Service::of(sandbox, from.pid).signal(Signal::HUP),
        }
        let to = eventually(&format!("a successor of {} serves ({way})", from.pid), HANDOFF_DEADLINE, || {
            sandbox.servings().into_iter().find(|serving| serving.generation > from.generation)
        });
        let took = begun.elapsed();
        let window = Window { begun, ended: Instant::now() + AFTERMATH };
        assert_eq!(to.http, from.http, "the listener was not inherited");
        let answers = who_answers(to.http).expect("the service answers at every instant");
        assert_eq!(answers, to.pid, "a new connection is for the new process");
        Self { from, to, gap: gap(sandbox, to), took, window }
    }
}

/// Asks the new process, which owns the control socket by now or in a moment.
fn gap(sandbox: &Sandbox, serving: Serving) -> Option<Duration> {
    let what = format!("a status by {}, which serves", serving.pid);
    let status = eventually(&what, HANDOFF_DEADLINE, || {
        let status = Status::ask(&sandbox.control()).ok()?;
        (status.serving.process.pid == serving.pid).then_some(status)
    });
    status.last_handoff?.gap_ns.map(Duration::from_nanos)
}
