//! The path in one table: each address at each TTL with its statistics over all runs.

use datadog_traceroute::Report;
use datadog_traceroute::details::AnswerKind;

use super::frame;
use super::grid::{Align, Cell, Grid, Row};
use super::path::{Host, Stop, distinct};
use super::screen::{GOAL, NOTABLE, PLAIN, SILENCE, Screen};
use super::text::{self, clean, rtt};

/// What stands for a host that does not answer.
const NOBODY: &str = "???";

/// Whether a host's name stands before its address, or below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Names {
    Beside,
    Below,
}

pub(crate) fn render(report: &Report, screen: Screen) -> String {
    frame_around(report, screen, |stops, names| grid(report, stops, names))
}

/// The grid that `build` makes of the path, between what stands above and below. Where the screen is too narrow for it,
/// names go below their addresses.
pub(crate) fn frame_around(
    report: &Report,
    screen: Screen,
    build: impl Fn(&[Stop], Names) -> Grid,
) -> String {
    let stops = Stop::of(report);
    let mut text = frame::above(report, screen);
    if !stops.is_empty() {
        let mut grid = build(&stops, Names::Beside);
        if screen.width.is_some_and(|width| grid.width() > width) {
            grid = build(&stops, Names::Below);
        }
        text.push('\n');
        text.push_str(&grid.render(screen));
    }
    text + "\n" + &frame::below(report, screen)
}

fn grid(report: &Report, stops: &[Stop], names: Names) -> Grid {
    let mut grid = Grid::new();
    grid.column(Align::Right, "TTL");
    grid.column(Align::Left, "Host");
    for title in ["Loss", "Runs", "Best", "Avg", "Worst", "StDev"] {
        grid.column(Align::Right, title);
    }
    if report.details.is_some() {
        grid.column(Align::Right, "Reply TTL");
        grid.column(Align::Left, "Note");
    }
    for stop in stops {
        for (index, host) in slots(stop).enumerate() {
            let mut row = beginning(stop, index, host, names);
            row.cells.extend(statistics(stop, index, host));
            row.cells.extend(host.into_iter().flat_map(learned));
            grid.row(row);
        }
    }
    grid
}

/// The hosts of a TTL, or `None` once when there is none.
pub(crate) fn slots<'s>(stop: &'s Stop<'s>) -> impl Iterator<Item = Option<&'s Host<'s>>> {
    let nobody = stop.hosts.is_empty().then_some(None);
    stop.hosts.iter().map(Some).chain(nobody)
}

/// TTL, once for all hosts at it, and host.
pub(crate) fn beginning(stop: &Stop, index: usize, host: Option<&Host>, names: Names) -> Row {
    let ttl = if index == 0 {
        stop.ttl.to_string()
    } else {
        String::new()
    };
    let mut below = Vec::new();
    let cell = match host {
        None => Cell::styled(SILENCE, NOBODY),
        Some(host) => {
            let style = if host.is_destination { GOAL } else { PLAIN };
            let shown = match (names, host.names.first()) {
                (Names::Below, Some(name)) => {
                    below.push(Cell::styled(style, format!("  {}", clean(name))));
                    host.address.to_string()
                }
                _ => text::host(host.address, host.names),
            };
            below.extend(
                host.mpls()
                    .into_iter()
                    .map(|stack| Cell::new(format!("  MPLS {stack}"))),
            );
            Cell::styled(style, shown)
        }
    };
    Row {
        cells: vec![Cell::new(ttl), cell],
        below,
    }
}

fn statistics(stop: &Stop, index: usize, host: Option<&Host>) -> [Cell; 6] {
    let (probed, answered) = (stop.probed, stop.answered());
    let loss = format!("{:.1}%", (probed - answered) as f64 / probed as f64 * 100.0);
    // Loss is the TTL's: nobody knows which of its hosts a lost probe met.
    let loss = match (index, answered) {
        (1.., _) => Cell::default(),
        (_, 0) => Cell::styled(SILENCE, loss),
        _ if answered < probed => Cell::styled(NOTABLE, loss),
        _ => Cell::new(loss),
    };
    let rtts: Vec<f64> = host
        .into_iter()
        .flat_map(|host| &host.answers)
        .map(|answer| answer.rtt)
        .collect();
    let times = Times::of(&rtts);
    let cell = |time: Option<f64>| Cell::new(time.map_or_else(String::new, rtt));
    [
        loss,
        Cell::new(format!("{}/{probed}", rtts.len())),
        cell(times.map(|times| times.best)),
        cell(times.map(|times| times.mean)),
        cell(times.map(|times| times.worst)),
        cell(times.and_then(|times| times.deviation)),
    ]
}

/// Round-trip times, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Times {
    best: f64,
    mean: f64,
    worst: f64,
    /// Standard deviation of the sample; `None` of a single time.
    deviation: Option<f64>,
}

impl Times {
    fn of(rtts: &[f64]) -> Option<Times> {
        let count = rtts.len() as f64;
        let mean = rtts.iter().sum::<f64>() / count;
        let squares: f64 = rtts.iter().map(|rtt| (rtt - mean).powi(2)).sum();
        Some(Times {
            best: rtts.iter().copied().reduce(f64::min)?,
            mean,
            worst: rtts.iter().copied().reduce(f64::max)?,
            deviation: (rtts.len() > 1).then(|| (squares / (count - 1.0)).sqrt()),
        })
    }
}

/// The answers' TTLs, and notes: traceroute's own, and on probes that ended for lack of TTL when it was not 1, which is what it
/// should be there. Who refuses a probe does so with any TTL. Nothing when nobody asked.
fn learned(host: &Host) -> Vec<Cell> {
    let details: Vec<_> = host.answers.iter().filter_map(|answer| answer.details).collect();
    let reply_ttls = details.iter().filter_map(|details| details.reply_ttl);
    let reply_ttls = distinct(reply_ttls.map(|ttl| ttl.to_string()));
    let notations = details.iter().filter_map(|details| details.notation.clone());
    let expired = details
        .iter()
        .filter(|details| details.answer == AnswerKind::TimeExceeded);
    let quoted = expired.filter_map(|details| details.quoted_ttl);
    let quoted = quoted.filter(|ttl| *ttl != 1).map(|ttl| format!("quoted {ttl}"));
    let notes = distinct(notations.chain(quoted));
    vec![
        Cell::new(reply_ttls.join(",")),
        Cell::styled(NOTABLE, notes.join(" ")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_of_times() {
        assert_eq!(Times::of(&[]), None);
        let one = Times::of(&[1.5]).unwrap();
        assert_eq!(
            (one.best, one.mean, one.worst, one.deviation),
            (1.5, 1.5, 1.5, None)
        );
        let several = Times::of(&[2.0, 4.0, 9.0]).unwrap();
        assert_eq!((several.best, several.mean, several.worst), (2.0, 5.0, 9.0));
        // Deviations of 3, 1 and 4: √(26 / 2).
        assert!((several.deviation.unwrap() - 13.0_f64.sqrt()).abs() < 1e-12);
    }
}
