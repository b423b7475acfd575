//! The path in one table: each address at each TTL with its statistics over all runs.

use datadog_traceroute::{Answer, Cause, IcmpError, Losses, Report, notation};

use super::View;
use super::frame;
use super::grid::{Align, Cell, Grid, Row};
use super::screen::{GOAL, NOTABLE, PLAIN, SILENCE};
use super::stops::{Responder, Stop, distinct};
use super::text::{self, clean, rtt};

/// What stands for a host that does not answer.
const NOBODY: &str = "???";
/// What stands for several TTLs at the end where nobody answers.
const NO_ANSWER: &str = "no answer";

/// Whether a host's name stands before its address, or below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NamePlacement {
    Beside,
    Below,
}

pub(crate) fn render(report: &Report, view: View) -> String {
    frame_around(report, view, |stops, names| grid(view, stops, names))
}

/// The grid that `build` makes of the path, between what stands above and below. Where the screen
/// is too narrow for it, names go below their addresses.
pub(crate) fn frame_around(
    report: &Report,
    view: View,
    build: impl Fn(&[Stop], NamePlacement) -> Grid,
) -> String {
    let screen = view.screen;
    let stops = Stop::of(report);
    let mut text = frame::above(report, screen);
    if !stops.is_empty() {
        let mut grid = build(&stops, NamePlacement::Beside);
        if screen.width.is_some_and(|width| grid.width() > width) {
            grid = build(&stops, NamePlacement::Below);
        }
        text.push('\n');
        grid.render(&mut text, screen);
    }
    text.push('\n');
    text.push_str(&frame::below(report, view));
    text
}

fn grid(view: View, stops: &[Stop], names: NamePlacement) -> Grid {
    let notes = NoteColumn::beside_loss(view, stops);
    let mut grid = Grid::new();
    grid.column(Align::Right, "TTL");
    grid.column(Align::Left, "Host");
    for title in ["Loss", "Runs", "Best", "Avg", "Worst", "StDev"] {
        grid.column(Align::Right, title);
    }
    if view.details {
        grid.column(Align::Right, "Reply TTL");
    }
    notes.add_to(&mut grid);
    for stop in stops {
        for (index, host) in slots(stop).enumerate() {
            let mut row = beginning(view, stop, index, host, names);
            row.cells.extend(statistics(stop, index, host));
            if view.details {
                row.cells.push(reply_ttls(host));
            }
            row.cells.extend(notes.cell(stop, index, host));
            grid.row(row);
        }
    }
    grid
}

/// The hosts of a TTL, or `None` once when there is none.
pub(crate) fn slots<'s>(stop: &'s Stop<'s>) -> impl Iterator<Item = Option<&'s Responder<'s>>> {
    let nobody = stop.hosts.is_empty().then_some(None);
    stop.hosts.iter().map(Some).chain(nobody)
}

/// TTL, once for all hosts at it, and host.
pub(crate) fn beginning(
    view: View,
    stop: &Stop,
    index: usize,
    host: Option<&Responder>,
    names: NamePlacement,
) -> Row {
    let is_range = stop.ttl < stop.last_ttl;
    let ttl = match index {
        0 if is_range => format!("{}–{}", stop.ttl, stop.last_ttl),
        0 => stop.ttl.to_string(),
        _ => String::new(),
    };
    let mut below = Vec::new();
    let cell = match host {
        None => Cell::styled(SILENCE, if is_range { NO_ANSWER } else { NOBODY }),
        Some(host) => {
            let style = if host.is_destination { GOAL } else { PLAIN };
            let shown = match (names, host.names.first()) {
                (NamePlacement::Below, Some(name)) => {
                    below.push(Cell::styled(style, format!("  {}", clean(name))));
                    host.address.to_string()
                }
                _ => text::host(host.address, host.names),
            };
            if view.details {
                let stacks = host.mpls().into_iter();
                below.extend(stacks.map(|stack| Cell::new(format!("  MPLS {stack}"))));
            }
            Cell::styled(style, shown)
        }
    };
    Row {
        cells: vec![Cell::new(ttl), cell],
        below,
    }
}

fn statistics(stop: &Stop, index: usize, host: Option<&Responder>) -> [Cell; 6] {
    let answers = host.map_or(&[][..], |host| &host.answers);
    let rtts: Vec<f64> = answers
        .iter()
        .filter_map(|(_, answer)| Some(text::milliseconds(answer.rtt?)))
        .collect();
    let times = Times::of(&rtts);
    let cell = |time: Option<f64>| Cell::new(time.map_or_else(String::new, rtt));
    [
        // Loss is the TTL's: nobody knows which of its hosts a lost probe met.
        if index == 0 { loss(stop) } else { Cell::default() },
        if is_hidden(stop) {
            Cell::default()
        } else {
            Cell::new(format!("{}/{}", answers.len(), stop.probed))
        },
        cell(times.map(|times| times.best)),
        cell(times.map(|times| times.mean)),
        cell(times.map(|times| times.worst)),
        cell(times.and_then(|times| times.deviation)),
    ]
}

/// The share of the probes that the network lost. Where none was, but others went unanswered, the
/// word for the reason.
fn loss(stop: &Stop) -> Cell {
    let lost = real_losses(&stop.lost);
    if lost == 0
        && let Some(cause) = stop.lost.main()
    {
        if !stop.has_one_cause {
            return Cell::default();
        }
        let style = match cause {
            Cause::Silent | Cause::Filtered => SILENCE,
            _ => NOTABLE,
        };
        return Cell::styled(style, text::cause(cause));
    }
    if is_hidden(stop) {
        return Cell::default();
    }
    // Not those that say nothing about the path.
    let counted = (stop.probes + lost).saturating_sub(stop.lost.total());
    let share = f64::from(lost) / f64::from(counted.max(1)) * 100.0;
    let style = match lost {
        0 => PLAIN,
        _ if stop.hosts.is_empty() => SILENCE,
        _ => NOTABLE,
    };
    Cell::styled(style, format!("{share:.1}%"))
}

/// Whether all who answered are hidden.
fn is_hidden(stop: &Stop) -> bool {
    stop.hidden && stop.hosts.is_empty()
}

/// What the network lost, or may have lost. A limit, a router that never answers, a firewall and
/// this machine lose nothing that others send.
fn real_losses(lost: &Losses) -> u32 {
    lost[Cause::Network] + lost[Cause::Unknown]
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

/// The answers' TTLs.
fn reply_ttls(host: Option<&Responder>) -> Cell {
    let answers = host.into_iter().flat_map(|host| &host.answers);
    // 0: not known.
    let ttls = answers
        .map(|(_, answer)| answer.reply_ttl)
        .filter(|ttl| *ttl != 0);
    Cell::new(distinct(ttls.map(|ttl| ttl.to_string())).join(","))
}

/// The last column. It is left out when there is nothing to note.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NoteColumn {
    view: View,
    /// There is no column of losses, which would say why a TTL is silent.
    says_why: bool,
    is_there: bool,
}

impl NoteColumn {
    /// In a table that has losses.
    fn beside_loss(view: View, stops: &[Stop]) -> Self {
        NoteColumn::of(view, false, stops)
    }

    /// In a table that has none.
    pub(crate) fn without_loss(view: View, stops: &[Stop]) -> Self {
        NoteColumn::of(view, true, stops)
    }

    fn of(view: View, says_why: bool, stops: &[Stop]) -> Self {
        let mut column = NoteColumn {
            view,
            says_why,
            is_there: view.details,
        };
        let mut lines = stops
            .iter()
            .flat_map(|stop| slots(stop).enumerate().map(move |slot| (stop, slot)));
        column.is_there |= lines.any(|(stop, (index, host))| !column.notes(stop, index, host).is_empty());
        column
    }

    pub(crate) fn add_to(self, grid: &mut Grid) {
        if self.is_there {
            grid.column(Align::Left, "Note");
        }
    }

    /// This line's.
    pub(crate) fn cell(self, stop: &Stop, index: usize, host: Option<&Responder>) -> Option<Cell> {
        let text = || self.notes(stop, index, host).join(", ");
        self.is_there.then(|| Cell::styled(NOTABLE, text()))
    }

    /// Of the host, and, on its first line, of the TTL.
    fn notes(self, stop: &Stop, index: usize, host: Option<&Responder>) -> Vec<String> {
        let mut notes = host.map_or_else(Vec::new, |host| self.of_host(host));
        if index == 0 {
            notes.extend(stop.nat.then(|| "NAT".to_owned()));
            notes.extend(stop.hidden.then(|| "private".to_owned()));
            notes.extend(self.unanswered(stop));
        }
        notes
    }

    /// What traceroute writes behind its times, unless it stands there already, and, with details,
    /// the TTL that the host quotes of a probe that ended for lack of TTL, when that was not 1,
    /// which is what it should be there. Who refuses a probe does so with any TTL.
    fn of_host(self, host: &Responder) -> Vec<String> {
        let answers = || host.answers.iter().map(|(_, answer)| *answer);
        let beside_times = self.says_why && self.view.details;
        let notations = answers().filter(|_| !beside_times).filter_map(notation);
        let expired = |answer: &&Answer| answer.error == Some(IcmpError::TimeExceeded);
        let expired = answers().filter(|_| self.view.details).filter(expired);
        let quoted = expired.filter_map(|answer| answer.quoted_ttl);
        let quoted = quoted.filter(|ttl| *ttl != 1).map(|ttl| format!("quoted {ttl}"));
        // With details, the labels stand below.
        let mpls = (!self.view.details && !host.mpls().is_empty()).then(|| "MPLS".to_owned());
        distinct(notations.chain(quoted).chain(mpls))
    }

    /// What went unanswered for other reasons than loss, where the loss does not say so itself.
    fn unanswered(self, stop: &Stop) -> Vec<String> {
        let lost = &stop.lost;
        if real_losses(lost) == 0 && stop.has_one_cause {
            let cause = lost.main().filter(|_| self.says_why);
            return cause
                .map(text::cause_in_words)
                .map(str::to_owned)
                .into_iter()
                .collect();
        }
        lost.iter()
            .filter(|(cause, _)| !matches!(cause, Cause::Network | Cause::Unknown))
            .map(|(cause, count)| format!("{count} {}", text::cause_in_words(cause)))
            .collect()
    }
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
