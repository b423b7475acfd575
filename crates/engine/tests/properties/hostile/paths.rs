//! What holds for every discovery of paths.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use traceroute_engine::multipath::{
    Ask, Control, Discovery, Graph, MAX_FLOWS, MOST_PROBES, PathsResult, Rules, Seen, Visit,
};
use traceroute_engine::{Method, PathsPlan, Plan, Time, TraceSpec};
use traceroute_wire::{IcmpError, Probe, Reply};

use super::cases::{MAX_TTL, Machine, several, share, up_to};
use super::input::Input;
use super::mischief::Mischief;
use super::support::world::Limiter;
use super::support::*;

/// Routers with their next hops. The last one is the destination.
#[derive(Debug)]
struct Nodes {
    nodes: Vec<Node>,
    v6: bool,
    /// Shares of a hundred.
    lost: u8,
    hop: Duration,
    /// After so many probes balancers hash differently.
    changes_after: Option<u32>,
    /// Decides what is lost, and where packets go.
    random: u64,
    probes: u32,
}

#[derive(Debug)]
struct Node {
    next: Vec<usize>,
    per_packet: bool,
    is_silent: bool,
    /// Refuses to forward, with this code.
    refuses: Option<u8>,
    by_label: bool,
    limit: Option<Limiter>,
}

impl Nodes {
    fn read(input: &mut Input<'_>) -> Nodes {
        let count = 2 + usize::from(input.byte() % 14);
        // With loops, where a byte says so.
        let loops = input.byte() % 4 == 3;
        let nodes = (0..count).map(|index| {
            let next = several(input, 4, |input| usize::from(input.byte()));
            let first = if loops { 0 } else { index + 1 };
            let further = |next: usize| (first + next % (count - first).max(1)).min(count - 1);
            let mut next: Vec<usize> = next.into_iter().map(further).collect();
            if next.is_empty() {
                next.push((index + 1).min(count - 1));
            }
            let what = input.byte();
            Node {
                next,
                per_packet: what & 7 == 1,
                is_silent: what & 7 == 2,
                refuses: (what & 15 == 3).then_some(what >> 4),
                by_label: what & 7 == 4,
                limit: (what & 7 == 5).then(Limiter::linux),
            }
        });
        Nodes {
            nodes: nodes.collect(),
            v6: input.flag(),
            lost: share(input),
            hop: Duration::from_micros(up_to(input, 9999).into()),
            changes_after: input.flag().then(|| input.u16().into()),
            random: input.u32().into(),
            probes: 0,
        }
    }

    fn random(&mut self) -> u64 {
        self.random = mixed(self.random);
        self.random
    }

    fn address(&self, node: usize) -> IpAddr {
        if node == self.nodes.len() - 1 {
            target_of(self.v6)
        } else {
            // 0 would be this machine's own address.
            router_of(self.v6, (node % 255) as u8 + 1)
        }
    }

    /// Where a packet gets with this TTL, and after how many hops.
    fn walk(&mut self, (port, label): (u64, u64), ttl: u8) -> (usize, u8) {
        let changed = self.changes_after.is_some_and(|after| self.probes > after);
        let mut at = 0;
        for hops in 1..=ttl {
            let random = self.random();
            let node = &self.nodes[at];
            let key = if node.by_label { label } else { port };
            let choice = if node.per_packet {
                random
            } else {
                mixed(mixed(key) ^ at as u64 ^ u64::from(changed) << 32)
            };
            at = node.next[(choice >> 8) as usize % node.next.len()];
            if at == self.nodes.len() - 1 || self.nodes[at].refuses.is_some() {
                return (at, hops);
            }
        }
        (at, ttl)
    }

    fn answers(&mut self, now: Time, probe: &Probe) -> Vec<(Time, Reply)> {
        self.probes += 1;
        let (at, hops) = self.walk((name(probe).1.into(), probe.flow_label.into()), probe.ttl);
        let arrives = now + self.hop * u32::from(hops);
        let is_lost = self.random() % 100 < self.lost.into();
        let (is_target, from) = (at == self.nodes.len() - 1, self.address(at));
        let node = &mut self.nodes[at];
        let is_held = node.limit.as_mut().is_some_and(|limit| !limit.allows(arrives));
        if is_lost || is_held || node.is_silent {
            return Vec::new();
        }
        let reply = match node.refuses {
            _ if is_target => destination_answer(probe),
            Some(code) => error(from, probe, IcmpError::Unreachable { code }),
            None => error(from, probe, IcmpError::TimeExceeded),
        };
        vec![(arrives, reply)]
    }
}

/// Spreads each bit over all (the finalizer of `SplitMix64`).
fn mixed(value: u64) -> u64 {
    let value = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let value = (value ^ value >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ value >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ value >> 31
}

fn spec(input: &mut Input<'_>, v6: bool) -> (TraceSpec, PathsPlan) {
    const METHODS: [Method; 3] = [Method::Udp, Method::Icmp, Method::TcpSyn];
    let method = METHODS[usize::from(input.byte() % 3)];
    let plan = PathsPlan {
        allowed: 1 + up_to(input, 499_999),
        max_probes: 1 + u32::from(input.u16() % 600),
        max_flows: MAX_FLOWS,
        end_to_end: (input.byte() % 40).into(),
        interval: ms(u64::from(input.byte() % 100)),
    };
    let first_ttl = 1 + input.byte() % 3;
    let max_ttl = first_ttl + input.byte() % MAX_TTL;
    let timeout = ms(50 + u64::from(input.u16() % 950));
    let spec = TraceSpec {
        plan: Plan::Paths(plan),
        first_ttl,
        delay: ms((input.byte() % 20).into()),
        hop_retries: input.byte() % 11,
        gap_limit: input.byte() % 6,
        tells_attempts: !input.flag(),
        longest: if input.flag() {
            ms(u64::from(input.u16() % 10_000))
        } else {
            ms(600_000)
        },
        ..TraceSpec::full(method, target_of(v6), 33434, max_ttl, timeout)
    };
    (spec, plan)
}

/// A discovery over a graph, in which replies may be damaged.
pub fn check_paths(mut input: Input<'_>) {
    let mut nodes = Nodes::read(&mut input);
    let (spec, plan) = spec(&mut input, nodes.v6);
    let machine = Machine::read(&mut input);
    let is_damaged = input.flag();
    let mut mischief = is_damaged.then(|| Mischief::new(input));
    let mut simulation = Simulation::new(|now, probe: &Probe| {
        let answers = nodes.answers(now, probe);
        match &mut mischief {
            Some(mischief) => mischief.replies(probe, answers),
            None => answers,
        }
    });
    machine.prepare(&mut simulation);
    let start = simulation.now;
    let id = simulation.start(spec);
    simulation.run();
    simulation.assert_idle();
    let latest = Machine::gets_to(&simulation, start + spec.longest);
    let Some((end, result)) = simulation.paths.get(&id) else {
        let error = simulation.error(id);
        assert!(!machine.fails.is_empty() || spec.longest < ms(10_000), "{error}");
        return;
    };
    assert!(*end <= latest, "{:?} late", end.since(latest));
    check_graph(
        &result.graph,
        (spec.first_ttl, spec.max_ttl),
        result.graph.flows.len() as u32,
    );
    check_result(&simulation, plan, &spec, result);
    if !is_damaged {
        check_links(&simulation, &result.graph);
    }
}

fn check_result(simulation: &Simulation<'_>, plan: PathsPlan, spec: &TraceSpec, result: &PathsResult) {
    let graph = &result.graph;
    let flows = graph.flows.len() as u32;
    assert!(flows <= MAX_FLOWS);
    assert_eq!(result.flows.len(), graph.flows.len());
    let end_to_end: u32 = result.flows.iter().map(|flow| flow.sent).sum();
    assert!(end_to_end <= plan.end_to_end, "{end_to_end} of {plan:?}");
    let locating = MOST_PROBES * u32::from(spec.max_ttl) * flows;

    assert!(result.probes_sent <= plan.max_probes + plan.end_to_end + locating);
    assert_eq!(result.probes_sent as usize, simulation.sent.len());
    if plan.end_to_end == 0 {
        assert!(
            result.probes_sent <= plan.max_probes,
            "{} of {plan:?}",
            result.probes_sent
        );
    }
    for flow in &result.flows {
        assert!(flow.received <= flow.sent, "{flow:?}");
    }
    for node in &result.nodes {
        assert_eq!(node.sent, node.answered + node.lost.total(), "{node:?}");
        assert!(
            node.rtt
                .is_none_or(|rtt| rtt.min <= rtt.mean && rtt.mean <= rtt.max),
            "{node:?}"
        );
    }
    let nodes: usize = graph.hops.iter().map(|hop| hop.nodes.len()).sum();
    assert_eq!(result.nodes.len(), nodes);
    for begins in &result.loss_begins {
        assert!(begins.sample.lost <= begins.sample.sent, "{begins:?}");
    }
}

/// What any graph must be.
fn check_graph(graph: &Graph, (first, last): (u8, u8), flows: u32) {
    assert_eq!(graph.flows.len() as u32, flows);
    assert_eq!(graph.bound.is_none(), graph.path_changed);
    if let Some(bound) = graph.bound {
        assert!(
            (0.0..=1.0).contains(&bound.graph) && (0.0..=1.0).contains(&bound.per_node),
            "{bound:?}"
        );
    }
    for (ttl, hop) in (first..).zip(&graph.hops) {
        assert!(hop.ttl == ttl && ttl <= last, "{hop:?}");
        let addresses: BTreeSet<_> = hop.nodes.iter().map(|node| node.address).collect();
        assert_eq!(addresses.len(), hop.nodes.len(), "{hop:?}");
        let silent = hop.nodes.iter().position(|node| node.address.is_none());
        assert!(silent.is_none_or(|index| index + 1 == hop.nodes.len()), "{hop:?}");
        assert!(hop.nodes.iter().all(|node| node.flows <= flows), "{hop:?}");
    }
    assert!(graph.links.is_sorted_by_key(|link| link.ttl));
    for link in &graph.links {
        let both = graph
            .flows
            .iter()
            .filter(|visits| is_link(visits, link.ttl, first, (link.from, link.to)));
        let both = both.count() as u32;
        assert!(link.flows > 0 && link.flows <= both, "{link:?}: {both} flows");
    }
    for visits in &graph.flows {
        assert!(visits.len() <= graph.hops.len());
    }
}

fn is_link(visits: &[Visit], ttl: u8, first: u8, (from, to): (Option<IpAddr>, Option<IpAddr>)) -> bool {
    let at = |ttl: u8| visits.get(usize::from(ttl.checked_sub(first)?)).copied();
    let before = if ttl == first {
        Some(Visit::Silent)
    } else {
        at(ttl - 1)
    };
    let is = |visit: Option<Visit>, address: Option<IpAddr>| {
        visit.is_some_and(|visit| visit != Visit::Unknown && visit.address() == address)
    };
    is(before, from) && is(at(ttl), to)
}

/// Both ends of each link between nodes with names answered one flow.
fn check_links(simulation: &Simulation<'_>, graph: &Graph) {
    let mut seen: HashSet<(u16, u8, IpAddr)> = HashSet::new();
    let mut flows: BTreeSet<u16> = BTreeSet::new();
    for (index, _, reply) in &simulation.answers {
        let (_, probe) = &simulation.sent[*index];
        flows.insert(name(probe).1);
        seen.insert((name(probe).1, probe.ttl, reply.source));
    }
    for link in &graph.links {
        let (Some(from), Some(to)) = (link.from, link.to) else {
            continue;
        };
        let is_seen =
            |flow: &u16| seen.contains(&(*flow, link.ttl - 1, from)) && seen.contains(&(*flow, link.ttl, to));
        let count = flows.iter().filter(|flow| is_seen(flow)).count();
        assert!(link.flows as usize <= count, "{link:?}: {count} flows");
    }
}

/// A discovery whose questions are answered in any order, by anybody.
pub fn check_discovery(mut input: Input<'_>) {
    let first_ttl = 1 + input.byte() % 3;
    let rules = Rules {
        confidence: 0.5 + f64::from(input.u16() % 5000) / 10_001.0,
        first_ttl,
        max_ttl: first_ttl + input.byte() % MAX_TTL,
        gap_limit: input.byte() % 6,
        max_flows: 1 + u32::from(input.byte()),
        control: if input.flag() {
            Control::Each
        } else {
            Control::Shared
        },
    };
    let mut nodes = Nodes::read(&mut input);
    let mut discovery = Discovery::new(rules);
    let (mut asks, mut open): (Vec<Ask>, Vec<Ask>) = (Vec::new(), Vec::new());
    let mut known: BTreeMap<(u32, u8), Vec<Option<IpAddr>>> = BTreeMap::new();
    let mut questions = 0_u32;
    loop {
        discovery.plan(&mut asks);
        for ask in asks.drain(..) {
            assert!((rules.first_ttl..=rules.max_ttl).contains(&ask.ttl) && ask.flow < rules.max_flows);
            open.push(ask);
            questions += 1;
        }
        assert_eq!(discovery.outstanding(), open.len() as u32);
        assert!(questions < MOST_QUESTIONS, "{rules:?} does not come to an end");
        if open.is_empty() {
            break;
        }
        // Some of them, in any order.
        for _ in 0..=input.byte() {
            if open.is_empty() {
                break;
            }
            let ask = open.swap_remove(usize::from(input.byte()) % open.len());
            let (at, _) = nodes.walk((ask.flow.into(), ask.flow.into()), ask.ttl);
            let seen = match input.byte() {
                240.. => None,
                // Anybody.
                220.. => Some(Seen {
                    address: nodes.address(usize::from(input.byte())),
                    ends: input.flag(),
                }),
                _ if nodes.nodes[at].is_silent => None,
                _ => Some(Seen {
                    address: nodes.address(at),
                    ends: at == nodes.nodes.len() - 1 || nodes.nodes[at].refuses.is_some(),
                }),
            };
            known
                .entry((ask.flow, ask.ttl))
                .or_default()
                .push(seen.map(|seen| seen.address));
            match seen {
                Some(seen) => discovery.answered(ask, seen),
                None => discovery.silent(ask),
            }
        }
        if input.byte() == 255 {
            discovery.no_more_flows();
        }
    }
    let graph = discovery.graph();
    check_graph(&graph, (rules.first_ttl, rules.max_ttl), discovery.flows());
    for (flow, visits) in (0..).zip(&graph.flows) {
        for (ttl, visit) in (first_ttl..).zip(visits) {
            // Where all others are at one node, this one need not be asked.
            let Some(answers) = known.get(&(flow, ttl)) else {
                continue;
            };
            assert!(
                *visit == Visit::Unknown || answers.contains(&visit.address()),
                "flow {flow} at {ttl}: {visit:?} of {answers:?}"
            );
        }
    }
}

/// 256 flows at 12 TTLs, and each of 15 nodes asked again some hundred times.
const MOST_QUESTIONS: u32 = 100_000;
