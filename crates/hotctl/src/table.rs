//! Aligned columns for small tables.
//!
//! Deliberately absent: tables that are too long for memory; `connections` writes columns of a fixed width.

use std::io::{self, Write};

use unicode_width::UnicodeWidthStr;

use crate::report::Paint;
use crate::text;

/// One cell: a text, and how it is painted where colour is wanted.
pub(crate) struct Cell {
    text: String,
    paint: Paint,
}

impl Cell {
    pub(crate) fn new(text: impl std::fmt::Display) -> Self {
        Self { text: text::plain(&text.to_string()).into_owned(), paint: Paint::None }
    }

    pub(crate) fn painted(mut self, paint: Paint) -> Self {
        self.paint = paint;
        self
    }

    fn width(&self) -> usize {
        self.text.width()
    }
}

/// Rows under a head, each column as wide as its widest cell.
pub(crate) struct Table {
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub(crate) fn new(head: &[&str]) -> Self {
        Self { rows: vec![head.iter().map(Cell::new).collect()] }
    }

    pub(crate) fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    pub(crate) fn write(&self, out: &mut impl Write, color: bool) -> io::Result<()> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column| self.rows.iter().filter_map(|row| row.get(column)).map(Cell::width).max();
        let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
        self.rows.iter().try_for_each(|row| write_row(out, row, &widths, color))
    }
}

/// Nothing stands behind the last cell that has a text, so that lines do not wrap for the sake of blanks.
fn write_row(out: &mut impl Write, row: &[Cell], widths: &[usize], color: bool) -> io::Result<()> {
    let last = row.iter().rposition(|cell| !cell.text.is_empty()).map_or(0, |at| at + 1);
    for (at, cell) in row.iter().take(last).enumerate() {
        let blanks = if at + 1 == last { 0 } else { widths[at] - cell.width() + 2 };
        write!(out, "{}{:blanks$}", cell.paint.on(&cell.text, color), "")?;
    }
    writeln!(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A wide character takes two columns, a combining one none (UAX #11).
    #[test]
    fn columns_are_aligned_on_the_screen() {
        let mut table = Table::new(&["VERSION", "NOTE"]);
        table.row(vec![Cell::new("版本二号"), Cell::new("x")]);
        table.row(vec![Cell::new("e\u{301}te\u{301}"), Cell::new("x")]);
        let mut out = Vec::new();
        table.write(&mut out, false).unwrap();
        let expected = "VERSION   NOTE\n版本二号  x\ne\u{301}te\u{301}       x\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn columns_are_aligned_and_nothing_trails() {
        let mut table = Table::new(&["PID", "NOTE"]);
        table.row(vec![Cell::new(4242), Cell::new("")]);
        table.row(vec![Cell::new(1), Cell::new("x")]);
        let mut out = Vec::new();
        table.write(&mut out, false).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "PID   NOTE\n4242\n1     x\n");
    }
}
