//! The picture: one strip for each thing that is measured, all over the number of the handoff.
//!
//! Deliberately absent: fonts. The picture is an SVG, and its reader brings them.

use std::ops::Range;
use std::path::Path;

use anyhow::anyhow;
use plotters::prelude::*;

use super::sample::Sample;

const SIZE: (u32, u32) = (1000, 1200);

/// A strip: its title, and the value of a sample.
type Strip = (&'static str, fn(&Sample) -> f64);

const STRIPS: [Strip; 7] = [
    ("descriptors of the serving process, under load", |sample| sample.descriptors as f64),
    ("its threads", |sample| sample.threads as f64),
    ("its resident memory, MiB", |sample| sample.rss_kib as f64 / 1024.0),
    ("files in the folder of the control socket", |sample| sample.files as f64),
    ("bytes of the status", |sample| sample.status_bytes as f64),
    ("predecessors that drain", |sample| sample.predecessors as f64),
    ("gap in which no process accepted, ms", |sample| sample.gap.as_secs_f64() * 1e3),
];

/// Writes it.
pub(crate) fn draw(samples: &[Sample], path: &Path) -> anyhow::Result<()> {
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE).map_err(|error| anyhow!("{error}"))?;
    for (area, strip) in root.split_evenly((STRIPS.len(), 1)).iter().zip(STRIPS) {
        draw_strip(area, strip, samples).map_err(|error| anyhow!("{error}"))?;
    }
    root.present().map_err(|error| anyhow!("{error}"))
}

fn draw_strip<B: DrawingBackend>(
    area: &DrawingArea<B, plotters::coord::Shift>,
    (title, value): Strip,
    samples: &[Sample],
) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
    let points: Vec<_> = samples.iter().map(|sample| (sample.number as f64, value(sample))).collect();
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 16))
        .margin(6)
        .margin_right(20)
        .x_label_area_size(36)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..samples.len() as f64, range(&points))?;
    let whole = |number: &f64| format!("{number:.0}");
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .y_labels(4)
        .x_labels(11)
        .x_desc("handoffs")
        .x_label_formatter(&whole)
        .draw()?;
    chart.draw_series(LineSeries::new(points, &BLUE))?;
    Ok(())
}

/// From zero, so that a line that only trembles looks flat.
fn range(points: &[(f64, f64)]) -> Range<f64> {
    0.0..points.iter().map(|(_, value)| value * 1.1).fold(1.0, f64::max)
}
