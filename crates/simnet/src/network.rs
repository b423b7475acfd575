//! The network as a whole: packets move from node to node as events on simulated time.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use fastrand::Rng;

use crate::counters::{Counters, Dropped};
use crate::icmp::{self, Error};
use crate::link::{happens, random_below};
use crate::node::{self, Node};
use crate::packet::{self, ICMP, ICMP_V6, Packet, TCP, UDP};
use crate::tcp::{Ends, Outcome, Segment, Timer};
use crate::topology::{Hop, Port, Topology, Unreachable, addresses};

/// A simulated network between one client and its targets. Times are since any fixed moment of the caller's choice.
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
            self.nodes.push(Node::router(hop, next, &mut self.rng));
            Some(self.nodes.len() - 1)
        })
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.nodes.iter().position(|node| node.name == name)
    }

    /// The counters of a router or target, by its name; a target without a name has its (IPv4) address for one.
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

    /// Injected packets that never left the client: malformed ones, multicast and link-local traffic.
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

    /// When to call [`Network::poll`] next. It may then return nothing: not every event inside reaches the client.
    pub fn next_at(&self) -> Option<Duration> {
        self.agenda.first_key_value().map(|((at, _), _)| *at)
    }

    /// Lets everything happen that is due at `now`, up to the next packet that arrives at the client. Call it until it
    /// returns `None`. Packets come in the order of their arrival.
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

    // Towards the targets.

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
        let arrivals = self.nodes[node].forward.cross(now, &mut self.rng);
        if arrivals == [None; 2] {
            self.drop(node, Dropped::LostForward);
        }
        for at in arrivals.into_iter().flatten() {
            self.schedule(
                at,
                Event::Arrival {
                    node,
                    flight: flight.clone(),
                },
            );
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
        if let Some(block) = self.nodes[node].blocked(&flight.packet) {
            let answer = block.answer;
            return self.refuse(node, answer, &flight, now);
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
        if router.strip_tcp_options {
            packet.strip_syn_options();
        }
        if let Some(nat) = &mut router.nat {
            nat.outbound(packet);
        }
        router.next.get(branch).copied().flatten()
    }

    fn forge(&mut self, node: usize, flight: &Flight, now: Duration) {
        let stranger = self.nodes[node]
            .router
            .as_ref()
            .and_then(|router| router.forge_echo_from);
        let Some(stranger) = stranger.filter(|stranger| stranger.is_ipv6() == flight.packet.is_v6()) else {
            return;
        };
        if icmp::is_echo_request(&flight.packet) {
            let reply = icmp::echo_reply(&flight.packet, stranger);
            let packet = self.packet(
                64,
                stranger,
                flight.packet.source(),
                flight.packet.protocol(),
                &reply,
            );
            self.schedule(
                now,
                Event::Departure {
                    node,
                    flight: Flight {
                        packet,
                        route: flight.route.clone(),
                    },
                },
            );
        }
    }

    fn refuse(&mut self, node: usize, answer: Option<Unreachable>, flight: &Flight, now: Duration) {
        self.drop(node, Dropped::Blocked);
        if let Some(why) = answer {
            self.answer_with_error(node, Error::Unreachable(why), flight, now);
        }
    }

    // At a destination.

    fn arrive_at_host(&mut self, node: usize, flight: &Flight, now: Duration) {
        let packet = &flight.packet;
        if packet.is_fragment() {
            return self.drop(node, Dropped::Fragment);
        }
        let has_checksum = matches!(packet.protocol(), ICMP | ICMP_V6 | UDP | TCP);
        if has_checksum && !packet.transport_checksum_ok() {
            return self.drop(node, Dropped::WrongChecksum);
        }
        if let Some(block) = self.nodes[node].blocked(packet) {
            let answer = block.answer;
            return self.refuse(node, answer, flight, now);
        }
        match packet.protocol() {
            ICMP | ICMP_V6 => self.echo(node, flight, now),
            UDP => self.udp(node, flight, now),
            TCP => self.tcp(node, flight, now),
            _ => self.answer_with_error(node, Error::Unreachable(Unreachable::Protocol), flight, now),
        }
    }

    fn echo(&mut self, node: usize, flight: &Flight, now: Duration) {
        let request = &flight.packet;
        if !icmp::is_echo_request(request) {
            return self.drop(node, Dropped::NotUnderstood);
        }
        if !self.nodes[node].host.echo {
            return self.drop(node, Dropped::Silent);
        }
        let reply = icmp::echo_reply(request, request.destination());
        self.answer(
            node,
            request.destination(),
            request.protocol(),
            &reply,
            flight,
            now,
        );
    }

    fn udp(&mut self, node: usize, flight: &Flight, now: Duration) {
        let request = flight.packet.transport();
        let length = packet::u16_at(request, 4).map_or(0, usize::from);
        let ports = node::source_port(&flight.packet).zip(node::destination_port(&flight.packet));
        let (Some((from, to)), Some(payload)) = (ports, request.get(8..length)) else {
            return self.drop(node, Dropped::NotUnderstood);
        };
        match self.nodes[node].host.udp.port(to) {
            Port::Silent => self.drop(node, Dropped::Silent),
            Port::Closed => self.answer_with_error(node, Error::Unreachable(Unreachable::Port), flight, now),
            Port::Open => {
                let fixed = &self.nodes[node].host.udp.reply;
                let payload = fixed.as_ref().map_or(payload, |reply| reply.as_bytes());
                let mut reply = Vec::with_capacity(8 + payload.len());
                reply.extend(to.to_be_bytes());
                reply.extend(from.to_be_bytes());
                reply.extend(((8 + payload.len()) as u16).to_be_bytes());
                reply.extend([0, 0]);
                reply.extend(payload);
                let source = flight.packet.destination();
                packet::fill_checksum(source, flight.packet.source(), UDP, &mut reply);
                self.answer(node, source, UDP, &reply, flight, now);
            }
        }
    }

    fn tcp(&mut self, node: usize, flight: &Flight, now: Duration) {
        let packet = &flight.packet;
        let ports = node::source_port(packet).zip(node::destination_port(packet));
        let (Some((from, to)), Some(segment)) = (ports, Segment::parse(packet.transport())) else {
            return self.drop(node, Dropped::NotUnderstood);
        };
        let ends = (
            SocketAddr::new(packet.source(), from),
            SocketAddr::new(packet.destination(), to),
        );
        let Some(ttl) = self.nodes[node].reply_ttl(packet) else {
            return self.drop(node, Dropped::TtlExpiredBack);
        };
        let outcome = self.nodes[node]
            .host
            .tcp
            .segment(ends, &segment, now, &mut self.rng);
        self.tcp_outcome(node, ends, outcome, &flight.route, ttl, now);
    }

    fn tcp_outcome(
        &mut self,
        node: usize,
        ends: Ends,
        outcome: Outcome,
        route: &Route,
        ttl: u8,
        now: Duration,
    ) {
        let (client, server) = ends;
        if let Some(reason) = outcome.dropped {
            self.drop(node, reason);
        }
        for (delay, segment) in outcome.send {
            let mut bytes = segment.encode(server.port(), client.port());
            packet::fill_checksum(server.ip(), client.ip(), TCP, &mut bytes);
            let packet = self.packet(ttl, server.ip(), client.ip(), TCP, &bytes);
            let flight = Flight {
                packet,
                route: route.clone(),
            };
            self.schedule(now + delay, Event::Departure { node, flight });
        }
        for (delay, timer) in outcome.timers {
            let route = route.clone();
            self.schedule(
                now + delay,
                Event::Timer {
                    node,
                    ends,
                    timer,
                    route,
                    ttl,
                },
            );
        }
    }

    // Back to the client.

    fn packet(
        &mut self,
        ttl: u8,
        source: IpAddr,
        destination: IpAddr,
        protocol: u8,
        transport: &[u8],
    ) -> Packet {
        Packet::build(source, destination, ttl, self.rng.u16(..), protocol, transport)
    }

    /// Answers from `source` at once.
    fn answer(&mut self, node: usize, source: IpAddr, protocol: u8, reply: &[u8], to: &Flight, at: Duration) {
        let Some(ttl) = self.nodes[node].reply_ttl(&to.packet) else {
            return self.drop(node, Dropped::TtlExpiredBack);
        };
        let mut packet = self.packet(ttl, source, to.packet.source(), protocol, reply);
        if self.nodes[node].icmp.options {
            packet.add_options();
        }
        self.schedule(
            at,
            Event::Departure {
                node,
                flight: Flight {
                    packet,
                    route: to.route.clone(),
                },
            },
        );
    }

    /// Answers with an ICMP error, if the node does such a thing.
    fn answer_with_error(&mut self, node: usize, error: Error, about: &Flight, now: Duration) {
        if let Some(reason) = self.no_error_because(node, error, &about.packet, now) {
            return self.drop(node, reason);
        }
        let sender = &self.nodes[node];
        let Some(source) = sender.error_source(about.packet.is_v6()) else {
            return;
        };
        let message = icmp::error(error, &about.packet, source, &sender.icmp);
        let protocol = if about.packet.is_v6() { ICMP_V6 } else { ICMP };
        let late: Vec<Duration> = sender.icmp.late_duplicates.iter().map(|late| late.0).collect();
        let at = now + sender.icmp.delay.0 + random_below(sender.icmp.jitter.0, &mut self.rng);
        self.answer(node, source, protocol, &message, about, at);
        for late in late {
            self.answer(node, source, protocol, &message, about, at + late);
        }
    }

    fn no_error_because(
        &mut self,
        node: usize,
        error: Error,
        about: &Packet,
        now: Duration,
    ) -> Option<Dropped> {
        let sender = &mut self.nodes[node];
        if !icmp::may_answer(about) {
            return Some(Dropped::NoAnswerAllowed);
        }
        let able = sender.answers(about) && sender.error_source(about.is_v6()).is_some();
        if !able || happens(sender.icmp.loss.0, &mut self.rng) {
            return Some(Dropped::Silent);
        }
        (!sender.within_limit(error, about.source(), now)).then_some(Dropped::RateLimited)
    }

    /// Sends an answer over the link from `node` towards the client.
    fn send_back(&mut self, node: usize, mut flight: Flight, now: Duration) {
        let arrivals = self.nodes[node].back.cross(now, &mut self.rng);
        if arrivals == [None; 2] {
            self.drop(node, Dropped::LostBack);
        }
        let previous = flight.route.trail.pop();
        for at in arrivals.into_iter().flatten() {
            let flight = flight.clone();
            let event = match previous {
                Some(node) => Event::Return { node, flight },
                None => Event::Delivery { flight },
            };
            self.schedule(at, event);
        }
    }

    fn pass_back(&mut self, node: usize, mut flight: Flight, now: Duration) {
        if let Some(router) = &self.nodes[node].router {
            let ttl = flight.packet.ttl();
            if router.ttl_decrement > 0 && ttl <= router.ttl_decrement {
                return self.drop(node, Dropped::TtlExpiredBack);
            }
            flight.packet.set_ttl(ttl - router.ttl_decrement.min(ttl));
            let translated = router
                .nat
                .as_ref()
                .is_none_or(|nat| nat.inbound(&mut flight.packet));
            if !translated {
                return self.drop(node, Dropped::NoTranslation);
            }
        }
        self.send_back(node, flight, now);
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
