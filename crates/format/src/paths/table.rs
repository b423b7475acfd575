//! One line for each node at each TTL.

use std::fmt::Write as _;
use std::net::IpAddr;

use datadog_traceroute::Paths;
use datadog_traceroute::paths::{PathsHop, PathsNode, PathsRatio};

use super::{bound, label, target};
use crate::grid::{Align, Cell, Grid, Row};
use crate::screen::Screen;
use crate::text::rtt;

/// So many nodes before one are named.
const MOST_NAMED: usize = 3;

pub(crate) fn render(paths: &Paths, screen: Screen) -> String {
    let mut grid = Grid::new();
    grid.column(Align::Right, "TTL");
    grid.column(Align::Left, "Node");
    for title in ["Flows", "Answered", "Best ms", "Mean ms", "Worst ms"] {
        grid.column(Align::Right, title);
    }
    grid.column(Align::Left, "From");
    for hop in &paths.hops {
        for (index, node) in hop.nodes.iter().enumerate() {
            let first = index == 0;
            grid.row(Row {
                cells: cells(paths, hop, node, first).map(Cell::new).into(),
                below: Vec::new(),
            });
        }
    }
    let mut below = String::new();
    let (sent, received) = paths.flows.iter().fold((0, 0), |(sent, received), flow| {
        (sent + flow.e2e.sent, received + flow.e2e.received)
    });
    if sent > 0 {
        let _ = writeln!(below, "End to end: {received} of {sent} probes answered.");
    }
    for link in &paths.loss_begins {
        let percent = |share: f64| share * 100.0;
        let PathsRatio { ratio, low, high } = link.loss;
        let _ = writeln!(
            below,
            "Loss begins between {} and {}: {:.1} % ({:.1} to {:.1} %).",
            end(link.from),
            end(link.to),
            percent(ratio),
            percent(low),
            percent(high)
        );
    }
    for hop in &paths.hops {
        if let Some(hashed) = &hop.hashed {
            let names: Vec<String> = hashed.iter().map(|name| name.replace('_', " ")).collect();
            let names = if names.is_empty() {
                "neither port nor flow label alone".to_owned()
            } else {
                names.join(", ")
            };
            let _ = writeln!(below, "Balanced to TTL {} by: {names}.", hop.ttl);
        }
    }
    let protocol = paths.protocol.name().to_uppercase();
    let changed = if paths.path_changed {
        "\nThe path changed meanwhile."
    } else {
        ""
    };
    let mut text = format!(
        "All paths to {} over {protocol}: {} flows, {} probes, {:.1} s\n\n",
        target(paths),
        paths.flows.len(),
        paths.probes_sent,
        paths.duration_ms / 1000.0,
    );
    grid.render(&mut text, screen);
    let _ = writeln!(text, "\n{below}Missing: {}.{changed}", bound(paths));
    text
}

fn cells(paths: &Paths, hop: &PathsHop, node: &PathsNode, first: bool) -> [String; 8] {
    let ttl = match (first, hop.balancing) {
        (true, "per_packet") => format!("{} per packet", hop.ttl),
        (true, _) => hop.ttl.to_string(),
        (false, _) => String::new(),
    };
    let [best, mean, worst] = match node.rtt {
        Some(times) => [times.min, times.avg, times.max].map(rtt),
        None => Default::default(),
    };
    let before = paths
        .links
        .iter()
        .filter(|link| link.ttl == hop.ttl && link.to == node.ip_address);
    let mut before: Vec<String> = before.map(|link| end(link.from)).collect();
    if before.len() > MOST_NAMED {
        before = vec![format!("{} nodes", before.len())];
    }
    let lost = if node.answered == node.sent {
        node.answered.to_string()
    } else {
        format!("{}/{}", node.answered, node.sent)
    };
    [
        ttl,
        label(node),
        node.flows.to_string(),
        lost,
        best,
        mean,
        worst,
        before.join(", "),
    ]
}

/// An end of a link in words.
fn end(address: Option<IpAddr>) -> String {
    address.map_or_else(|| "(silent)".to_owned(), |address| address.to_string())
}
