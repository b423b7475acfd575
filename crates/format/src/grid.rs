//! Columns under their titles.

use anstyle::Style;

use super::screen::{PLAIN, Screen, TITLE};
use super::text::{clean, width};

/// Between two columns.
const GAP: &str = "  ";

/// On which side of a column its cells are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// Text in a table, fit to be shown.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    pub(crate) fn new(text: impl AsRef<str>) -> Self {
        Cell::styled(PLAIN, text)
    }

    pub(crate) fn styled(style: Style, text: impl AsRef<str>) -> Self {
        Cell {
            text: clean(text.as_ref()),
            style,
        }
    }
}

/// A line of a table, and what is to be said below it.
#[derive(Debug, Default)]
pub(crate) struct Row {
    pub(crate) cells: Vec<Cell>,
    /// Lines, indented up to the second column.
    pub(crate) below: Vec<Cell>,
}

/// A table.
#[derive(Debug)]
pub(crate) struct Grid {
    columns: Vec<(Align, Cell)>,
    rows: Vec<Row>,
}

impl Grid {
    pub(crate) fn new() -> Self {
        Grid {
            columns: Vec::new(),
            rows: Vec::new(),
        }
    }

    pub(crate) fn column(&mut self, align: Align, title: impl AsRef<str>) {
        self.columns.push((align, Cell::styled(TITLE, title)));
    }

    pub(crate) fn row(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// Width of its longest line, in columns of a terminal, what is said below lines not counted.
    pub(crate) fn width(&self) -> usize {
        let widths = self.widths();
        widths.iter().sum::<usize>() + GAP.len() * widths.len().saturating_sub(1)
    }

    /// Its lines, at the end of `text`: a table may have millions of characters, so nothing is copied.
    pub(crate) fn render(&self, text: &mut String, screen: Screen) {
        let widths = self.widths();
        let titles = self.columns.iter().map(|(_, title)| title);
        self.line(text, titles, &widths, screen);
        let indent = widths.first().map_or(0, |width| width + GAP.len());
        for row in &self.rows {
            self.line(text, row.cells.iter(), &widths, screen);
            for below in &row.below {
                text.extend(std::iter::repeat_n(' ', indent));
                text.push_str(&screen.paint(below.style, &below.text));
                text.push('\n');
            }
        }
    }

    fn widths(&self) -> Vec<usize> {
        let cells = |index: usize| self.rows.iter().filter_map(move |row| row.cells.get(index));
        self.columns
            .iter()
            .enumerate()
            .map(|(index, (_, title))| {
                let widths = cells(index).chain([title]).map(|cell| width(&cell.text));
                widths.max().unwrap_or(0)
            })
            .collect()
    }

    /// Without white space at its end.
    fn line<'c>(
        &self,
        line: &mut String,
        cells: impl Iterator<Item = &'c Cell>,
        widths: &[usize],
        screen: Screen,
    ) {
        let mut pending = 0;
        for ((cell, (align, _)), column) in cells.zip(&self.columns).zip(widths) {
            let Cell { text, style } = cell;
            let space = column.saturating_sub(width(text));
            let (before, after) = match align {
                Align::Left => (0, space),
                Align::Right => (space, 0),
            };
            if text.is_empty() {
                pending += column + GAP.len();
            } else {
                line.extend(std::iter::repeat_n(' ', pending + before));
                line.push_str(&screen.paint(*style, text));
                pending = after + GAP.len();
            }
        }
        line.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(grid: &Grid, screen: Screen) -> String {
        let mut text = String::new();
        grid.render(&mut text, screen);
        text
    }

    fn grid(cells: &[[&str; 3]]) -> Grid {
        let mut grid = Grid::new();
        for (align, title) in [(Align::Right, "No"), (Align::Left, "Name"), (Align::Right, "ms")] {
            grid.column(align, title);
        }
        for cells in cells {
            grid.row(Row {
                cells: cells.iter().map(Cell::new).collect(),
                below: Vec::new(),
            });
        }
        grid
    }

    #[test]
    fn columns_are_aligned_whatever_their_texts_are_made_of() {
        let grid = grid(&[
            ["1", "例え", "1.5"],
            ["22", "bücher", "10.25"],
            ["3", "\x1b[2J", ""],
            ["", "x", "7"],
            ["333", "", ""],
        ]);
        let expected = [
            " No  Name          ms",
            "  1  例え         1.5",
            " 22  bücher     10.25",
            r"  3  \u{1b}[2J",
            "     x              7",
            "333\n",
        ];
        assert_eq!(rendered(&grid, Screen::NONE), expected.join("\n"));
        assert_eq!(grid.width(), 3 + 2 + 9 + 2 + 5);
    }

    #[test]
    fn below_a_line() {
        let mut grid = grid(&[["1", "a", "2"]]);
        grid.row(Row {
            cells: vec![Cell::new("2"), Cell::new("b")],
            below: vec![Cell::new("more of b\r")],
        });
        assert_eq!(
            rendered(&grid, Screen::NONE),
            "No  Name  ms\n 1  a      2\n 2  b\n    more of b\\r\n"
        );
    }

    #[test]
    fn only_text_is_painted() {
        let screen = Screen {
            colour: true,
            width: None,
        };
        let mut grid = Grid::new();
        grid.column(Align::Right, "a");
        grid.column(Align::Left, "b");
        grid.row(Row {
            cells: vec![Cell::styled(TITLE, "1"), Cell::new("2")],
            below: Vec::new(),
        });
        assert_eq!(
            rendered(&grid, screen),
            "\x1b[1ma\x1b[0m  \x1b[1mb\x1b[0m\n\x1b[1m1\x1b[0m  2\n"
        );
    }
}
