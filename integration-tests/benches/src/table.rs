//! Tables in Markdown.

use std::fmt;

/// Not measured.
pub(crate) const NOTHING: &str = "–";

/// A column of nothing but [`NOTHING`] is not shown, except for the first one.
pub(crate) struct Table {
    titles: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(titles: &[&str]) -> Self {
        Self { titles: titles.iter().map(|&title| title.to_owned()).collect(), rows: Vec::new() }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let mut cells: Vec<_> = cells.into_iter().collect();
        cells.resize(self.titles.len(), NOTHING.to_owned());
        self.rows.push(cells);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let says_something = |n: &usize| *n == 0 || self.rows.iter().any(|row| row[*n] != NOTHING);
        let shown: Vec<_> = (0..self.titles.len()).filter(says_something).collect();
        let mut line = |cells: &dyn Fn(usize) -> String| {
            let cells: Vec<_> = shown.iter().map(|&n| cells(n)).collect();
            writeln!(f, "| {} |", cells.join(" | "))
        };
        line(&|n| self.titles[n].clone())?;
        line(&|n| if n == 0 { "---" } else { "---:" }.to_owned())?;
        self.rows.iter().try_for_each(|row| line(&|n| row[n].clone()))
    }
}

/// A number that was perhaps not measured, with so many digits behind the point.
pub(crate) fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| NOTHING.to_owned(), |value| format!("{value:.digits$}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_without_anything_are_left_out() {
        let mut table = Table::new(&["", "a", "b", "c"]);
        table.row(["x".to_owned(), number(None, 1), number(Some(1.25), 1)]);
        table.row([String::new(), number(None, 1), number(Some(-0.5), 0)]);
        assert_eq!(table.to_string(), "|  | b |\n| --- | ---: |\n| x | 1.2 |\n|  | -0 |\n");
    }
}
