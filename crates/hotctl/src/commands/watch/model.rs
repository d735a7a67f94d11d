//! What the screen shows: the last status, rates, drains, and events.
//!
//! Deliberately absent: the clock; `now` is an argument.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hotupdate_proto::operator::{Monitored, ProcessStatus, ServiceEvent, Status};
use hotupdate_proto::{Generation, Process, Totals};

/// Rates are averages over the last two seconds: with less they jump, with more a handoff does not show.
const WINDOW: Duration = Duration::from_secs(2);

/// How long a drain that has ended is shown. Many take some milliseconds.
const SHOW_ENDED_FOR: Duration = Duration::from_secs(10);

/// The most events that are kept.
const MAX_EVENTS: usize = 100;

/// How many rates are kept for the curve, one a second.
const MAX_CURVE: usize = 300;

/// After this much silence the screen says that the service does not answer.
const SILENT_AFTER: Duration = Duration::from_secs(3);

/// How far a drain is.
#[derive(Debug)]
pub(super) struct Drain {
    pub(super) generation: Generation,
    pub(super) process: Process,
    /// The most connections that were seen to be open in it.
    pub(super) most: u64,
    pub(super) left: u64,
    pub(super) totals: Totals,
    /// When it had exited.
    pub(super) gone: Option<Instant>,
}

/// Per second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rates {
    pub(super) requests: f64,
    pub(super) accepted: f64,
}

/// Counts of all generations at one moment.
#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Instant,
    requests: u64,
    accepted: u64,
}

/// What the screen shows.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) socket: PathBuf,
    pub(super) status: Status,
    pub(super) drains: Vec<Drain>,
    pub(super) events: VecDeque<(Instant, ServiceEvent)>,
    /// Requests a second, newest last.
    pub(super) curve: VecDeque<u64>,
    heard: Instant,
    /// The last counts of each generation: one that is draining still counts.
    known: BTreeMap<Generation, Totals>,
    /// Sums over all generations since the beginning.
    sum: (u64, u64),
    samples: VecDeque<Sample>,
    plotted: Instant,
}

impl Model {
    pub(super) fn new(socket: &Path, now: Instant, status: Status) -> Self {
        let mut model = Self {
            socket: socket.to_owned(),
            status: status.clone(),
            drains: Vec::new(),
            events: VecDeque::new(),
            curve: VecDeque::new(),
            heard: now,
            known: BTreeMap::new(),
            sum: (0, 0),
            samples: VecDeque::new(),
            plotted: now,
        };
        model.status(now, status);
        model
    }

    /// Something happened.
    pub(super) fn told(&mut self, now: Instant, monitored: Monitored) {
        let Monitored { event, status, .. } = monitored;
        match event {
            // Progress comes ten times a second, and a gauge shows it.
            Some(event) if event.kind != "progress" => self.happened(now, event),
            _ => {}
        }
        self.status(now, status);
    }

    /// How the service is now.
    pub(super) fn status(&mut self, now: Instant, status: Status) {
        self.note_change(now, &status);
        self.heard = now;
        self.status = status;
        self.count(now);
        self.follow_drains(now);
    }

    /// How long the service has not answered, if that is long.
    pub(super) fn silent(&self, now: Instant) -> Option<Duration> {
        let silent = now.saturating_duration_since(self.heard);
        (silent > SILENT_AFTER).then_some(silent)
    }

    /// Of the last two seconds; `None` until there are two statuses.
    pub(super) fn rates(&self) -> Option<Rates> {
        let (first, last) = (self.samples.front()?, self.samples.back()?);
        let seconds = last.at.saturating_duration_since(first.at).as_secs_f64();
        // Counts are exact up to 2^53.
        let rate = |last: u64, first: u64| (last - first) as f64 / seconds;
        (seconds > 0.2).then(|| Rates {
            requests: rate(last.requests, first.requests),
            accepted: rate(last.accepted, first.accepted),
        })
    }

    /// The newest generation first.
    pub(super) fn generations(&self) -> impl Iterator<Item = &ProcessStatus> {
        let Status { serving, successor, predecessors, .. } = &self.status;
        successor.iter().chain([serving]).chain(predecessors)
    }

    /// Another process serves; its predecessor may have had no time to send that event.
    fn note_change(&mut self, now: Instant, status: &Status) {
        let serving = &status.serving;
        let same = serving.process.instance == self.status.serving.process.instance;
        let said = self.events.front().is_some_and(|(_, event)| {
            event.generation == serving.generation && matches!(&*event.kind, "served" | "rolled_back")
        });
        if !same && !said {
            let text = format!("{} serves now", serving.process);
            self.happened(now, ServiceEvent::new("served".to_owned(), serving.generation, text));
        }
    }

    fn happened(&mut self, now: Instant, event: ServiceEvent) {
        self.events.push_front((now, event));
        self.events.truncate(MAX_EVENTS);
    }

    fn count(&mut self, now: Instant) {
        let Status { serving, predecessors, .. } = &self.status;
        let newest = self.known.keys().next_back().copied();
        for process in [serving].into_iter().chain(predecessors) {
            let totals = process.totals;
            // A predecessor that has not reported yet is known from the time when it served.
            if totals.entered() == 0 && totals.requests == 0 {
                continue;
            }
            // A generation that appears later began at zero; of one that was there before, only what it
            // counts from now on.
            let begins = newest.is_some_and(|newest| process.generation > newest);
            let before = self.known.insert(process.generation, totals);
            let before = before.unwrap_or(if begins { Totals::default() } else { totals });
            self.sum.0 += totals.requests.saturating_sub(before.requests);
            self.sum.1 += totals.accepted.saturating_sub(before.accepted);
        }
        let (requests, accepted) = self.sum;
        self.samples.push_back(Sample { at: now, requests, accepted });
        while self.samples.get(1).is_some_and(|second| now.saturating_duration_since(second.at) >= WINDOW) {
            self.samples.pop_front();
        }
        if now.saturating_duration_since(self.plotted) >= Duration::from_secs(1) {
            self.plotted = now;
            // Rounded down; half a request does not show in a curve.
            self.curve.push_back(self.rates().map_or(0, |rates| rates.requests as u64));
            if self.curve.len() > MAX_CURVE {
                self.curve.pop_front();
            }
        }
    }

    fn follow_drains(&mut self, now: Instant) {
        let Self { status, drains, .. } = self;
        drains.retain(|drain| {
            let serves = drain.generation == status.serving.generation;
            !serves && drain.gone.is_none_or(|gone| now.saturating_duration_since(gone) < SHOW_ENDED_FOR)
        });
        for drain in drains.iter_mut() {
            let there = status.predecessors.iter().any(|p| p.generation == drain.generation);
            if !there && drain.gone.is_none() {
                (drain.left, drain.gone) = (0, Some(now));
            }
        }
        for ProcessStatus { generation, process, connections, totals, .. } in &status.predecessors {
            let left = connections.open();
            match drains.iter_mut().find(|drain| drain.generation == *generation) {
                Some(drain) => {
                    drain.most = drain.most.max(left);
                    drain.left = left;
                    if totals.entered() > 0 {
                        drain.totals = *totals;
                    }
                }
                None => drains.push(Drain {
                    generation: *generation,
                    process: process.clone(),
                    most: left,
                    left,
                    totals: *totals,
                    gone: None,
                }),
            }
        }
        drains.sort_by_key(|drain| std::cmp::Reverse(drain.generation));
    }
}
