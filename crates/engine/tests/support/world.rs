//! A network for the engine's tests: one path with loss, limits, silence, refusals, duplicates and
//! reordering.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use traceroute_engine::Time;
use traceroute_wire::{IcmpError, Probe, ProbeKind, Reply, ReplyKind};

use super::{
    Name, RST, Simulation, destination_answer, error, ms, name, router_of, tcp, time_exceeded, udp_service,
};

/// A limit on ICMP errors, exactly as Linux keeps it for each address that it answers
/// (`inet_peer_xrlim_allow`): time is saved up to `burst` intervals, an answer costs one.
#[derive(Debug, Clone, Copy)]
pub struct Limiter {
    pub interval: Duration,
    pub burst: u32,
    saved: Duration,
    last: Time,
}

impl Limiter {
    pub fn new(interval: Duration, burst: u32) -> Self {
        Limiter {
            interval,
            burst,
            saved: interval * burst,
            last: Time::ZERO,
        }
    }

    /// The default of Linux: `icmp_ratelimit` is 1000 ms, the burst is 6.
    pub fn linux() -> Self {
        Limiter::new(ms(1000), 6)
    }

    /// With so much less saved up.
    pub fn drained(mut self, by: Duration) -> Self {
        self.saved = self.saved.saturating_sub(by);
        self
    }

    pub fn allows(&mut self, at: Time) -> bool {
        self.saved = (self.saved + at.since(self.last)).min(self.interval * self.burst);
        self.last = self.last.max(at);
        let allows = self.saved >= self.interval;
        if allows {
            self.saved -= self.interval;
        }
        allows
    }
}

/// What the target says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Echo reply, port unreachable, SYN-ACK, selective acknowledgment.
    Answers,
    Silent,
    /// Datagrams that do not say to which probe they are.
    Service,
    /// Resets that do not say to which SYN they are.
    BareReset,
}

#[derive(Debug)]
pub struct World {
    /// TTL of the target.
    pub length: u8,
    pub target: Target,
    /// Shares of probes, answers and duplicated answers, from 0 to 1.
    pub probes_lost: f64,
    pub answers_lost: f64,
    pub duplicated: f64,
    /// Round trip to each further hop.
    pub hop: Duration,
    /// An answer may take so much longer.
    pub jitter: Duration,
    /// A probe may be held up for so long.
    pub queued: Duration,
    /// Routers that never answer.
    pub silent: BTreeSet<u8>,
    /// Destination unreachable with this code, from this TTL on, by the node there; nothing passes
    /// it.
    pub refuses: Option<(u8, u8)>,
    /// Nothing passes this TTL and nobody says so.
    pub filtered_from: Option<u8>,
    /// Limits of the routers' answers, and of the target's ICMP errors, by TTL.
    pub limits: BTreeMap<u8, Limiter>,
    /// Quotes carry the TCP options.
    pub quotes_options: bool,
    /// Quotes show what was left of the TTL; otherwise always 1.
    pub quotes_ttl: bool,
    /// Answers that a limit forbade, and those that it allowed, by TTL.
    pub forbidden: BTreeMap<u8, usize>,
    pub allowed: BTreeMap<u8, usize>,
    arrived: BTreeMap<Name, BTreeSet<u8>>,
    rng: StdRng,
}

impl World {
    pub fn new(length: u8, seed: u64) -> Self {
        World {
            length,
            target: Target::Answers,
            probes_lost: 0.0,
            answers_lost: 0.0,
            duplicated: 0.0,
            hop: ms(2),
            jitter: Duration::ZERO,
            queued: Duration::ZERO,
            silent: BTreeSet::new(),
            refuses: None,
            filtered_from: None,
            limits: BTreeMap::new(),
            quotes_options: true,
            quotes_ttl: true,
            forbidden: BTreeMap::new(),
            allowed: BTreeMap::new(),
            arrived: BTreeMap::new(),
            rng: StdRng::seed_from_u64(seed),
        }
    }

    /// Linux's limit at all these TTLs.
    pub fn limited(mut self, ttls: impl IntoIterator<Item = u8>) -> Self {
        self.limits = ttls.into_iter().map(|ttl| (ttl, Limiter::linux())).collect();
        self
    }

    /// A simulation over this network, which can still be changed.
    pub fn simulate(self) -> (Simulation<'static>, Rc<RefCell<World>>) {
        let world = Rc::new(RefCell::new(self));
        let path = Rc::clone(&world);
        let simulation = Simulation::new(move |now, probe| path.borrow_mut().answers(now, probe));
        (simulation, world)
    }

    fn happens(&mut self, share: f64) -> bool {
        share > 0.0 && self.rng.random_bool(share)
    }

    /// What comes back for a probe, and when.
    pub fn answers(&mut self, now: Time, probe: &Probe) -> Vec<(Time, Reply)> {
        let v6 = probe.destination.is_ipv6();
        if self.happens(self.probes_lost) {
            return Vec::new();
        }
        let end = self.length.min(self.refuses.map_or(u8::MAX, |(ttl, _)| ttl));
        let at = probe.ttl.min(end);
        let round_trip = self.hop * u32::from(at);
        let silent = self.silent.contains(&at) || self.filtered_from.is_some_and(|from| at >= from);
        let is_target = at == self.length;
        if silent || is_target && self.target == Target::Silent {
            return Vec::new();
        }
        let mut reply = match self.refuses {
            Some((ttl, code)) if at == ttl => {
                error(router_of(v6, ttl), probe, IcmpError::Unreachable { code })
            }
            _ if !is_target => time_exceeded(probe),
            _ => self.of_target(probe),
        };
        if let ReplyKind::IcmpError { quoted, .. } = &mut reply.kind {
            if self.quotes_ttl {
                quoted.ttl = probe.ttl - at + 1;
            }
            let late = Duration::from_micros(self.rng.random_range(0..=self.queued.as_micros() as u64));
            if let Some(limit) = self.limits.get_mut(&at) {
                let allows = limit.allows(now + round_trip / 2 + late);
                let counts = if allows {
                    &mut self.allowed
                } else {
                    &mut self.forbidden
                };
                *counts.entry(at).or_default() += 1;
                if !allows {
                    return Vec::new();
                }
            }
            if let (
                traceroute_wire::QuotedTransport::Tcp { timestamp, .. },
                ProbeKind::TcpSyn { timestamps, .. },
            ) = (&mut quoted.transport, probe.kind)
                && self.quotes_options
            {
                *timestamp = timestamps.map(|stamps| stamps.value);
            }
        }
        if self.happens(self.answers_lost) {
            return Vec::new();
        }
        let copies = 1 + usize::from(self.happens(self.duplicated));
        let jitter = self.jitter.as_micros() as u64;
        (0..copies)
            .map(|_| {
                let more = Duration::from_micros(self.rng.random_range(0..=jitter));
                (now + round_trip + more, reply)
            })
            .collect()
    }

    fn of_target(&mut self, probe: &Probe) -> Reply {
        match (self.target, probe.kind) {
            (Target::Service, ProbeKind::Udp { .. }) => udp_service(probe),
            (
                Target::BareReset,
                ProbeKind::TcpSyn {
                    source_port,
                    destination_port,
                    ..
                },
            ) => tcp(probe.destination, destination_port, source_port, RST, 0),
            (_, ProbeKind::TcpSack { .. }) => self.acknowledgment(probe),
            _ => destination_answer(probe),
        }
    }

    /// A selective acknowledgment of all that has arrived (RFC 2018 §4); of what comes again by a
    /// block of its own in front of the others (RFC 2883).
    fn acknowledgment(&mut self, probe: &Probe) -> Reply {
        let mut reply = destination_answer(probe);
        let arrived = self.arrived.entry(name(probe)).or_default();
        let is_repeated = !arrived.insert(probe.ttl);
        let block_of = |ttl: u8| {
            let below = (1..ttl).rev().take_while(|other| arrived.contains(other)).last();
            let above = (ttl + 1..=u8::MAX)
                .take_while(|other| arrived.contains(other))
                .last();
            (below.unwrap_or(ttl), above.unwrap_or(ttl))
        };
        let own = block_of(probe.ttl);
        let lowest = block_of(arrived.first().copied().unwrap_or(probe.ttl));
        let mut blocks = Vec::new();
        if is_repeated {
            blocks.push((probe.ttl, probe.ttl));
        }
        blocks.push(own);
        if lowest != own {
            blocks.push(lowest);
        }
        if let (ReplyKind::Tcp(tcp), ProbeKind::TcpSack { sequence, .. }) = (&mut reply.kind, probe.kind) {
            let edge = |ttl: u8| {
                sequence
                    .wrapping_add(u32::from(ttl))
                    .wrapping_sub(u32::from(probe.ttl))
            };
            for (index, (left, _)) in blocks.iter().enumerate() {
                tcp.sack.left_edges[index] = edge(*left);
            }
            tcp.sack.blocks = blocks.len() as u8;
            tcp.sack.first_right_edge = Some(edge(blocks[0].1).wrapping_add(1));
        }
        reply
    }
}
