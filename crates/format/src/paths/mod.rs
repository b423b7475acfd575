//! How all paths to a target are written.

mod dot;
mod svg;
mod table;

use datadog_traceroute::paths::PathsNode;
use datadog_traceroute::{Paths, json};

use crate::screen::Screen;
use crate::text::{clean, host};

/// How the result is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathsFormat {
    /// The document `paths/1`.
    Json,
    /// One line for each node at each TTL.
    Table,
    /// A graph in the language of Graphviz.
    Dot,
    /// A picture of the graph.
    Svg,
}

impl PathsFormat {
    /// Their names.
    pub const NAMES: [&str; 4] = ["json", "table", "dot", "svg"];

    /// The format that `--format` calls so, in any letter case.
    pub fn named(name: &str) -> Self {
        match name.to_ascii_lowercase().as_str() {
            "table" => PathsFormat::Table,
            "dot" => PathsFormat::Dot,
            "svg" => PathsFormat::Svg,
            _ => PathsFormat::Json,
        }
    }

    /// `paths` as text with a final newline.
    ///
    /// # Errors
    /// None that a result can cause.
    pub fn render(self, paths: &Paths, screen: Screen) -> Result<String, serde_json::Error> {
        Ok(match self {
            PathsFormat::Json => json::to_pretty(paths)?,
            PathsFormat::Table => table::render(paths, screen),
            PathsFormat::Dot => dot::render(paths),
            PathsFormat::Svg => svg::render(paths),
        })
    }
}

/// A node in words.
fn label(node: &PathsNode) -> String {
    match node.ip_address {
        Some(address) => host(address, &node.reverse_dns),
        None => "(silent)".to_owned(),
    }
}

/// The target in words.
fn target(paths: &Paths) -> String {
    let address = paths.destination.ip_address.to_string();
    let name = clean(&paths.target);
    if name == address {
        name
    } else {
        format!("{name} ({address})")
    }
}

/// Some share at most, in words.
fn at_most(share: f64) -> String {
    match share * 100.0 {
        percent if percent < 0.1 => "less than 0.1 %".to_owned(),
        percent => format!("at most {percent:.1} %"),
    }
}

/// What may be missing, in words.
fn bound(paths: &Paths) -> String {
    match paths.bound {
        Some(bound) => format!(
            "next hops of a node are incomplete with {}, something anywhere with {}",
            at_most(bound.per_node),
            at_most(bound.graph)
        ),
        None => "the path changed meanwhile: what is missing cannot be said".to_owned(),
    }
}
