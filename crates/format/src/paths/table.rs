//! One line for each node at each TTL.

use datadog_traceroute::Paths;
use datadog_traceroute::paths::{PathsHop, PathsNode};

use super::{bound, label, target};
use crate::grid::{Align, Cell, Grid, Row};
use crate::screen::Screen;
use crate::text::rtt;

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
    let protocol = paths.protocol.name().to_uppercase();
    let changed = if paths.path_changed {
        "\nThe path changed meanwhile."
    } else {
        ""
    };
    format!(
        "All paths to {} over {protocol}: {} flows, {} probes, {:.1} s\n\n{}\nMissing: {}.{changed}\n",
        target(paths),
        paths.flows.len(),
        paths.probes_sent,
        paths.duration_ms / 1000.0,
        grid.render(screen),
        bound(paths),
    )
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
    let before: Vec<String> = before
        .map(|link| {
            link.from
                .map_or_else(|| "(silent)".to_owned(), |from| from.to_string())
        })
        .collect();
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
