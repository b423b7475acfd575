//! How both programs write a result: for programs as JSON, CSV or a graph, for people as a table.

mod csv;
mod dot;
mod frame;
mod grid;
mod memory;
mod paths;
mod screen;
mod stops;
mod table;
mod text;
mod wide;

#[cfg(test)]
mod tests;

use std::error::Error;

use datadog_traceroute::{Report, json};

pub use paths::PathsFormat;
pub use screen::Screen;
pub use text::{clean, host, milliseconds, rtt, width};

/// How the result is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
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
    pub fn named(name: &str) -> Self {
        match name.to_ascii_lowercase().as_str() {
            "table" => Format::Table,
            "wide" => Format::Wide,
            "csv" => Format::Csv,
            "dot" => Format::Dot,
            _ => Format::Json,
        }
    }

    /// Its media type, for HTTP.
    pub fn media_type(self) -> &'static str {
        match self {
            Format::Json => "application/json",
            Format::Table | Format::Wide => "text/plain; charset=utf-8",
            Format::Csv => "text/csv; charset=utf-8",
            Format::Dot => "text/vnd.graphviz; charset=utf-8",
        }
    }

    /// Whether it is made for people to read.
    pub fn is_for_people(self) -> bool {
        matches!(self, Format::Table | Format::Wide)
    }

    /// About how many bytes of memory [`Format::render`] takes for `report`, its text included: not
    /// less, and for large reports not many times as much. What `Wide` takes grows with the square
    /// of the runs where each finds other addresses.
    pub fn memory(self, report: &Report, details: bool) -> usize {
        memory::of(self, report, details)
    }

    /// `report` as text with a final newline. `view` is for the formats for people; the others do
    /// not care.
    ///
    /// # Errors
    /// None that a report can cause.
    pub fn render(self, report: &Report, view: View) -> Result<String, Box<dyn Error>> {
        Ok(match self {
            Format::Json => json::to_pretty_of_size(report, memory::of_text(self, report, view.details))?,
            Format::Table => table::render(report, view),
            Format::Wide => wide::render(report, view),
            Format::Csv => csv::render(report, memory::of_text(self, report, view.details))?,
            Format::Dot => dot::render(report),
        })
    }
}

/// `report` as JSON without white space, with a final newline. It takes as much memory as
/// [`Format::memory`] says of [`Format::Json`].
///
/// # Errors
/// None that a report can cause.
pub fn to_compact_json(report: &Report, details: bool) -> serde_json::Result<String> {
    json::to_compact_of_size(report, memory::of_text(Format::Json, report, details))
}

/// What people see of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// Where they see it.
    pub screen: Screen,
    /// Whether they asked for details.
    pub details: bool,
    /// What stands before the name of an option: `--` on a command line, nothing in a query string.
    pub option_prefix: &'static str,
}
