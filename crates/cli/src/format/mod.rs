//! How a result is written: for programs as JSON, CSV or a graph, for people as a table.

mod csv;
mod dot;
mod frame;
mod grid;
mod path;
mod paths;
mod screen;
mod table;
mod text;
mod wide;

#[cfg(test)]
mod tests;

use std::error::Error;

use datadog_traceroute::{Report, json};

pub(crate) use paths::PathsFormat;
pub(crate) use screen::Screen;
pub(crate) use text::{clean, rtt};

/// How the result is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// The document that programs rely on.
    Json,
    /// One line for each address at each TTL, all runs taken together.
    Table,
    /// One line for each address at each TTL, each run's round-trip time in a column.
    Wide,
    /// One line for each TTL of each run.
    Csv,
    /// A Graphviz graph of all runs.
    Dot,
}

impl Format {
    /// The format that `--format` calls so, in any letter case.
    pub(crate) fn named(name: &str) -> Self {
        match name.to_ascii_lowercase().as_str() {
            "table" => Format::Table,
            "wide" => Format::Wide,
            "csv" => Format::Csv,
            "dot" => Format::Dot,
            _ => Format::Json,
        }
    }

    /// Whether it is made for people to read.
    pub(crate) fn is_for_people(self) -> bool {
        matches!(self, Format::Table | Format::Wide)
    }

    /// `report` as text with a final newline. `view` is for the formats for people; the others do
    /// not care.
    ///
    /// # Errors
    /// None that a report can cause.
    pub(crate) fn render(self, report: &Report, view: View) -> Result<String, Box<dyn Error>> {
        Ok(match self {
            Format::Json => json::to_pretty(report)?,
            Format::Table => table::render(report, view),
            Format::Wide => wide::render(report, view),
            Format::Csv => csv::render(report)?,
            Format::Dot => dot::render(report),
        })
    }
}

/// What people see of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct View {
    /// Where they see it.
    pub(crate) screen: Screen,
    /// Whether they asked for details.
    pub(crate) details: bool,
}
