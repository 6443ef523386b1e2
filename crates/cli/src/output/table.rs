//! Aligned tables.

use anyhow::Result;
use unicode_width::UnicodeWidthStr as _;

use super::Out;
use super::text::safe;

/// Alignment of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// A table with a heading. Unsafe characters in its cells are escaped.
#[derive(Debug)]
pub(crate) struct Table {
    align: Vec<Align>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(columns: &[(&str, Align)]) -> Self {
        let heading = columns.iter().map(|(name, _)| (*name).to_owned()).collect();
        Self { align: columns.iter().map(|(_, align)| *align).collect(), rows: vec![heading] }
    }

    /// Adds a row with one cell for each column.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        debug_assert_eq!(N, self.align.len(), "a cell for each column");
        let one_line = |cell: String| safe(&cell).replace('\n', " ");
        self.rows.push(cells.into_iter().map(one_line).collect());
    }

    /// Prints the table, each line prefixed with `indent`.
    pub(crate) fn print(&self, out: &mut Out, indent: &str) -> Result<()> {
        for line in self.lines() {
            out.line(format_args!("{indent}{line}"))?;
        }
        Ok(())
    }

    fn lines(&self) -> Vec<String> {
        let width_of = |column: usize| {
            self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.width()).max()
        };
        let widths: Vec<usize> =
            (0..self.align.len()).map(|column| width_of(column).unwrap_or(0)).collect();
        let line = |row: &Vec<String>| {
            let mut line = String::new();
            for ((cell, align), width) in row.iter().zip(&self.align).zip(&widths) {
                let space = " ".repeat(width.saturating_sub(cell.width()));
                match align {
                    Align::Left => line.extend([cell.as_str(), &space]),
                    Align::Right => line.extend([space.as_str(), cell]),
                }
                line.push_str("  ");
            }
            line.truncate(line.trim_end().len());
            line
        };
        self.rows.iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_by_what_is_seen() {
        let mut table = Table::new(&[("NAME", Align::Left), ("SIZE", Align::Right)]);
        table.row(["漢字".into(), "1 B".into()]);
        table.row(["a\u{1b}\nb".into(), "100 KiB".into()]);
        assert_eq!(
            table.lines(),
            ["NAME          SIZE", "漢字           1 B", "a\\u{1b} b  100 KiB"]
        );
    }
}
