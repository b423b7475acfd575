//! The network as a whole: packets move from node to node as events on simulated time.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use fastrand::Rng;

use crate::counters::{Counters, Dropped};
use crate::icmp::Error;
use crate::node::Node;
use crate::packet::Packet;
use crate::tcp::{Ends, Timer};
use crate::topology::{
    Block, FlowLabel, Hop, Random, RandomIdentification, Topology, Unreachable, addresses,
};

mod answers;
mod forge;
mod hosts;

/// A simulated network between one client and its targets. Times are since any fixed moment of the
/// caller's choice.
///
/// Call [`Network::inject`] for each packet that the client sends, and [`Network::poll`] whenever
/// [`Network::next_at`] is reached.
#[derive(Debug)]
pub struct Network {
    nodes: Vec<Node>,
    /// The first router; `None`: the targets are next to the client.
    entry: Option<usize>,
    /// Targets by address, and the router that each is attached to (`None`: where the path ends).
    targets: HashMap<IpAddr, (usize, Option<usize>)>,
    no_route: Option<Unreachable>,
    agenda: BTreeMap<(Duration, u64), Event>,
    events: u64,
    injected: u64,
    ignored: u64,
    rng: Rng,
}

/// A packet that arrives at the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// When.
    pub at: Duration,
    /// The packet, IP header first.
    pub packet: Vec<u8>,
    /// The number, from 1, of the injected packet that caused it.
    pub cause: u64,
    /// When that one was injected.
    pub injected_at: Duration,
}

/// How a packet got where it is, and so how answers get back.
#[derive(Debug, Clone)]
struct Route {
    /// Routers passed, the nearest to the client first.
    trail: Vec<usize>,
    cause: u64,
    injected_at: Duration,
}

/// A packet on its way.
#[derive(Debug, Clone)]
struct Flight {
    packet: Packet,
    route: Route,
}

#[derive(Debug)]
enum Event {
    /// A packet of the client arrives at a node.
    Arrival { node: usize, flight: Flight },
    /// A node sends an answer.
    Departure { node: usize, flight: Flight },
    /// An answer passes a router on its way back.
    Return { node: usize, flight: Flight },
    /// An answer arrives at the client.
    Delivery { flight: Flight },
    /// A node says that it has blocked a packet.
    Refusal {
        node: usize,
        why: Unreachable,
        flight: Flight,
    },
    /// A TCP timer of a node.
    Timer {
        node: usize,
        ends: Ends,
        timer: Timer,
        route: Route,
        ttl: u8,
    },
}

impl Network {
    /// A network that behaves as `topology` says; everything random follows from `seed`.
    pub fn new(topology: &Topology, seed: u64) -> Self {
        let mut network = Self {
            nodes: Vec::new(),
            entry: None,
            targets: HashMap::new(),
            no_route: topology.no_route,
            agenda: BTreeMap::new(),
            events: 0,
            injected: 0,
            ignored: 0,
            rng: Rng::with_seed(seed),
        };
        network.entry = network.add_path(&topology.hops, None);
        for target in topology.every_target() {
            let behind = target.behind.as_ref().map(|name| name.get_ref().as_str());
            let behind = behind.and_then(|name| network.find(name));
            for address in addresses(target.v4.as_ref(), target.v6.as_ref()) {
                network.targets.insert(address, (network.nodes.len(), behind));
            }
            network.nodes.push(Node::target(target));
        }
        network
    }

    /// Adds a chain of routers that leads to `after`; returns its first.
    fn add_path(&mut self, hops: &[Hop], after: Option<usize>) -> Option<usize> {
        hops.iter().rev().fold(after, |after, hop| {
            let next = if hop.branches.is_empty() {
                vec![after]
            } else {
                hop.branches
                    .iter()
                    .map(|branch| self.add_path(&branch.hops, after))
                    .collect()
            };
            let nats = self.nodes.iter().filter(|node| node.is_nat()).count();
            self.nodes.push(Node::router(hop, next, nats, &mut self.rng));
            Some(self.nodes.len() - 1)
        })
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.nodes.iter().position(|node| node.name == name)
    }

    /// The counters of a router or target, by its name; a target without a name has its (IPv4)
    /// address for one.
    pub fn counters(&self, name: &str) -> Option<&Counters> {
        self.find(name).map(|node| &self.nodes[node].counters)
    }

    /// Names of all nodes, in no particular order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.nodes.iter().map(|node| node.name.as_str())
    }

    /// Packets injected so far, the ignored ones included.
    pub fn injected(&self) -> u64 {
        self.injected
    }

    /// Injected packets that never left the client: malformed ones, multicast and link-local
    /// traffic.
    pub fn ignored(&self) -> u64 {
        self.ignored
    }

    /// The client sends an IP packet at `now`. Returns its number, from 1.
    pub fn inject(&mut self, now: Duration, packet: &[u8]) -> u64 {
        self.injected += 1;
        match Packet::parse(packet).filter(|packet| is_routed(packet.destination())) {
            Some(packet) => {
                let route = Route {
                    trail: Vec::new(),
                    cause: self.injected,
                    injected_at: now,
                };
                self.forward(self.entry, Flight { packet, route }, now);
            }
            None => self.ignored += 1,
        }
        self.injected
    }

    /// When to call [`Network::poll`] next. It may then return nothing: not every event inside
    /// reaches the client.
    pub fn next_at(&self) -> Option<Duration> {
        self.agenda.first_key_value().map(|((at, _), _)| *at)
    }

    /// Lets everything happen that is due at `now`, up to the next packet that arrives at the
    /// client. Call it until it returns `None`. Packets come in the order of their arrival.
    pub fn poll(&mut self, now: Duration) -> Option<Delivery> {
        while let Some(entry) = self.agenda.first_entry() {
            let at = entry.key().0;
            if at > now {
                break;
            }
            match entry.remove() {
                Event::Delivery { flight } => {
                    let Route {
                        cause, injected_at, ..
                    } = flight.route;
                    return Some(Delivery {
                        at,
                        packet: flight.packet.into_bytes(),
                        cause,
                        injected_at,
                    });
                }
                event => self.handle(event, at),
            }
        }
        None
    }

    fn handle(&mut self, event: Event, now: Duration) {
        match event {
            Event::Arrival { node, flight } => self.arrive(node, flight, now),
            Event::Departure { node, flight } => {
                self.nodes[node].counters.answered += 1;
                self.send_back(node, flight, now);
            }
            Event::Return { node, flight } => self.pass_back(node, flight, now),
            Event::Refusal { node, why, flight } => {
                self.answer_with_error(node, Error::Unreachable(why), &flight, now);
            }
            Event::Timer {
                node,
                ends,
                timer,
                route,
                ttl,
            } => {
                let outcome = self.nodes[node].host.tcp.timer(ends, timer, now);
                self.tcp_outcome(node, ends, outcome, &route, ttl, now);
            }
            Event::Delivery { .. } => {}
        }
    }

    fn schedule(&mut self, at: Duration, event: Event) {
        self.events += 1;
        self.agenda.insert((at, self.events), event);
    }

    fn drop(&mut self, node: usize, reason: Dropped) {
        self.nodes[node].counters.drop(reason);
    }

    /// Sends a packet over the link to `next`, or to its target where the path ends.
    fn forward(&mut self, next: Option<usize>, flight: Flight, now: Duration) {
        let target = self.targets.get(&flight.packet.destination()).copied();
        let last = flight.route.trail.last().copied();
        let node = match (target, next) {
            (Some((target, behind)), _) if behind.is_some() && behind == last => target,
            (_, Some(router)) => router,
            (Some((target, None)), None) => target,
            _ => return self.no_route(flight, now),
        };
        let [first, duplicate] = self.nodes[node].forward.cross(now, &mut self.rng);
        if let Some(at) = duplicate {
            let flight = flight.clone();
            self.schedule(at, Event::Arrival { node, flight });
        }
        match first {
            Some(at) => self.schedule(at, Event::Arrival { node, flight }),
            None => self.drop(node, Dropped::LostForward),
        }
    }

    fn no_route(&mut self, mut flight: Flight, now: Duration) {
        // The answer comes from the router itself, so it is not on the way back.
        let Some(router) = flight.route.trail.pop() else {
            self.ignored += 1;
            return;
        };
        self.drop(router, Dropped::NoRoute);
        if let Some(why) = self.no_route {
            self.answer_with_error(router, Error::Unreachable(why), &flight, now);
        }
    }

    fn arrive(&mut self, node: usize, flight: Flight, now: Duration) {
        self.nodes[node].counters.seen += 1;
        if !flight.packet.header_checksum_ok() {
            return self.drop(node, Dropped::WrongChecksum);
        }
        if self.nodes[node].owns(flight.packet.destination()) {
            self.arrive_at_host(node, &flight, now);
        } else {
            self.route(node, flight, now);
        }
    }

    fn route(&mut self, node: usize, mut flight: Flight, now: Duration) {
        let Some(router) = &self.nodes[node].router else {
            return;
        };
        let ttl = flight.packet.ttl();
        let zero_passes = router.zero_ttl_forwarding && ttl == 1;
        if router.ttl_decrement > 0 && ttl <= router.ttl_decrement && !zero_passes {
            return self.answer_with_error(node, Error::TimeExceeded, &flight, now);
        }
        let ttl = router
            .ttl_reset
            .unwrap_or(ttl.saturating_sub(router.ttl_decrement));
        if let Some(block) = self.nodes[node].blocked(&flight.packet).cloned() {
            return self.refuse(node, &block, flight, now);
        }
        self.forge(node, &flight, now);
        flight.packet.set_ttl(ttl);
        let next = self.rewrite(node, &mut flight.packet);
        self.nodes[node].counters.forwarded += 1;
        flight.route.trail.push(node);
        self.forward(next, flight, now);
    }

    /// What a router changes in a packet; returns the next router.
    fn rewrite(&mut self, node: usize, packet: &mut Packet) -> Option<usize> {
        let router = self.nodes[node].router.as_mut()?;
        // The balancer sees the packet as it came in: before translation.
        let branches = router.next.len();
        let branch = router
            .balancer
            .as_mut()
            .map_or(0, |balancer| balancer.choose(packet, branches, &mut self.rng));
        if let Some(class) = router.traffic_class {
            packet.set_traffic_class(class);
        }
        let identified = match router.random_identification {
            Some(RandomIdentification::Atomic) => packet.is_atomic(),
            Some(RandomIdentification::Unfragmented) => !packet.is_v6() && !packet.is_fragment(),
            None => false,
        };
        if identified {
            packet.set_identification(self.rng.u16(..));
        }
        match router.flow_label {
            Some(FlowLabel::Value(label)) => packet.set_flow_label(label),
            Some(FlowLabel::Word(Random::Random)) if packet.is_v6() => {
                packet.set_flow_label(self.rng.u32(..));
            }
            _ => {}
        }
        if router.strip_tcp_options {
            packet.strip_syn_options();
        }
        if let Some(nat) = &mut router.nat {
            nat.outbound(packet);
        }
        router.next.get(branch).copied().flatten()
    }

    /// Drops a blocked packet and says so, now or later.
    fn refuse(&mut self, node: usize, block: &Block, flight: Flight, now: Duration) {
        self.drop(node, Dropped::Blocked);
        let Some(why) = block.says() else { return };
        let at = match (block.delay, block.resolve) {
            (Some(delay), _) => now + delay.0,
            (None, Some(time)) => self.nodes[node].resolved_at(flight.packet.destination(), time.0, now),
            (None, None) => return self.answer_with_error(node, Error::Unreachable(why), &flight, now),
        };
        self.schedule(at, Event::Refusal { node, why, flight });
    }
}

/// Multicast and link-local packets stay on the client's link.
fn is_routed(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            !(address.is_multicast()
                || address.is_broadcast()
                || address.is_link_local()
                || address.is_unspecified())
        }
        IpAddr::V6(address) => {
            !(address.is_multicast() || address.is_unicast_link_local() || address.is_unspecified())
        }
    }
}
