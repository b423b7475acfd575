//! Multipath discovery against topologies whose failure probability is known, in memory: no
//! sockets, no packets, no time. Fifty thousand runs of a shape take seconds.
//!
//! A run fails when a node or a link that flows can use is missing. It is wrong when it shows a
//! link that no flow can use, however rarely.

mod shapes;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use traceroute_engine::multipath::{
    Ask, Balancing, Control, Discovery, Graph, Rules, Seen, StoppingPoints, failure,
};

pub use shapes::{random, shapes};

/// The same question is asked so often before its flow counts as silent.
const ATTEMPTS: u32 = 5;
/// One run of so many may show a link that does not exist, see [`Tally::is_good`].
const MOST_WRONG: u32 = 25_000;
/// Hops at most.
const MAX_TTL: u8 = 30;

/// A node with its next hops and their weights.
#[derive(Debug, Clone, Default)]
pub struct Node {
    /// Number of the next hop, and its share of the flows.
    pub next: Vec<(usize, f64)>,
    /// Each packet takes its own way.
    pub per_packet: bool,
    /// It forwards, but never answers.
    pub is_silent: bool,
    /// Which part of a flow it looks at.
    pub hash: Hash,
}

/// What a balancer looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Hash {
    /// Ports.
    #[default]
    Ports,
    /// The IPv6 flow label.
    FlowLabel,
}

/// A network: node 0 is the source, the last one the destination.
#[derive(Debug, Clone)]
pub struct Network {
    /// What it is called in the report.
    pub name: String,
    /// By number.
    pub nodes: Vec<Node>,
    /// The part of probes that stay without an answer.
    pub loss: f64,
    /// After so many probes balancers hash differently.
    pub changes_after: Option<u32>,
}

/// A link with the TTL of its further end; silent nodes have no address.
type TrueLink = (u8, Option<IpAddr>, Option<IpAddr>);

/// What can be found in a network.
struct Truth {
    nodes: BTreeSet<(u8, Option<IpAddr>)>,
    /// All links, and those that can be seen: not beyond per-packet balancing.
    links: BTreeSet<TrueLink>,
    visible: BTreeSet<TrueLink>,
    per_packet: BTreeSet<u8>,
    /// How likely a discovery with node control misses something.
    exact: f64,
    has_loss: bool,
}

impl Network {
    fn destination(&self) -> usize {
        self.nodes.len() - 1
    }

    /// Where a probe gets.
    fn walk(&self, seed: u64, (port, label): (u32, u32), ttl: u8, rng: &mut fastrand::Rng) -> usize {
        let mut at = 0;
        for _ in 0..ttl {
            let node = &self.nodes[at];
            let key = match node.hash {
                Hash::Ports => port,
                Hash::FlowLabel => label,
            };
            let share = if node.per_packet {
                rng.f64()
            } else {
                let hash = mixed(mixed(seed ^ at as u64) ^ u64::from(key));
                (hash >> 11) as f64 / (1_u64 << 53) as f64
            };
            let mut sum = 0.0;
            let chosen = node.next.iter().find(|(_, weight)| {
                sum += weight;
                share < sum
            });
            match chosen.or(node.next.last()) {
                Some((next, _)) => at = *next,
                None => return at,
            }
        }
        at
    }

    /// Follows all ways at once.
    fn truth(&self, points: &mut StoppingPoints) -> Truth {
        let mut truth = Truth {
            nodes: BTreeSet::new(),
            links: BTreeSet::new(),
            visible: BTreeSet::new(),
            per_packet: BTreeSet::new(),
            exact: 0.0,
            has_loss: self.loss > 0.0,
        };
        let name = |node: usize| (!self.nodes[node].is_silent).then(|| address(node));
        // With whether a packet's node may differ from its flow's.
        let mut level = BTreeMap::from([(0, false)]);
        let mut complete = 1.0;
        for ttl in 1..=MAX_TTL {
            let mut next_level: BTreeMap<usize, bool> = BTreeMap::new();
            let is_mixed = level.values().any(|is_mixed| *is_mixed);
            for node in level.keys() {
                let Node { next, per_packet, .. } = &self.nodes[*node];
                let weights: Vec<f64> = next.iter().map(|(_, weight)| *weight).collect();
                complete *= 1.0 - failure(points, &weights);
                for (to, _) in next {
                    *next_level.entry(*to).or_default() |= is_mixed || *per_packet;
                    let from = if *node == 0 { None } else { name(*node) };
                    truth.nodes.insert((ttl, name(*to)));
                    truth.links.insert((ttl, from, name(*to)));
                    if !is_mixed {
                        truth.visible.insert((ttl, from, name(*to)));
                    }
                }
            }
            if next_level.len() < 2 {
                next_level = next_level.into_keys().map(|node| (node, false)).collect();
            } else if next_level.values().any(|is_mixed| *is_mixed) {
                truth.per_packet.insert(ttl);
            }
            level = next_level;
        }
        truth.exact = 1.0 - complete;
        truth
    }
}

fn address(node: usize) -> IpAddr {
    Ipv4Addr::from(0x0A00_0000 + node as u32).into()
}

/// Spreads each bit over all (the finalizer of `SplitMix64`).
fn mixed(value: u64) -> u64 {
    let value = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let value = (value ^ value >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ value >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ value >> 31
}

/// What one run has found.
struct Run {
    graph: Graph,
    probes: u32,
}

fn discover(network: &Network, rules: Rules, seed: u64) -> Run {
    let mut rng = fastrand::Rng::with_seed(seed);
    let (mut balancing, later) = (rng.u64(..), rng.u64(..));
    let mut discovery = Discovery::new(rules);
    let (mut asks, mut probes): (Vec<Ask>, u32) = (Vec::new(), 0);
    loop {
        discovery.plan(&mut asks);
        if asks.is_empty() {
            break;
        }
        // Answers come in any order.
        rng.shuffle(&mut asks);
        for ask in asks.drain(..) {
            let node = network.walk(balancing, (ask.flow, ask.flow), ask.ttl, &mut rng);
            let is_silent = network.nodes[node].is_silent;
            let mut attempts = 1;
            while attempts < ATTEMPTS && (is_silent || rng.f64() < network.loss) {
                attempts += 1;
            }
            probes += attempts;
            if network.changes_after.is_some_and(|after| probes > after) {
                balancing = later;
            }
            if is_silent || attempts == ATTEMPTS && rng.f64() < network.loss {
                discovery.silent(ask);
            } else {
                let (address, ends) = (address(node), node == network.destination());
                discovery.answered(ask, Seen { address, ends });
            }
        }
    }
    Run {
        graph: discovery.graph(),
        probes,
    }
}

/// What many runs over one network, or over random ones, have shown.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// The network.
    pub name: String,
    /// How many runs.
    pub runs: u32,
    /// Runs in which something was missing.
    pub failures: u32,
    /// Runs that showed a link which does not exist.
    pub wrong: u32,
    /// Runs that noticed a change of the path.
    pub changed: u32,
    /// Sum over the runs of how likely node control misses something, computed exactly.
    pub exact: f64,
    /// Sum over the runs of the stated bounds for the graph.
    pub stated: f64,
    /// The highest bound for a node that was stated.
    pub per_node: f64,
    /// Probes sent in all runs.
    pub probes: u64,
    /// The smallest weight differs from the others of its balancer: the stated bound does not hold.
    pub is_unequal: bool,
}

impl Tally {
    /// Runs discoveries over a network with these seeds.
    pub fn of(network: &Network, control: Control, seeds: std::ops::Range<u64>) -> Self {
        let rules = Rules {
            confidence: 0.95,
            first_ttl: 1,
            max_ttl: MAX_TTL,
            gap_limit: 0,
            max_flows: 100_000,
            control,
        };
        let truth = network.truth(&mut StoppingPoints::new(rules.confidence));
        let is_unequal = |node: &Node| {
            node.next
                .windows(2)
                .any(|pair| (pair[0].1 - pair[1].1).abs() > f64::EPSILON)
        };
        let mut tally = Tally {
            name: network.name.clone(),
            is_unequal: network.nodes.iter().any(is_unequal),
            ..Tally::default()
        };
        for seed in seeds {
            let run = discover(network, rules, seed);
            tally.add(&truth, &run);
        }
        tally
    }

    fn add(&mut self, truth: &Truth, run: &Run) {
        let graph = &run.graph;
        let links: BTreeSet<TrueLink> = graph
            .links
            .iter()
            .map(|link| (link.ttl, link.from, link.to))
            .collect();
        let nodes: BTreeSet<(u8, Option<IpAddr>)> = graph
            .hops
            .iter()
            .flat_map(|hop| hop.nodes.iter().map(|node| (hop.ttl, node.address)))
            .collect();
        let mixed = |hop: &&traceroute_engine::multipath::GraphHop| hop.balancing == Balancing::PerPacket;
        let per_packet: BTreeSet<u8> = graph.hops.iter().filter(mixed).map(|hop| hop.ttl).collect();
        let is_complete = truth.nodes.is_subset(&nodes)
            && truth.visible.is_subset(&links)
            && truth.per_packet.is_subset(&per_packet)
            && !graph.path_changed;
        // Where probes are lost, a flow may seem to pass a silent node.
        let is_named =
            |link: &&TrueLink| !truth.has_loss || link.2.is_some() && (link.0 == 1 || link.1.is_some());
        // A path that seems to have changed says so of itself.
        let is_true = graph.path_changed
            || links
                .iter()
                .filter(is_named)
                .all(|link| truth.links.contains(link))
                && per_packet.is_subset(&truth.per_packet);
        self.runs += 1;
        self.failures += u32::from(!is_complete);
        self.wrong += u32::from(!is_true);
        self.changed += u32::from(graph.path_changed);
        self.exact += truth.exact;
        self.stated += graph.bound.map_or(1.0, |bound| bound.graph);
        self.per_node = self.per_node.max(graph.bound.map_or(0.0, |bound| bound.per_node));
        self.probes += u64::from(run.probes);
    }

    /// Adds the runs over another network.
    pub fn merge(&mut self, other: &Tally) {
        self.runs += other.runs;
        self.failures += other.failures;
        self.wrong += other.wrong;
        self.changed += other.changed;
        self.exact += other.exact;
        self.stated += other.stated;
        self.per_node = self.per_node.max(other.per_node);
        self.probes += other.probes;
        self.is_unequal |= other.is_unequal;
    }

    /// The part of the runs that failed.
    pub fn rate(&self) -> f64 {
        f64::from(self.failures) / f64::from(self.runs.max(1))
    }

    /// Two-sided 95 % interval of the failure rate (Wilson).
    pub fn interval(&self) -> (f64, f64) {
        const Z: f64 = 1.959_964;
        let (runs, rate) = (f64::from(self.runs.max(1)), self.rate());
        let centre = rate + Z * Z / (2.0 * runs);
        let spread = Z * (rate * (1.0 - rate) / runs + Z * Z / (4.0 * runs * runs)).sqrt();
        let scale = 1.0 + Z * Z / runs;
        ((centre - spread) / scale, (centre + spread) / scale)
    }

    /// The mean of what may be missed: the stated bound, or where weights differ the exact one.
    pub fn bound(&self) -> f64 {
        let sum = if self.is_unequal { self.exact } else { self.stated };
        sum / f64::from(self.runs.max(1))
    }

    /// Whether the failure rate is within the bound, and nothing was wrong.
    ///
    /// What is balanced per packet over three hops looks like one path if at each of them six flows
    /// and the check meet the same node, which happens once in some 200,000 runs. No fewer than two
    /// more probes for each hop of every path would make that rarer by much.
    pub fn is_good(&self) -> bool {
        self.interval().0 <= self.bound() && self.wrong <= self.runs / MOST_WRONG
    }
}

/// The heading of a table of tallies.
pub const HEADING: &str =
    "shape                      runs   missed  95 % interval     exact   stated  per node   probes  wrong";

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let runs = f64::from(self.runs.max(1));
        let percent = |share: f64| share * 100.0;
        let (low, high) = self.interval();
        write!(
            f,
            "{:24} {:6} {:6.2} % {:6.2} – {:5.2} % {:6.2} % {:6.2} % {:7.2} % {:8.1} {:6}{}",
            self.name,
            self.runs,
            percent(self.rate()),
            percent(low),
            percent(high),
            percent(self.exact / runs),
            percent(self.stated / runs),
            percent(self.per_node),
            self.probes as f64 / runs,
            self.wrong,
            if self.is_good() { "" } else { "  NOT WITHIN" },
        )
    }
}
