//! SVG images that can be read on light and on dark pages.
//!
//! Deliberately absent: a library. None of them writes colours that follow the page.

use std::fmt::Write as _;

const STYLE: &str = "
  text { font: 12px system-ui, 'Segoe UI', Helvetica, Arial, sans-serif; fill: #1f2328 }
  .title { font-size: 15px; font-weight: 600 }
  .small { font-size: 10px; fill: #59636e }
  .bold { font-weight: 600 }
  .page { fill: #ffffff; stroke: #d1d9e0 }
  .grid { stroke: #d1d9e0; stroke-width: 0.6 }
  .begin { stroke: #59636e; stroke-dasharray: 3 2 }
  .time { fill: none; stroke: #0969da; stroke-width: 1.2; stroke-linejoin: round }
  .floor { fill: none; stroke: #9a6700; stroke-width: 1.2; stroke-dasharray: 4 2 }
  .lost { fill: none; stroke: #cf222e; stroke-width: 2 }
  text.red { fill: #cf222e; font-weight: 600 }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc }
    .small { fill: #9198a1 }
    .page { fill: #0d1117; stroke: #3d444d }
    .grid { stroke: #3d444d }
    .begin { stroke: #9198a1 }
    .time { stroke: #4493f8 }
    .floor { stroke: #d29922 }
    .lost { stroke: #f85149 }
    text.red { fill: #f85149 }
  }
";

/// An image that is being drawn.
pub(crate) struct Svg(String);

impl Svg {
    /// With a title, and a line that says what is seen.
    pub(crate) fn new(width: f64, height: f64, title: &str, what: &str) -> Self {
        let mut svg = Self(format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
             height=\"{height}\" role=\"img\">\n<style>{STYLE}</style>\n<title>{title}</title>\n\
             <rect class=\"page\" x=\"0.5\" y=\"0.5\" width=\"{}\" height=\"{}\" rx=\"6\"/>\n",
            width - 1.0,
            height - 1.0
        ));
        svg.text(16.0, 24.0, "title", title);
        svg.text(16.0, 42.0, "small", what);
        svg
    }

    pub(crate) fn text(&mut self, x: f64, y: f64, class: &str, text: &str) {
        let text = text.replace('&', "&amp;").replace('<', "&lt;");
        // Writing to a string does not fail, here and below.
        let _ = writeln!(self.0, "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{text}</text>");
    }

    /// A path in the words of SVG.
    pub(crate) fn path(&mut self, class: &str, path: &str) {
        let _ = writeln!(self.0, "<path class=\"{class}\" d=\"{path}\"/>");
    }

    pub(crate) fn end(self) -> String {
        self.0 + "</svg>\n"
    }
}
