//! What a discovery found.

use std::net::IpAddr;

/// How packets reach the nodes of a hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balancing {
    /// There is one node.
    None,
    /// Each flow has its node.
    PerFlow,
    /// Packets of a flow go to different nodes.
    PerPacket,
}

/// A node of a hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GraphNode {
    /// Who answers; `None`: nobody.
    pub address: Option<IpAddr>,
    /// Flows that were seen there.
    pub flows: u32,
    /// No flow goes on from there: the destination, or who refuses to forward.
    pub ends: bool,
}

/// The nodes at one TTL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GraphHop {
    /// TTL, in hops.
    pub ttl: u8,
    /// How its nodes are reached.
    pub balancing: Balancing,
    /// In the order in which they were found; the silent one is last.
    pub nodes: Vec<GraphNode>,
}

/// A link that flows use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// The TTL of its further end, in hops.
    pub ttl: u8,
    /// The nearer end; `None`: a silent node, or at the first TTL the source.
    pub from: Option<IpAddr>,
    /// The further end; `None`: a silent node.
    pub to: Option<IpAddr>,
    /// Flows that were seen at both ends.
    pub flows: u32,
}

/// Where a flow is at one TTL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Visit {
    /// It was not asked there.
    Unknown,
    /// At a node that does not answer.
    Silent,
    /// Here.
    Node(IpAddr),
}

impl Visit {
    /// Who is there; `None`: somebody who does not answer, or it is not known.
    pub fn address(self) -> Option<IpAddr> {
        match self {
            Visit::Node(address) => Some(address),
            Visit::Silent | Visit::Unknown => None,
        }
    }
}

/// How likely something is missing, as achieved: computed from the answers that there were.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bound {
    /// For each node at most: that its next hops are not all known. Where the nodes of a hop share
    /// what may be missed, their mean.
    pub per_node: f64,
    /// For the whole graph: the sum over its nodes, at most 1.
    pub graph: f64,
}

/// See the module.
#[derive(Debug, Clone, PartialEq)]
pub struct Graph {
    /// One for each TTL, without gaps.
    pub hops: Vec<GraphHop>,
    /// In the order of TTLs.
    pub links: Vec<Link>,
    /// For each flow where it is, from the first TTL to its end.
    pub flows: Vec<Vec<Visit>>,
    /// `None`: the path has changed meanwhile.
    pub bound: Option<Bound>,
    /// A flow has moved to other nodes.
    pub path_changed: bool,
}
