//! A graph in the language of Graphviz: all runs merged, the edges with how many runs went that
//! way.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;
use std::net::IpAddr;

use datadog_traceroute::{Hop, Names, Report, Run};

use super::text::clean;

/// Who or what is at an end of an edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Node {
    /// Where the probes came from.
    Source(IpAddr),
    /// An address, at whichever TTLs it answered.
    Host(IpAddr),
    /// Nobody, at a TTL behind this one: what is silent behind different hosts is not the same.
    Silence { behind: usize, ttl: u8 },
    /// Nobody, from a TTL on to the end.
    End { behind: usize, ttl: u8 },
}

struct Graph<'r> {
    /// In the order of their first appearance, so that the text does not depend on chance; the
    /// index is the name.
    nodes: Vec<Node>,
    index: HashMap<Node, usize>,
    /// How many runs went from one to the other.
    edges: BTreeMap<(usize, usize), u32>,
    names: &'r Names,
    destinations: HashSet<IpAddr>,
}

pub(crate) fn render(report: &Report) -> String {
    let mut graph = Graph {
        nodes: Vec::new(),
        index: HashMap::new(),
        edges: BTreeMap::new(),
        names: &report.names,
        destinations: HashSet::new(),
    };
    for run in &report.runs {
        graph.add(run);
    }
    graph.write(&report.hostname)
}

impl Graph<'_> {
    fn add(&mut self, run: &Run) {
        let answered = run.hops.iter().rposition(|hop| hop.answer.is_some());
        let (path, rest) = run.hops.split_at(answered.map_or(0, |last| last + 1));
        let mut last = self.node(Node::Source(run.source.ip()));
        self.destinations.insert(run.destination.ip());
        for hop in path {
            let next = self.hop(hop, last);
            self.connect(last, next);
            last = next;
        }
        if let Some(hop) = rest.first() {
            let end = self.node(Node::End {
                behind: last,
                ttl: hop.ttl,
            });
            self.connect(last, end);
        }
    }

    fn hop(&mut self, hop: &Hop, behind: usize) -> usize {
        match hop.answer {
            Some(answer) => self.node(Node::Host(answer.address)),
            None => self.node(Node::Silence { behind, ttl: hop.ttl }),
        }
    }

    fn connect(&mut self, from: usize, to: usize) {
        *self.edges.entry((from, to)).or_default() += 1;
    }

    fn node(&mut self, node: Node) -> usize {
        *self.index.entry(node).or_insert_with(|| {
            self.nodes.push(node);
            self.nodes.len() - 1
        })
    }

    fn write(&self, target: &str) -> String {
        let mut text = format!("digraph {} {{\n", quoted(target));
        text.push_str("  rankdir=LR\n  node [shape=box]\n");
        for (index, node) in self.nodes.iter().enumerate() {
            let _ = writeln!(text, "  n{index} [{}]", self.attributes(node));
        }
        for ((from, to), runs) in &self.edges {
            let _ = writeln!(text, "  n{from} -> n{to} [label=\"{runs}\"]");
        }
        text + "}\n"
    }

    fn attributes(&self, node: &Node) -> String {
        match node {
            Node::Source(address) => format!("label={}, shape=ellipse", quoted(&address.to_string())),
            Node::Host(address) => {
                let names = self.names.of(*address);
                let mut lines: Vec<String> = names.iter().map(|name| escaped(name)).collect();
                lines.push(address.to_string());
                let is_destination = self.destinations.contains(address);
                let shape = if is_destination { ", peripheries=2" } else { "" };
                format!("label=\"{}\"{shape}", lines.join("\\n"))
            }
            Node::Silence { ttl, .. } => format!("label=\"TTL {ttl}: *\", style=dashed"),
            Node::End { ttl, .. } => format!("label=\"no answer from TTL {ttl} on\", style=dashed"),
        }
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", escaped(text))
}

/// For a string in quotes, in which a backslash and an ampersand may begin something.
fn escaped(text: &str) -> String {
    clean(text)
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('&', "&amp;")
}
