//! Either process of a handoff is killed before each of its system calls, one run for each; of those that carry
//! what busy clients say, of which there are hundreds, before some if that is enough.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use syscalls::Sysno;

use super::killed::{Killed, Moment, Victim, calls, kill};
use crate::crash::Point;
use crate::crash::campaign::words;

/// How often a handoff is looked at, in which nothing is killed: the largest count of a call is taken.
const LOOKS: usize = 2;

/// Which moments are tried.
#[derive(Clone, Copy, Debug)]
pub struct Moments {
    /// So many of each process at most, spread evenly over all of its calls.
    pub of_a_process: Option<usize>,
    /// So many of one call at most, spread evenly. What busy clients say makes hundreds of a few calls.
    pub of_a_call: u32,
}

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

/// Kills either process at these moments. Tells first how often each makes each call, and how many of them are
/// left out, and then of each run that is over.
///
/// # Errors
///
/// If a process cannot be traced.
pub fn kill_everywhere(moments: Moments, jobs: usize, told: impl Fn(&str) + Sync) -> anyhow::Result<Tally> {
    let begun = Instant::now();
    let mut cases = Vec::new();
    for victim in [Victim::Incumbent, Victim::Successor] {
        let calls = most_calls(victim)?;
        told(&describe(victim, &calls, moments.of_a_call));
        let of_victim = points(&calls, moments.of_a_call);
        let size = moments.of_a_process.unwrap_or(usize::MAX).min(of_victim.len());
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

fn most_calls(victim: Victim) -> anyhow::Result<BTreeMap<Sysno, u32>> {
    let mut most = calls(victim)?;
    for _ in 1..LOOKS {
        for (call, count) in calls(victim)? {
            let known = most.entry(call).or_default();
            *known = count.max(*known);
        }
    }
    Ok(most)
}

fn points(calls: &BTreeMap<Sysno, u32>, at_most: u32) -> Vec<Point> {
    let of = |(&call, &count): (&Sysno, &u32)| {
        let tried = count.min(at_most);
        (0..tried).map(move |number| Point { call, nth: number * count / tried + 1 })
    };
    calls.iter().flat_map(of).collect()
}

fn describe(victim: Victim, calls: &BTreeMap<Sysno, u32>, at_most: u32) -> String {
    let of = |(call, &count): (&Sysno, &u32)| {
        let name = call.name();
        if count > at_most {
            format!("{name} {count} ({at_most} of them)")
        } else {
            format!("{name} {count}")
        }
    };
    format!("{victim:?}: {}", calls.iter().map(of).collect::<Vec<_>>().join(", "))
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
