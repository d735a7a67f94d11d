//! One handoff after the other under load, and what the survivor holds when all is quiet: what the test of
//! fifty and the soak of a thousand share.
//!
//! Deliberately absent: how fast. That is a bench's question; here is only whether.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use crate::load::Load;
use crate::process::{Facts, Sandbox, Service, Serving, eventually, hotctl};
use crate::status::{Status, call};
use crate::way::{Handover, Way};

/// Predecessors leave soon, so that many of them fit into a test.
pub const ARGUMENTS: [&str; 4] = ["--probation", "0.3", "--drain-deadline", "20"];

/// From the eighth predecessor on the oldest is hurried, which closes connections; a run that goes on for
/// ever at this pace has to wait for them as an operator would.
const MOST_DRAINING: usize = 4;

/// For predecessors to leave, for the last connections of a load to go, and for threads that have nothing to
/// do.
const QUIET: Duration = Duration::from_secs(40);

/// A service that is replaced again and again.
#[derive(Debug)]
pub struct Endurance<'a> {
    sandbox: &'a Sandbox,
    serving: Serving,
    handoffs: usize,
}

/// What a service holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// The serving process.
    pub facts: Facts,
    /// The names in the folder of the control socket.
    pub files: BTreeSet<String>,
    /// Bytes of the answer to `Status`: what travels from version to version and grows would show there.
    pub status_bytes: usize,
    /// Processes that drain.
    pub predecessors: usize,
}

impl<'a> Endurance<'a> {
    /// Starts the service.
    #[must_use]
    pub fn start(sandbox: &'a Sandbox) -> Self {
        let serving = Service::start(sandbox, "v1", &ARGUMENTS).wait_serving();
        Self { sandbox, serving, handoffs: 0 }
    }

    /// The process that serves.
    #[must_use]
    pub fn serving(&self) -> Serving {
        self.serving
    }

    /// One more handoff; versions alternate.
    ///
    /// # Panics
    ///
    /// As [`Handover::run`].
    #[track_caller]
    pub fn replace(&mut self, way: Way) -> Handover {
        let version = if self.handoffs.is_multiple_of(2) { "v2" } else { "v1" };
        let handover = Handover::run(self.sandbox, way, self.serving, version, &ARGUMENTS);
        assert_eq!(handover.to.generation, self.serving.generation + 1);
        self.serving = handover.to;
        self.handoffs += 1;
        handover
    }

    /// One more under a load, which meets each generation: otherwise handoffs would only meet each other.
    ///
    /// # Panics
    ///
    /// As [`Handover::run`], and if the load gets no more answers.
    #[track_caller]
    pub fn replace_under(&mut self, load: &Load) -> Handover {
        let handover = self.replace(Way::turn(self.handoffs));
        eventually("fewer predecessors", QUIET, || {
            let status = Status::ask(&self.sandbox.control()).ok()?;
            (status.predecessors.len() <= MOST_DRAINING).then_some(())
        });
        let before = load.progress().all_answered();
        eventually("some more answers", QUIET, || {
            (load.progress().all_answered() > before + 100).then_some(())
        });
        handover
    }

    /// What it holds at the moment, whatever goes on.
    ///
    /// # Panics
    ///
    /// If no process serves.
    #[must_use]
    #[track_caller]
    pub fn holding(&self) -> Holding {
        let reply = call(&self.sandbox.control(), "io.hotupdate.Status").expect("a process serves");
        let predecessors = reply["status"]["predecessors"].as_array().map_or(0, Vec::len);
        let entries = fs::read_dir(self.sandbox.path()).expect("the folder of the control socket");
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        Holding {
            facts: Service::of(self.sandbox, self.serving.pid).facts(),
            files: names.collect(),
            status_bytes: reply.to_string().len(),
            predecessors,
        }
    }

    /// What it holds when it is alone, no client is connected, and nothing has changed for so long.
    ///
    /// # Panics
    ///
    /// If that does not come.
    #[must_use]
    #[track_caller]
    pub fn quiet(&self, unchanged: Duration) -> Holding {
        eventually("the survivor is alone and quiet", QUIET, || {
            let status = Status::ask(&self.sandbox.control()).ok()?;
            let connections = status.serving.connections;
            let open = connections.idle + connections.active + connections.upgraded;
            (status.predecessors.is_empty() && open == 0).then_some(())
        });
        let mut holding = self.holding();
        // The question itself costs a descriptor for a moment, so only looks from outside count from here on.
        let mut last = (Instant::now(), holding.facts);
        holding.facts = eventually("nothing changes any more", QUIET + unchanged, || {
            let facts = Facts::of(self.serving.pid)?;
            if (facts.fds, facts.threads) != (last.1.fds, last.1.threads) {
                last = (Instant::now(), facts);
            }
            (last.0.elapsed() >= unchanged).then_some(facts)
        });
        holding
    }

    /// Stops the service: every process has drained, none was forced, and none is left.
    ///
    /// # Panics
    ///
    /// Otherwise.
    #[track_caller]
    pub fn end(self) {
        let _stops = hotctl(self.sandbox, &["stop"]).expect_success();
        eventually("the end of every process", QUIET, || self.sandbox.processes().is_empty().then_some(()));
        let drained = self.sandbox.drained();
        assert!(drained.iter().all(|drained| drained.forced == 0), "connections were closed by force");
        let all: Vec<_> = self.sandbox.servings().iter().map(|serving| serving.generation).collect();
        let ended: Vec<_> = drained.iter().map(|drained| drained.generation).collect();
        assert_eq!(ended, all, "not every process ended as it should");
    }
}
