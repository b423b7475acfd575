//! The path in one table: the round-trip times of each run in a column of their own.

use datadog_traceroute::{Report, notation};

use super::View;
use super::grid::{Align, Cell, Grid};
use super::screen::SILENCE;
use super::stops::{Responder, Stop};
use super::table::{NamePlacement, NoteColumn, beginning, frame_around, slots};
use super::text::{milliseconds, rtt};

/// What stands for an answer that did not come.
const NO_ANSWER: &str = "*";
/// What stands for an answer that may be to any of several probes, so that it has no round-trip
/// time.
const NO_TIME: &str = "?";

pub(crate) fn render(report: &Report, view: View) -> String {
    let runs = report.runs.len();
    frame_around(report, view, |stops, names| grid(view, runs, stops, names))
}

fn grid(view: View, runs: usize, stops: &[Stop], names: NamePlacement) -> Grid {
    let notes = NoteColumn::without_loss(view, stops);
    let mut grid = Grid::new();
    grid.column(Align::Right, "TTL");
    grid.column(Align::Left, "Host");
    for run in 1..=runs {
        grid.column(Align::Right, format!("Run {run}"));
        if view.details {
            // Notes, right behind the time they are about.
            grid.column(Align::Left, "");
        }
    }
    notes.add_to(&mut grid);
    for stop in stops {
        for (index, host) in slots(stop).enumerate() {
            let mut row = beginning(view, stop, index, host, names);
            for run in 0..runs {
                let (time, note) = answer(stop, index, host, run);
                row.cells.push(time);
                if view.details {
                    row.cells.push(note);
                }
            }
            row.cells.extend(notes.cell(stop, index, host));
            grid.row(row);
        }
    }
    grid
}

/// A run's round-trip time, and what traceroute would note behind it.
fn answer(stop: &Stop, index: usize, host: Option<&Responder>, run: usize) -> (Cell, Cell) {
    match host.and_then(|host| host.answer(run)) {
        Some(answer) => {
            let time = answer
                .rtt
                .map_or_else(|| NO_TIME.to_owned(), |time| rtt(milliseconds(time)));
            (Cell::new(time), Cell::new(notation(answer).unwrap_or_default()))
        }
        // Which of several hosts it would have been nobody knows: the first stands for all.
        None if index == 0 && stop.is_silent(run) => (Cell::styled(SILENCE, NO_ANSWER), Cell::default()),
        None => (Cell::default(), Cell::default()),
    }
}
