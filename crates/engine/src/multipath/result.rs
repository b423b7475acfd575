//! What a discovery over the network found: the graph, and what was measured on it.

use std::net::IpAddr;
use std::time::Duration;

use traceroute_wire::MplsStack;

use super::graph::Graph;
use super::loss::LossBegins;
use crate::cause::Losses;

/// Why a discovery ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathsEnd {
    /// All flows were followed to the destination.
    Destination,
    /// A router or firewall refuses to forward probes of all flows.
    Refused {
        /// Who.
        from: IpAddr,
    },
    /// The highest TTL to probe was reached.
    MaxTtl,
    /// Too many TTLs in a row were silent, and the caller wants no more of them.
    GapLimit,
    /// As many probes were sent as the caller allows; or its time was up.
    Limit,
}

/// Round-trip times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RttRange {
    /// The shortest.
    pub min: Duration,
    /// The mean.
    pub mean: Duration,
    /// The longest.
    pub max: Duration,
}

/// What was measured at a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeStatistics {
    /// TTL, in hops.
    pub ttl: u8,
    /// Who; `None`: a node that does not answer.
    pub address: Option<IpAddr>,
    /// Probes sent on flows that were seen there.
    pub sent: u32,
    /// Those that were answered.
    pub answered: u32,
    /// Those that were not, by cause.
    pub lost: Losses,
    /// Round-trip times, if any is known.
    pub rtt: Option<RttRange>,
    /// MPLS labels that it quoted last.
    pub mpls: MplsStack,
}

/// A flow, by what balancers may tell it from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathFlow {
    /// Source port; for ICMP the echo identifier.
    pub source_port: u16,
    /// ICMP checksum, the same for all its probes.
    pub checksum: Option<u16>,
    /// IPv6 flow label.
    pub flow_label: Option<u32>,
    /// End-to-end probes sent on it.
    pub sent: u32,
    /// Those that were answered.
    pub received: u32,
    /// Their round-trip times.
    pub rtt: Option<RttRange>,
}

/// What decides over IPv6 which of several next hops a flow takes. A field is hashed if packets
/// that differ in nothing else take different ones: that is certain. If eleven take the same, it is
/// not, as far as that can tell: with two next hops, equally likely, that is wrong at most once in
/// 1024.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashedFields {
    /// The TTL of the next hops.
    pub ttl: u8,
    /// The source port; over ICMP identifier and checksum.
    pub port: bool,
    /// The flow label.
    pub label: bool,
}

/// The result of a discovery of all paths.
#[derive(Debug, Clone, PartialEq)]
pub struct PathsResult {
    /// Source address of the probes.
    pub source: IpAddr,
    /// Target address.
    pub destination: IpAddr,
    /// Nodes, links and the ways of flows.
    pub graph: Graph,
    /// For each node of the graph.
    pub nodes: Vec<NodeStatistics>,
    /// In the order of the graph's flows.
    pub flows: Vec<PathFlow>,
    /// Where all flows come from one node to several over IPv6, and it could be measured.
    pub hashed: Vec<HashedFields>,
    /// Links on which loss begins, where end-to-end probes have shown some.
    pub loss_begins: Vec<LossBegins>,
    /// Probes that left, retries included.
    pub probes_sent: u32,
    /// The lowest TTL at which the destination answered.
    pub reached: Option<u8>,
    /// Why it ended.
    pub end: PathsEnd,
}
