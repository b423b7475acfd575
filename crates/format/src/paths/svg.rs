//! A picture: a column for each TTL, its nodes below each other, links between them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use datadog_traceroute::Paths;
use datadog_traceroute::paths::PathsNode;

use super::{bound, label, target};

/// Between two columns, and between the middles of two nodes of a column.
const GAP: usize = 40;
const LINE: usize = 44;
/// The height of a node.
const HEIGHT: usize = 30;
/// Around all of it; above there is room for the heading.
const MARGIN: usize = 20;
const HEADING: usize = 56;
/// Letters for which a label has room: those of the longest one, but an IPv6 address at most.
const LETTERS: RangeInclusive<usize> = 24..=40;

/// Where nodes are.
struct Places {
    /// Their middles.
    middles: BTreeMap<(u8, Option<IpAddr>), (usize, usize)>,
    /// Letters for which their labels have room.
    letters: usize,
    /// The width of a node.
    width: usize,
}

pub(crate) fn render(paths: &Paths) -> String {
    let first = paths.hops.first().map_or(1, |hop| hop.ttl);
    let tallest = paths
        .hops
        .iter()
        .map(|hop| hop.nodes.len())
        .max()
        .unwrap_or(1)
        .max(1);
    let nodes_of_all = paths.hops.iter().flat_map(|hop| &hop.nodes);
    let longest = nodes_of_all.map(|node| label(node).chars().count()).max();
    let letters = longest.unwrap_or(0).clamp(*LETTERS.start(), *LETTERS.end());
    let box_width = letters * 25 / 4;
    let columns = paths.hops.len() + 1;
    let (width, height) = (
        2 * MARGIN + columns * (box_width + GAP) - GAP,
        HEADING + 2 * MARGIN + (tallest - 1) * LINE + HEIGHT + MARGIN,
    );
    let middle = |column: usize, index: usize, count: usize| {
        let top = HEADING + MARGIN + HEIGHT / 2 + (tallest - count) * LINE / 2;
        (
            MARGIN + box_width / 2 + column * (box_width + GAP),
            top + index * LINE,
        )
    };
    let mut middles = BTreeMap::new();
    middles.insert((first - 1, Some(paths.source.ip_address)), middle(0, 0, 1));
    for (column, hop) in (1..).zip(&paths.hops) {
        for (index, node) in hop.nodes.iter().enumerate() {
            middles.insert((hop.ttl, node.ip_address), middle(column, index, hop.nodes.len()));
        }
    }
    let places = Places {
        middles,
        letters,
        width: box_width,
    };
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{MARGIN}\" y=\"24\" font-size=\"15\">All paths to {}</text>\n\
         <text x=\"{MARGIN}\" y=\"42\" fill=\"#555\">{}</text>\n",
        escaped(&target(paths)),
        escaped(&bound(paths)),
    );
    links(paths, &places, &mut text);
    nodes(paths, &places, first, &mut text);
    text.push_str("</svg>\n");
    text
}

fn links(paths: &Paths, places: &Places, text: &mut String) {
    let flows = paths
        .links
        .iter()
        .map(|link| link.flows)
        .max()
        .unwrap_or(1)
        .max(1);
    for link in &paths.links {
        let ends = places
            .middles
            .get(&(link.ttl - 1, link.from))
            .zip(places.middles.get(&(link.ttl, link.to)));
        let Some(((x1, y1), (x2, y2))) = ends else {
            continue;
        };
        let (x1, x2) = (x1 + places.width / 2, x2 - places.width / 2);
        let bend = usize::midpoint(x1, x2);
        let (colour, thickness, loss) = match link.loss {
            Some(loss) => (
                "#c22",
                4.0,
                format!(", loss begins here: {:.1} %", loss.ratio * 100.0),
            ),
            None => (
                "#678",
                1.0 + 2.0 * f64::from(link.flows) / f64::from(flows),
                String::new(),
            ),
        };
        let _ = writeln!(
            text,
            "<path d=\"M {x1} {y1} C {bend} {y1} {bend} {y2} {x2} {y2}\" fill=\"none\" stroke=\"{colour}\" \
             stroke-width=\"{thickness:.1}\"><title>{} flows{loss}</title></path>",
            link.flows
        );
        // Above the further end: not everybody can tell colours apart.
        if let Some(loss) = link.loss {
            let _ = writeln!(
                text,
                "<text x=\"{x2}\" y=\"{}\" fill=\"#a11\" font-weight=\"bold\">{:.1} % lost</text>",
                y2 - HEIGHT / 2 - 3,
                loss.ratio * 100.0
            );
        }
    }
}

fn nodes(paths: &Paths, places: &Places, first: u8, text: &mut String) {
    let source = paths.source.ip_address;
    if let Some(place) = places.middles.get(&(first - 1, Some(source))) {
        draw(
            text,
            places,
            *place,
            ("#eef", ""),
            (&source.to_string(), "source"),
        );
    }
    for hop in &paths.hops {
        let mixed = if hop.balancing == "per_packet" {
            ", balanced per packet"
        } else {
            ""
        };
        for node in &hop.nodes {
            let Some(place) = places.middles.get(&(hop.ttl, node.ip_address)) else {
                continue;
            };
            let style = match node.ip_address {
                None => ("#fff", " stroke-dasharray=\"4 3\""),
                Some(address) if address == paths.destination.ip_address => ("#dfd", ""),
                Some(_) if hop.balancing == "per_packet" => ("#fed", ""),
                Some(_) => ("#f6f8fa", ""),
            };
            let title = format!("TTL {}{mixed}: {}", hop.ttl, measured(node));
            draw(text, places, *place, style, (&label(node), &title));
        }
    }
}

fn draw(
    text: &mut String,
    places: &Places,
    (x, y): (usize, usize),
    (fill, more): (&str, &str),
    (label, title): (&str, &str),
) {
    let Places { letters, width, .. } = *places;
    let short: String = if label.chars().count() > letters {
        label.chars().take(letters - 1).chain(['…']).collect()
    } else {
        label.to_owned()
    };
    let _ = writeln!(
        text,
        "<g><title>{}: {}</title><rect x=\"{}\" y=\"{}\" width=\"{width}\" height=\"{HEIGHT}\" rx=\"5\" \
         fill=\"{fill}\" stroke=\"#345\"{more}/><text x=\"{x}\" y=\"{}\" text-anchor=\"middle\">{}</text></g>",
        escaped(label),
        escaped(title),
        x - width / 2,
        y - HEIGHT / 2,
        y + 4,
        escaped(&short),
    );
}

/// What was measured at a node, in words.
fn measured(node: &PathsNode) -> String {
    let times = node.rtt.map_or_else(String::new, |rtt| {
        format!(", RTT {:.3} / {:.3} / {:.3} ms", rtt.min, rtt.avg, rtt.max)
    });
    format!(
        "{} flows, {} of {} answered{times}",
        node.flows, node.answered, node.sent
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
