//! What is known after one handoff.
//!
//! Deliberately absent: a library for CSV. There are only numbers in it.

use std::fmt;
use std::time::Duration;

use crate::Handover;
use crate::endurance::Holding;

/// One row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) number: usize,
    /// Since the start.
    pub(crate) at: Duration,
    pub(crate) descriptors: usize,
    pub(crate) threads: usize,
    pub(crate) rss_kib: u64,
    pub(crate) files: usize,
    pub(crate) status_bytes: usize,
    pub(crate) predecessors: usize,
    /// The time in which no process accepted.
    pub(crate) gap: Duration,
    /// From the start of the successor until it served.
    pub(crate) took: Duration,
    generation: u64,
    pid: u32,
}

impl Sample {
    pub(crate) fn new(number: usize, at: Duration, handover: &Handover, holding: &Holding) -> Self {
        let Holding { facts, files, status_bytes, predecessors } = holding;
        Self {
            number,
            at,
            descriptors: facts.fds,
            threads: facts.threads,
            rss_kib: facts.rss_kib,
            files: files.len(),
            status_bytes: *status_bytes,
            predecessors: *predecessors,
            gap: handover.gap.unwrap_or_default(),
            took: handover.took,
            generation: handover.to.generation,
            pid: handover.to.pid,
        }
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, at, descriptors, threads, rss_kib, files, predecessors, .. } = self;
        write!(
            f,
            "{:>5.0} s  {descriptors:>3} descriptors, {threads} threads, {rss_kib:>6} KiB, {files} files, \
             {predecessors} predecessors: handoff {number}",
            at.as_secs_f64()
        )
    }
}

/// All of them as comma-separated values (RFC 4180), with a head.
pub(crate) fn table(samples: &[Sample]) -> String {
    let mut table =
        "handoff,seconds,generation,pid,descriptors,threads,rss_kib,files,status_bytes,predecessors,\
                     gap_us,took_ms\n"
            .to_owned();
    for sample in samples {
        let Sample { number, at, descriptors, threads, rss_kib, files, .. } = sample;
        let Sample { status_bytes, predecessors, gap, took, generation, pid, .. } = sample;
        table.push_str(&format!(
            "{number},{:.3},{generation},{pid},{descriptors},{threads},{rss_kib},{files},{status_bytes},\
             {predecessors},{},{}\n",
            at.as_secs_f64(),
            gap.as_micros(),
            took.as_millis()
        ));
    }
    table
}

/// How long no process accepted.
pub(crate) fn gaps(samples: &[Sample]) -> String {
    let mut gaps: Vec<_> = samples.iter().map(|sample| sample.gap).collect();
    gaps.sort_unstable();
    let at = |part: f64| gaps[((gaps.len() - 1) as f64 * part) as usize];
    format!(
        "no process accepted for {:.1?} (median), {:.1?} (99 of 100), {:.1?} (worst)",
        at(0.5),
        at(0.99),
        at(1.0)
    )
}
