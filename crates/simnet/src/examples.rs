//! The topologies that come with the crate.

use crate::topology::{Topology, TopologyError};

/// A topology that comes with the crate, by the name of its file in `topologies/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Example {
    /// File name without `.toml`.
    pub name: &'static str,
    /// The file.
    pub text: &'static str,
}

impl Example {
    /// Its first comment line.
    pub fn summary(&self) -> &'static str {
        self.text
            .lines()
            .next()
            .unwrap_or_default()
            .trim_start_matches('#')
            .trim()
    }

    /// Reads it.
    ///
    /// # Errors
    /// None: a test reads them all.
    pub fn topology(&self) -> Result<Topology, TopologyError> {
        Topology::parse(self.name, self.text)
    }
}

macro_rules! examples {
    ($($name:literal),* $(,)?) => {
        &[$(Example { name: $name, text: include_str!(concat!("../topologies/", $name, ".toml")) }),*]
    };
}

const EXAMPLES: &[Example] = examples![
    "asymmetric",
    "balance-checksum",
    "balance-flow",
    "balance-flow-label",
    "balance-packet",
    "cgnat",
    "dead-host",
    "delay-0.1ms",
    "delay-100ms",
    "delay-10ms",
    "delay-1ms",
    "hosts",
    "jitter",
    "late-duplicates",
    "loss",
    "mpls",
    "nat",
    "nat-untranslated",
    "odd-quotes",
    "rate-limit",
    "rate-limit-routers",
    "rewriting",
    "sack",
    "sack-stripped",
    "silent",
    "straight",
    "strangers",
    "ttl-reset",
    "ttl-tricks",
    "unreachable",
];

/// All topologies that come with the crate.
pub fn examples() -> &'static [Example] {
    EXAMPLES
}

/// One of them, by name.
pub fn example(name: &str) -> Option<Example> {
    EXAMPLES.iter().find(|example| example.name == name).copied()
}
