//! Either process of a handoff is killed before each of its system calls, one run for each; and before some of
//! those that carry what busy clients say, of which there are hundreds.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::killed::{Killed, Moment, Victim, calls, kill};
use crate::crash::Point;
use crate::crash::campaign::words;

/// How often a handoff is looked at, in which nothing is killed: the largest count of a call is taken.
const LOOKS: usize = 2;

/// Of one call, this many are tried at most, spread evenly. No call but those of busy clients is made so
/// often.
const OF_ONE_CALL: u32 = 60;

/// What all runs came to.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// How many there were.
    pub cases: usize,
    /// In how many of them the process made the call, and was killed.
    pub met: usize,
    /// How many silent clients were answered by the process that was left.
    pub answered: usize,
    /// How many records were opened, each at its number.
    pub records: u64,
    /// What was wrong.
    pub failed: Vec<String>,
    /// How long it took.
    pub took: Duration,
}

/// Kills either process before each of its calls, or before a `sample` of each, and tells of each run that
/// is over.
///
/// # Errors
///
/// If a process cannot be traced.
pub fn kill_everywhere(
    sample: Option<usize>,
    jobs: usize,
    told: impl Fn(&str) + Sync,
) -> anyhow::Result<Tally> {
    let begun = Instant::now();
    let mut cases = Vec::new();
    for victim in [Victim::Incumbent, Victim::Successor] {
        let of_victim = points(victim)?;
        let size = sample.unwrap_or(usize::MAX).min(of_victim.len());
        let spread = (0..size).map(|number| of_victim[number * of_victim.len() / size]);
        cases.extend(spread.map(|point| (victim, point)));
    }
    let (queue, tally) = (Mutex::new(cases.into_iter()), Mutex::new(Tally::default()));
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some((victim, point)) = next else { return };
                    let killed = catch_unwind(AssertUnwindSafe(|| kill(victim, Moment::Before(point))));
                    let line =
                        tally.lock().unwrap_or_else(PoisonError::into_inner).add(victim, point, killed);
                    told(&line);
                }
            });
        }
    });
    let mut tally = tally.into_inner().unwrap_or_else(PoisonError::into_inner);
    tally.took = begun.elapsed();
    Ok(tally)
}

fn points(victim: Victim) -> anyhow::Result<Vec<Point>> {
    let mut most = calls(victim)?;
    for _ in 1..LOOKS {
        for (call, count) in calls(victim)? {
            let known = most.entry(call).or_default();
            *known = count.max(*known);
        }
    }
    let points = most.into_iter().flat_map(|(call, count)| {
        let tried = count.min(OF_ONE_CALL);
        (0..tried).map(move |number| Point { call, nth: number * count / tried + 1 })
    });
    Ok(points.collect())
}

impl Tally {
    /// Adds a run, and describes it.
    fn add(
        &mut self,
        victim: Victim,
        point: Point,
        killed: Result<anyhow::Result<Killed>, Box<dyn Any + Send>>,
    ) -> String {
        self.cases += 1;
        let why = match killed {
            Ok(Ok(Killed { met, answered, records })) => {
                self.met += usize::from(met);
                self.answered += if met { answered } else { 0 };
                self.records += records;
                let met = if met { "killed" } else { "never made" };
                return format!("ok: {victim:?} {point}: {met}, {answered} answered, {records} records");
            }
            Ok(Err(error)) => format!("{error:#}"),
            Err(panic) => words(panic.as_ref()),
        };
        let line = format!("FAILED: {victim:?} {point}: {why}");
        self.failed.push(line.clone());
        line
    }
}
