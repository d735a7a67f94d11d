//! How the cost of something grows with its number, beside its floor: both on scales of tens, where what is
//! linear is a straight line that rises by one when the number does.

use crate::svg::Svg;

/// Pixels.
const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 66.0;
const RIGHT: f64 = 430.0;
const TOP: f64 = 62.0;
const BOTTOM: f64 = 256.0;

/// One line.
pub(crate) struct Curve {
    pub(crate) name: &'static str,
    /// Of its colour.
    pub(crate) class: &'static str,
    /// How many, and milliseconds.
    pub(crate) points: Vec<(f64, f64)>,
}

/// Draws them.
pub(crate) fn draw(title: &str, curves: &[Curve]) -> String {
    let all = || curves.iter().flat_map(|curve| &curve.points).filter(|(_, millis)| *millis > 0.0);
    let tens = |values: &dyn Fn(&(f64, f64)) -> f64| {
        let least = all().map(values).fold(f64::INFINITY, f64::min).log10().floor();
        let most = all().map(values).fold(f64::NEG_INFINITY, f64::max).log10().ceil();
        if least < most { (least, most) } else { (0.0, 1.0) }
    };
    let (across, up) = (tens(&|point| point.0), tens(&|point| point.1));
    let x = |number: f64| LEFT + (number.log10() - across.0) / (across.1 - across.0) * (RIGHT - LEFT);
    let y = |millis: f64| BOTTOM - (millis.log10() - up.0) / (up.1 - up.0) * (BOTTOM - TOP);

    let mut svg = Svg::new(WIDTH, HEIGHT, title, "Milliseconds, on scales of tens");
    for ten in up.0 as i32..=up.1 as i32 {
        let millis = 10_f64.powi(ten);
        svg.path("grid", &format!("M{LEFT} {:.1}H{RIGHT}", y(millis)));
        svg.text(16.0, y(millis) + 3.0, "small", &format!("{millis} ms"));
    }
    for ten in across.0 as i32..=across.1 as i32 {
        let number = 10_f64.powi(ten);
        svg.path("grid", &format!("M{:.1} {TOP}V{BOTTOM}", x(number)));
        svg.text(x(number) - 3.0 * (f64::from(ten) + 1.0), BOTTOM + 16.0, "small", &number.to_string());
    }
    for Curve { name, class, points } in curves {
        let points: Vec<_> = points.iter().filter(|(_, millis)| *millis > 0.0).collect();
        let path: Vec<_> =
            points.iter().map(|(n, millis)| format!("{:.1} {:.1}", x(*n), y(*millis))).collect();
        svg.path(class, &format!("M{}", path.join("L")));
        if let Some((number, millis)) = points.last() {
            svg.text(x(*number) + 8.0, y(*millis) + 4.0, "", name);
        }
    }
    svg.end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_measured_is_not_drawn() {
        let points = vec![(1.0, 0.5), (100.0, 0.0), (10_000.0, 300.0)];
        let svg = draw("moves", &[Curve { name: "moves", class: "time", points }]);
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        assert_eq!(svg.matches("class=\"time\"").count(), 1);
        assert!(svg.contains(">10000<") && svg.contains(">0.1 ms<") && svg.contains(">1000 ms<"), "{svg}");
    }
}
