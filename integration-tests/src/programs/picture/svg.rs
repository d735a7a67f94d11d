//! From screens to one SVG that moves: a strip of pictures behind a window, shifted in steps by CSS. It needs
//! no script, so that it also moves as an image in a README.

use std::collections::HashMap;
use std::fmt::Write as _;

use super::EVERY;
use super::terminal::Screen;

/// Of one character, in SVG units; the fonts named below are about this wide at their size.
const CELL: (f64, f64) = (8.4, 18.0);
const FONT_SIZE: f64 = 14.0;
const MARGIN: f64 = 16.0;

/// Rows for what the operator types and is answered.
const OPERATOR_ROWS: u16 = 5;

const BACKGROUND: &str = "#0d1117";
const FOREGROUND: &str = "#d6dde6";

/// The sixteen colours of a terminal (ECMA-48, as xterm numbers them).
const PALETTE: [&str; 16] = [
    "#484f58", "#ff7b72", "#56d364", "#e3b341", "#79c0ff", "#d2a8ff", "#39c5cf", "#d6dde6", "#6e7681",
    "#ffa198", "#7ee787", "#f2cc60", "#a5d6ff", "#e2c5ff", "#56d4dd", "#ffffff",
];

/// What there was to see at one moment.
pub(crate) struct Shot {
    pub(crate) screen: Screen,
    pub(crate) operator: Vec<String>,
    pub(crate) clients: String,
}

/// Shots, one after the other.
pub(crate) struct Film {
    columns: u16,
    rows: u16,
    shots: Vec<Shot>,
}

impl Film {
    pub(crate) fn new(columns: u16, rows: u16) -> Self {
        Self { columns, rows, shots: Vec::new() }
    }

    pub(crate) fn add(&mut self, shot: Shot) {
        self.shots.push(shot);
    }

    pub(crate) fn svg(&self) -> String {
        let width = f64::from(self.columns) * CELL.0 + 2.0 * MARGIN;
        let height = f64::from(self.rows + OPERATOR_ROWS + 2) * CELL.1 + 2.0 * MARGIN;
        let mut rows = Rows::default();
        let mut frames = String::new();
        for (number, shot) in self.shots.iter().enumerate() {
            let _ = write!(frames, "<g transform=\"translate({:.0} 0)\">", number as f64 * width);
            for (row, line) in self.lines(shot).into_iter().enumerate() {
                if let Some(id) = rows.id(line) {
                    let y = MARGIN + (row as f64 + 0.75) * CELL.1;
                    let _ = write!(frames, "<use href=\"#r{id}\" x=\"{MARGIN}\" y=\"{y:.1}\"/>");
                }
            }
            frames.push_str("</g>\n");
        }
        let (count, seconds) = (self.shots.len(), EVERY.as_secs_f64() * self.shots.len() as f64);
        let shift = count as f64 * width;
        let divider = MARGIN + (f64::from(self.rows) + 0.5) * CELL.1;
        format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0} {height:.0}" width="{width:.0}" height="{height:.0}" role="img">
<title>hotctl watch during a hot update and a rollback, while clients go on</title>
<style>
text {{ font: {FONT_SIZE}px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; white-space: pre }}
.film {{ animation: film {seconds:.1}s steps({count}) infinite }}
@keyframes film {{ to {{ transform: translateX(-{shift:.0}px) }} }}
@media (prefers-reduced-motion: reduce) {{ .film {{ animation-play-state: paused; animation-delay: -{still:.1}s }} }}
</style>
<rect width="100%" height="100%" rx="8" fill="{BACKGROUND}"/>
<line x1="0" x2="{width:.0}" y1="{divider:.1}" y2="{divider:.1}" stroke="{dim}"/>
<defs>
{rows}</defs>
<g class="film">
{frames}</g>
</svg>
"#,
            still = seconds * 0.6,
            dim = PALETTE[0],
            rows = rows.defs,
        )
    }

    /// At a blank, as a reader would like it.
    fn wrap(&self, line: &str) -> Vec<String> {
        let mut rows = vec![String::new()];
        for word in line.split(' ') {
            let row = rows.last_mut().expect("there is one from the beginning");
            if row.is_empty() {
                row.push_str(word);
            } else if row.chars().count() + 1 + word.chars().count() <= usize::from(self.columns) {
                row.push(' ');
                row.push_str(word);
            } else {
                rows.push(word.to_owned());
            }
        }
        rows
    }

    fn lines(&self, shot: &Shot) -> Vec<String> {
        let Shot { screen, operator, clients } = shot;
        let mut lines: Vec<_> = (0..self.rows).map(|row| screen_row(screen, row, self.columns)).collect();
        lines.push(String::new());
        let wrapped: Vec<_> = operator.iter().flat_map(|line| self.wrap(line)).collect();
        let newest = wrapped.len().saturating_sub(usize::from(OPERATOR_ROWS));
        lines.extend(wrapped[newest..].iter().map(|line| {
            let look = if line.starts_with('$') { Look::bold(FOREGROUND) } else { Look::plain(PALETTE[2]) };
            look.text(0, line)
        }));
        lines.resize(usize::from(self.rows + OPERATOR_ROWS + 1), String::new());
        lines.push(Look::bold(PALETTE[14]).text(0, &format!("its clients: {clients}")));
        lines
    }
}

/// Each different row once.
#[derive(Default)]
struct Rows {
    ids: HashMap<String, usize>,
    defs: String,
}

impl Rows {
    fn id(&mut self, line: String) -> Option<usize> {
        if line.is_empty() {
            return None;
        }
        if let Some(id) = self.ids.get(&line) {
            return Some(*id);
        }
        let id = self.ids.len();
        let _ = writeln!(self.defs, "<g id=\"r{id}\">{line}</g>");
        self.ids.insert(line, id);
        Some(id)
    }
}

#[derive(Clone, PartialEq)]
struct Look {
    color: String,
    bold: bool,
    dim: bool,
}

impl Look {
    fn plain(color: &str) -> Self {
        Self { color: color.to_owned(), bold: false, dim: false }
    }

    fn bold(color: &str) -> Self {
        Self { bold: true, ..Self::plain(color) }
    }

    /// The length is given, so that columns stand below each other in every font.
    fn text(&self, column: u16, text: &str) -> String {
        let shown = text.trim_end();
        let (x, length) = (f64::from(column) * CELL.0, shown.chars().count() as f64 * CELL.0);
        let bold = if self.bold { " font-weight=\"bold\"" } else { "" };
        let dim = if self.dim { " opacity=\".55\"" } else { "" };
        let escaped = shown.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        format!(
            "<text x=\"{x:.1}\" textLength=\"{length:.1}\" lengthAdjust=\"spacingAndGlyphs\" fill=\"{}\"{bold}{dim}>{escaped}</text>",
            self.color
        )
    }
}

/// The row as one text for each run of characters that look the same.
fn screen_row(screen: &Screen, row: u16, columns: u16) -> String {
    let mut line = String::new();
    let mut run: Option<(u16, Look, String)> = None;
    for column in 0..columns {
        let Some(cell) = screen.cell(row, column) else { continue };
        let look = Look { color: color(cell.fgcolor()), bold: cell.bold(), dim: cell.dim() };
        let text = if cell.has_contents() { cell.contents() } else { " " };
        match &mut run {
            Some((_, before, run)) if *before == look || text == " " => run.push_str(text),
            _ => {
                flush(&mut line, run.take());
                run = Some((column, look, text.to_owned()));
            }
        }
    }
    flush(&mut line, run);
    line
}

fn flush(line: &mut String, run: Option<(u16, Look, String)>) {
    if let Some((column, look, text)) = run
        && !text.trim().is_empty()
    {
        // A text that begins with blanks would be drawn without them in some readers.
        let blanks = text.chars().take_while(|c| *c == ' ').count();
        let column = column + u16::try_from(blanks).unwrap_or_default();
        line.push_str(&look.text(column, text.trim_start()));
    }
}

fn color(color: vt100::Color) -> String {
    match color {
        vt100::Color::Default => FOREGROUND.to_owned(),
        vt100::Color::Idx(index) => PALETTE[usize::from(index) % PALETTE.len()].to_owned(),
        vt100::Color::Rgb(r, g, b) => format!("#{r:02x}{g:02x}{b:02x}"),
    }
}
