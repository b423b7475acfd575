//! A graph in the language of Graphviz.

use std::fmt::Write as _;
use std::net::IpAddr;

use datadog_traceroute::Paths;

use super::{label, target};

pub(crate) fn render(paths: &Paths) -> String {
    let source = paths.source.ip_address;
    let mut text = String::from("digraph paths {\n  rankdir = LR;\n  node [shape = box];\n");
    let _ = writeln!(
        text,
        "  label = {};",
        quoted(&format!("All paths to {}", target(paths)))
    );
    let _ = writeln!(
        text,
        "  {} [label = {}, shape = plaintext];",
        name(0, Some(source)),
        quoted(&source.to_string())
    );
    for hop in &paths.hops {
        for node in &hop.nodes {
            let shape = if node.ip_address == Some(paths.destination.ip_address) {
                ", peripheries = 2"
            } else if node.ip_address.is_none() {
                ", style = dashed"
            } else {
                ""
            };
            let _ = writeln!(
                text,
                "  {} [label = {}{shape}];",
                name(hop.ttl, node.ip_address),
                quoted(&label(node))
            );
        }
    }
    for link in &paths.links {
        let loss = link
            .loss
            .map_or_else(String::new, |loss| format!("\\n{:.1} % lost", loss.ratio * 100.0));
        let colour = if link.loss.is_some() { ", color = red" } else { "" };
        let _ = writeln!(
            text,
            "  {} -> {} [label = \"{}{loss}\"{colour}];",
            name(link.ttl - 1, link.from),
            name(link.ttl, link.to),
            link.flows
        );
    }
    text.push_str("}\n");
    text
}

fn name(ttl: u8, address: Option<IpAddr>) -> String {
    quoted(&address.map_or_else(|| format!("{ttl} silent"), |address| format!("{ttl} {address}")))
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
