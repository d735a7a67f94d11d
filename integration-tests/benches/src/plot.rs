//! Latency over time across an upgrade, a row for each system, lost requests marked.

use std::path::Path;

use anyhow::Context as _;
use plotters::prelude::*;

use crate::load::{Kind, Outcome};
use crate::scenario::Seen;

const WIDTH: u32 = 960;
const ROW: u32 = 120;

/// What is drawn of the time around the upgrade, in milliseconds.
const FROM: f64 = -500.0;
const UNTIL: f64 = 2_000.0;

/// One point for so many milliseconds: the slowest answer.
const STEP: f64 = 10.0;

/// Latencies are drawn between these, in milliseconds, on a scale of tens.
const LOWEST: f64 = 0.05;
const HIGHEST: f64 = 1_000.0;

/// Draws one upgrade of each system.
pub(crate) fn draw(path: &Path, seen: &[Seen]) -> anyhow::Result<()> {
    let rows = u32::try_from(seen.len()).context("so many systems")?.max(1);
    let root = SVGBackend::new(path, (WIDTH, rows * ROW + 40)).into_drawing_area();
    root.fill(&WHITE)?;
    let root = root.titled(
        "Slowest answer of each 10 ms (ms); the upgrade begins at 0; red: lost",
        ("sans-serif", 15),
    )?;
    for (area, seen) in root.split_evenly((seen.len().max(1), 1)).iter().zip(seen) {
        row(area, seen)?;
    }
    root.present().with_context(|| format!("writing {}", path.display()))
}

fn row(area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>, seen: &Seen) -> anyhow::Result<()> {
    let mut chart = ChartBuilder::on(area)
        .caption(seen.system.name(), ("sans-serif", 13))
        .margin(4)
        .x_label_area_size(18)
        .y_label_area_size(44)
        .build_cartesian_2d(FROM..UNTIL, (LOWEST..HIGHEST).log_scale())?;
    chart.configure_mesh().disable_x_mesh().y_labels(4).x_labels(6).light_line_style(TRANSPARENT).draw()?;
    let when = |at: u64| (at as f64 - seen.at as f64) / 1e6;
    let asked = || seen.samples.iter().filter(|sample| matches!(sample.kind, Kind::Paced | Kind::Fresh));
    let steps = ((UNTIL - FROM) / STEP) as usize;
    let mut slowest = vec![None::<f64>; steps];
    for sample in asked().filter(|sample| matches!(sample.outcome, Outcome::Answered | Outcome::Told)) {
        let step = (when(sample.at) - FROM) / STEP;
        if step >= 0.0
            && let Some(slowest) = slowest.get_mut(step as usize)
        {
            let took = (sample.took as f64 / 1e6).clamp(LOWEST, HIGHEST);
            *slowest = Some(slowest.unwrap_or(0.0).max(took));
        }
    }
    let points = slowest.iter().enumerate().filter_map(|(n, took)| Some((FROM + n as f64 * STEP, (*took)?)));
    chart.draw_series(LineSeries::new(points, BLUE))?;
    chart.draw_series(LineSeries::new([(0.0, LOWEST), (0.0, HIGHEST)], BLACK.mix(0.4)))?;
    let lost = asked().filter(|sample| matches!(sample.outcome, Outcome::Lost | Outcome::Refused));
    let mut marks: Vec<_> = lost.map(|sample| (when(sample.at) / STEP).round() * STEP).collect();
    marks.retain(|at| (FROM..UNTIL).contains(at));
    marks.dedup();
    chart.draw_series(marks.into_iter().map(|at| Circle::new((at, HIGHEST / 3.0), 3, RED.filled())))?;
    Ok(())
}
