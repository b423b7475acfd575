//! How much memory a report takes while it is written.

use std::collections::HashSet;

use datadog_traceroute::{Hop, Report};

use super::Format;

/// What does not depend on the report, in bytes.
const OF_EVERYTHING: usize = 8192;
/// Of a run, and of each of a run's TTLs, apart from names.
const OF_RUN: usize = 512;
const OF_HOP: usize = 640;
const OF_HOP_DETAILS: usize = 1280;
/// The same of the text alone.
const OF_HOP_TEXT: usize = 320;
const OF_HOP_DETAILS_TEXT: usize = 800;
/// Of a line of a table, and of a run's cells in it.
const OF_ROW: usize = 1280;
const OF_CELL: usize = 80;
/// Of an answer that shares its line with others.
const OF_ANSWER: usize = 64;
/// Of an end-to-end probe.
const OF_PROBE: usize = 64;

/// All of it. Texts whose size is not known before grow by doubling.
pub(crate) fn of(format: Format, report: &Report, details: bool) -> usize {
    let runs = report.runs.len();
    let rest = match format {
        Format::Json | Format::Csv => {
            let of_hop = if details { OF_HOP_DETAILS } else { OF_HOP };
            hops(report).count() * of_hop + of_text(format, report, details)
        }
        Format::Dot => {
            let names = report.names.iter().map(|(_, names)| of_names(names));
            let silent = hops(report).filter(|hop| hop.answer.is_none());
            (lines(report) + silent.count()) * OF_HOP + 3 * names.sum::<usize>()
        }
        Format::Table | Format::Wide => {
            let cells = match format {
                // Each answer in a column of its own, and with details what is noted of it in another.
                Format::Wide if details => 2 * runs,
                Format::Wide => runs,
                _ => 0,
            };
            let first_names = report.names.iter().filter_map(|(_, names)| names.first());
            let longest = first_names.map(String::len).max().unwrap_or(0);
            let of_line = OF_ROW + 2 * longest + cells * OF_CELL;
            lines(report) * of_line + hops(report).count() * OF_ANSWER
        }
    };
    OF_EVERYTHING + runs * OF_RUN + report.end_to_end.rtts.len() * OF_PROBE + rest
}

/// The text alone, of those formats that write all names of each hop.
pub(crate) fn of_text(format: Format, report: &Report, details: bool) -> usize {
    let names = |hop: &Hop| {
        hop.answer
            .map_or(0, |answer| of_names(report.names.of(answer.address)))
    };
    let hostname = if format == Format::Csv {
        report.hostname.len()
    } else {
        0
    };
    let of_hop = hostname + if details { OF_HOP_DETAILS_TEXT } else { OF_HOP_TEXT };
    OF_EVERYTHING / 2 + hops(report).map(|hop| of_hop + names(hop)).sum::<usize>()
}

fn of_names(names: &[String]) -> usize {
    names.iter().map(|name| name.len() + 24).sum()
}

fn hops(report: &Report) -> impl Iterator<Item = &Hop> {
    report.runs.iter().flat_map(|run| &run.hops)
}

/// Different addresses at each TTL, and silence.
fn lines(report: &Report) -> usize {
    let lines: HashSet<_> = hops(report)
        .map(|hop| (hop.ttl, hop.answer.map(|answer| answer.address)))
        .collect();
    lines.len()
}
