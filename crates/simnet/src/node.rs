//! Routers and targets with their state.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use fastrand::Rng;

use crate::balance::Balancer;
use crate::counters::Counters;
use crate::icmp::Error;
use crate::limit::Limiter;
use crate::link::Link;
use crate::nat::Nat;
use crate::packet::{self, ICMP, ICMP_V6, Packet, TCP, UDP};
use crate::tcp::Server;
use crate::topology::{
    Block, Bucket, FlowLabel, Hop, Icmp, Limit, Protocol, RandomIdentification, Target, Tcp, Udp,
};

/// A router or a target.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) v4: Option<Ipv4Addr>,
    pub(crate) v6: Option<Ipv6Addr>,
    pub(crate) counters: Counters,
    /// The link to the node, and the same one back.
    pub(crate) forward: Link,
    pub(crate) back: Link,
    pub(crate) icmp: Icmp,
    pub(crate) silent: bool,
    initial_ttl: u8,
    /// On all errors.
    limit: Option<Limiter>,
    time_exceeded: Option<Limiter>,
    unreachable: Option<Limiter>,
    pub(crate) blocks: Vec<Block>,
    /// Until when packets to an address wait for its link-layer address.
    resolving: HashMap<IpAddr, Duration>,
    pub(crate) host: Host,
    /// `None` for targets.
    pub(crate) router: Option<Router>,
}

/// What answers packets to the node's own addresses.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) echo: bool,
    pub(crate) udp: Udp,
    pub(crate) tcp: Server,
}

/// What forwards.
#[derive(Debug)]
pub(crate) struct Router {
    pub(crate) ttl_decrement: u8,
    pub(crate) ttl_reset: Option<u8>,
    pub(crate) zero_ttl_forwarding: bool,
    pub(crate) traffic_class: Option<u8>,
    pub(crate) strip_tcp_options: bool,
    pub(crate) random_identification: Option<RandomIdentification>,
    pub(crate) flow_label: Option<FlowLabel>,
    pub(crate) forge_echo_from: Option<IpAddr>,
    pub(crate) forge_udp: Vec<u64>,
    /// UDP datagrams that have passed.
    pub(crate) datagrams: u64,
    pub(crate) nat: Option<Nat>,
    pub(crate) balancer: Option<Balancer>,
    /// The next router, one per branch; `None` where the path ends.
    pub(crate) next: Vec<Option<usize>>,
}

impl Node {
    /// `nats` is how many NATs the network has so far.
    pub(crate) fn router(hop: &Hop, next: Vec<Option<usize>>, nats: usize, rng: &mut Rng) -> Self {
        let router = Router {
            ttl_decrement: hop.ttl_decrement,
            ttl_reset: hop.ttl_reset,
            zero_ttl_forwarding: hop.zero_ttl_forwarding,
            traffic_class: hop.traffic_class,
            strip_tcp_options: hop.strip_tcp_options,
            random_identification: hop.random_identification,
            flow_label: hop.flow_label,
            forge_echo_from: hop.forge_echo_from,
            forge_udp: hop.forge_udp.clone(),
            datagrams: 0,
            nat: hop.nat.clone().map(|nat| Nat::new(nat, nats)),
            balancer: hop.balance.map(|policy| Balancer::new(policy, rng.u64(..))),
            next,
        };
        Self {
            name: hop.name.get_ref().clone(),
            v4: hop.v4.as_ref().map(|v4| *v4.get_ref()),
            v6: hop.v6.as_ref().map(|v6| *v6.get_ref()),
            counters: Counters::default(),
            forward: Link::new(&hop.forward, hop.delay),
            back: Link::new(&hop.back, hop.delay),
            silent: hop.silent,
            initial_ttl: hop.icmp.ttl.unwrap_or(255),
            limit: hop.icmp.limit.map(Limiter::new),
            time_exceeded: hop.icmp.time_exceeded_limit.map(bucket),
            unreachable: hop.icmp.unreachable_limit.map(bucket),
            icmp: hop.icmp.clone(),
            blocks: hop.blocks.clone(),
            resolving: HashMap::new(),
            host: Host {
                echo: true,
                udp: Udp::default(),
                tcp: Server::new(Tcp::default()),
            },
            router: Some(router),
        }
    }

    pub(crate) fn target(target: &Target) -> Self {
        let v4 = target.v4.as_ref().map(|v4| *v4.get_ref());
        let v6 = target.v6.as_ref().map(|v6| *v6.get_ref());
        let address = v4.map(IpAddr::V4).or(v6.map(IpAddr::V6));
        let name = target.name.as_ref().map(|name| name.get_ref().clone());
        Self {
            name: name
                .or(address.map(|address| address.to_string()))
                .unwrap_or_default(),
            v4,
            v6,
            counters: Counters::default(),
            forward: Link::new(&target.forward, target.delay),
            back: Link::new(&target.back, target.delay),
            silent: false,
            initial_ttl: target.icmp.ttl.unwrap_or(64),
            limit: target.icmp.limit.map(Limiter::new),
            time_exceeded: None,
            unreachable: target.icmp.unreachable_limit.map(bucket),
            icmp: target.icmp.clone(),
            blocks: target.blocks.clone(),
            resolving: HashMap::new(),
            host: Host {
                echo: target.echo,
                udp: target.udp.clone(),
                tcp: Server::new(target.tcp.clone()),
            },
            router: None,
        }
    }

    pub(crate) fn is_nat(&self) -> bool {
        self.router.as_ref().is_some_and(|router| router.nat.is_some())
    }

    pub(crate) fn owns(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.v4 == Some(address),
            IpAddr::V6(address) => self.v6 == Some(address),
        }
    }

    /// Where ICMP errors about such a packet come from; `None` when the node has no address of that
    /// family.
    pub(crate) fn error_source(&self, v6: bool) -> Option<IpAddr> {
        if v6 {
            self.icmp.from_v6.or(self.v6).map(IpAddr::V6)
        } else {
            self.icmp.from_v4.or(self.v4).map(IpAddr::V4)
        }
    }

    /// TTL of a reply to `about` as it leaves; `None` when the extra hops use it up.
    pub(crate) fn reply_ttl(&self, about: &Packet) -> Option<u8> {
        let initial = if self.icmp.ttl_copied {
            about.ttl()
        } else {
            self.initial_ttl
        };
        initial
            .checked_sub(self.icmp.extra_hops_back)
            .filter(|ttl| *ttl > 0)
    }

    /// Whether the rate limits let this error go now.
    pub(crate) fn within_limit(
        &mut self,
        error: Error,
        destination: IpAddr,
        now: Duration,
        rng: &mut Rng,
    ) -> bool {
        let of_kind = match error {
            Error::TimeExceeded => &mut self.time_exceeded,
            Error::Unreachable(_) => &mut self.unreachable,
        };
        let limiter = self.limit.as_mut().or(of_kind.as_mut());
        limiter.is_none_or(|limiter| limiter.allow(destination, now, rng))
    }

    /// The first rule that blocks the packet.
    pub(crate) fn blocked(&self, packet: &Packet) -> Option<&Block> {
        self.blocks.iter().find(|block| {
            let protocol = protocol(packet);
            let any_protocol = block.protocols.is_empty();
            let port = destination_port(packet);
            (any_protocol || protocol.is_some_and(|protocol| block.protocols.contains(&protocol)))
                && (block.ports.is_empty() || port.is_some_and(|port| block.ports.contains(&port)))
                && (block.to.is_empty() || block.to.contains(&packet.destination()))
                && block.from_ttl.is_none_or(|ttl| packet.ttl() >= ttl)
        })
    }

    /// When a packet for `destination` that came at `now` gives up waiting for a link-layer
    /// address: together with the first that waits, which waits for `time`.
    pub(crate) fn resolved_at(&mut self, destination: IpAddr, time: Duration, now: Duration) -> Duration {
        let until = self.resolving.entry(destination).or_insert(now);
        if *until <= now {
            *until = now + time;
        }
        *until
    }

    /// Whether the node sends ICMP errors about such packets at all.
    pub(crate) fn answers(&self, packet: &Packet) -> bool {
        let answers = &self.icmp.answers;
        let listed =
            answers.is_empty() || protocol(packet).is_some_and(|protocol| answers.contains(&protocol));
        listed && !self.silent
    }
}

fn bucket(bucket: Bucket) -> Limiter {
    Limiter::new(Limit::Bucket(bucket))
}

fn protocol(packet: &Packet) -> Option<Protocol> {
    match packet.protocol() {
        ICMP | ICMP_V6 => Some(Protocol::Icmp),
        UDP => Some(Protocol::Udp),
        TCP => Some(Protocol::Tcp),
        _ => None,
    }
}

pub(crate) fn source_port(packet: &Packet) -> Option<u16> {
    packet::u16_at(packet.transport(), 0)
}

pub(crate) fn destination_port(packet: &Packet) -> Option<u16> {
    matches!(packet.protocol(), TCP | UDP)
        .then(|| packet::u16_at(packet.transport(), 2))
        .flatten()
}
