//! Latency over time across an upgrade, a row for each system, lost requests marked.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::load::{Kind, Outcome, Sample};
use crate::report::{Round, idle, is_stalled};
use crate::scenario::Seen;
use crate::svg::Svg;
use crate::systems::System;

/// What is drawn of the time around the upgrade, in milliseconds.
const FROM: f64 = -500.0;
const UNTIL: f64 = 2_000.0;

/// One point for so many milliseconds: the slowest answer.
const STEP: f64 = 10.0;
const STEPS: usize = 250;

/// Latencies are drawn between these, in milliseconds, on a scale of tens.
const LOWEST: f64 = 0.1;
const HIGHEST: f64 = 1_000.0;

/// Pixels.
const WIDTH: f64 = 880.0;
const LEFT: f64 = 204.0;
const RIGHT: f64 = 750.0;
const TOP: f64 = 62.0;
const ROW: f64 = 52.0;
const LINE: f64 = 40.0;

/// Draws all upgrades of each system over one another.
pub(crate) fn draw(title: &str, seen: &[Seen]) -> String {
    let systems: BTreeSet<_> = seen.iter().map(|seen| seen.system).collect();
    let height = TOP + ROW * systems.len() as f64 + 34.0;
    let what = "The slowest answer of each 10 ms (scale of tens), all rounds over one another; \
                red: requests lost or refused";
    let mut svg = Svg::new(WIDTH, height, title, what);
    for (n, &system) in systems.iter().enumerate() {
        let rounds: Vec<_> = seen.iter().filter(|seen| seen.system == system).collect();
        row(&mut svg, TOP + ROW * n as f64, system, &rounds);
    }
    axis(&mut svg, TOP + ROW * systems.len() as f64);
    svg.end()
}

fn x(at: f64) -> f64 {
    LEFT + (at - FROM) / (UNTIL - FROM) * (RIGHT - LEFT)
}

/// How far above the lower edge of its row.
fn y(millis: f64) -> f64 {
    (millis.clamp(LOWEST, HIGHEST) / LOWEST).log10() / (HIGHEST / LOWEST).log10() * LINE
}

fn axis(svg: &mut Svg, top: f64) {
    for at in [-500.0, 0.0, 500.0, 1_000.0, 1_500.0, 2_000.0] {
        let label = if at == 0.0 { "upgrade".to_owned() } else { format!("{:+} s", at / 1e3) };
        svg.text(x(at) - 3.0 * label.len() as f64, top + 14.0, "small", &label);
    }
}

fn row(svg: &mut Svg, top: f64, system: System, rounds: &[&Seen]) {
    let bottom = top + LINE;
    let bold = if matches!(system, System::Hotupdate) { "bold" } else { "" };
    svg.text(16.0, bottom - LINE / 2.0 + 4.0, bold, system.name());
    for (millis, label) in [(1.0, "1"), (10.0, "10"), (100.0, "100 ms")] {
        svg.path("grid", &format!("M{LEFT} {:.1}H{RIGHT}", bottom - y(millis)));
        svg.text(LEFT - 4.0 - 6.0 * label.len() as f64, bottom - y(millis) + 3.0, "small", label);
    }
    svg.path("begin", &format!("M{:.1} {top}V{bottom}", x(0.0)));
    svg.path("time", &line(rounds, bottom));

    let lost: Vec<_> = rounds.iter().flat_map(|seen| lost(seen)).collect();
    let steps: BTreeSet<_> = lost.iter().filter_map(|&at| step(at)).collect();
    let marks: String =
        steps.iter().map(|&step| format!("M{:.1} {top}v8", x(FROM + (step as f64 + 0.5) * STEP))).collect();
    if !marks.is_empty() {
        svg.path("lost", &marks);
    }
    let class = if lost.is_empty() { "" } else { "red" };
    svg.text(RIGHT + 12.0, bottom - LINE / 2.0 - 1.0, class, &format!("{} lost", lost.len()));
    let rounds: Vec<_> = rounds.iter().map(|seen| Round::of(seen)).collect();
    if let Some(fate) = idle(&rounds) {
        svg.text(RIGHT + 12.0, bottom - LINE / 2.0 + 13.0, "small", &format!("idle: {fate}"));
    }
    if rounds.iter().any(Round::has_cut_streams) {
        svg.text(RIGHT + 12.0, bottom - LINE / 2.0 + 25.0, "small", "raw streams: cut");
    }
}

fn step(at: f64) -> Option<usize> {
    let step = (at - FROM) / STEP;
    (step >= 0.0 && step < STEPS as f64).then_some(step as usize)
}

fn when(seen: &Seen, at: u64) -> f64 {
    (at as f64 - seen.at as f64) / 1e6
}

fn is_request(sample: &&Sample) -> bool {
    matches!(sample.kind, Kind::Paced | Kind::Fresh | Kind::Closed)
}

/// When requests were meant to be sent that were lost, or for which no connection could be opened.
fn lost(seen: &Seen) -> impl Iterator<Item = f64> {
    let lost = |sample: &&Sample| matches!(sample.outcome, Outcome::Lost | Outcome::Refused);
    let later = |sample: &&Sample| seen.at <= sample.at + sample.took;
    let all = seen.samples.iter().filter(is_request).filter(lost).filter(later);
    all.map(|sample| when(seen, sample.at))
}

fn line(rounds: &[&Seen], bottom: f64) -> String {
    let mut slowest = [None::<f64>; STEPS];
    for seen in rounds {
        let answered = |sample: &&Sample| matches!(sample.outcome, Outcome::Answered | Outcome::Told);
        let answers = seen.samples.iter().filter(is_request).filter(answered);
        for sample in answers.filter(|sample| !is_stalled(seen, sample)) {
            if let Some(step) = step(when(seen, sample.at)) {
                let slowest = &mut slowest[step];
                *slowest = Some(slowest.unwrap_or(0.0).max(sample.took as f64 / 1e6));
            }
        }
    }
    let mut path = String::new();
    let mut is_drawing = false;
    for (step, slowest) in slowest.iter().enumerate() {
        if let Some(slowest) = slowest {
            let at = x(FROM + (step as f64 + 0.5) * STEP);
            let _ = write!(path, "{}{at:.0} {:.1}", if is_drawing { 'L' } else { 'M' }, bottom - y(*slowest));
        }
        is_drawing = slowest.is_some();
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_outside_is_not_drawn() {
        assert_eq!(
            [FROM - 1.0, FROM, 0.0, UNTIL - 0.1, UNTIL].map(step),
            [None, Some(0), Some(50), Some(249), None]
        );
        assert_eq!((y(0.01), y(1.0), y(1e6)), (0.0, LINE / 4.0, LINE));
    }
}
