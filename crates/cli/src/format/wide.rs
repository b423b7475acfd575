//! The path in one table: the round-trip times of each run in a column of their own.

use datadog_traceroute::Report;

use super::grid::{Align, Cell, Grid};
use super::path::{Host, Stop};
use super::screen::{SILENCE, Screen};
use super::table::{Names, beginning, frame_around, slots};
use super::text::rtt;

/// What stands for an answer that did not come.
const NO_ANSWER: &str = "*";

pub(crate) fn render(report: &Report, screen: Screen) -> String {
    frame_around(report, screen, |stops, names| grid(report, stops, names))
}

fn grid(report: &Report, stops: &[Stop], names: Names) -> Grid {
    let mut grid = Grid::new();
    grid.column(Align::Right, "TTL");
    grid.column(Align::Left, "Host");
    let runs = report.traceroute.runs.len();
    let details = report.details.is_some();
    for run in 1..=runs {
        grid.column(Align::Right, format!("Run {run}"));
        if details {
            // Notes, right behind the time they are about.
            grid.column(Align::Left, "");
        }
    }
    for stop in stops {
        for (index, host) in slots(stop).enumerate() {
            let mut row = beginning(stop, index, host, names);
            for run in 0..runs {
                let (time, note) = answer(stop, index, host, run);
                row.cells.push(time);
                if details {
                    row.cells.push(note);
                }
            }
            grid.row(row);
        }
    }
    grid
}

/// A run's round-trip time, and what traceroute would note behind it.
fn answer(stop: &Stop, index: usize, host: Option<&Host>, run: usize) -> (Cell, Cell) {
    match host.and_then(|host| host.answer(run)) {
        Some(answer) => {
            let note = answer.details.and_then(|details| details.notation.as_deref());
            (Cell::new(rtt(answer.rtt)), Cell::new(note.unwrap_or_default()))
        }
        // Which of several hosts it would have been nobody knows: the first stands for all.
        None if index == 0 && stop.is_silent(run) => (Cell::styled(SILENCE, NO_ANSWER), Cell::default()),
        None => (Cell::default(), Cell::default()),
    }
}
