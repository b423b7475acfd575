//! Which way a flow's packets leave this host: source address, interface, and how to make a raw
//! socket's packets go there.
//!
//! Routing may depend on the source, the protocol, the ports, a mark and the user (ip-rule(8)), and
//! a route may have several next hops; the kernel chooses one by a hash of addresses or ports. So
//! the kernel is asked for the flow, by netlink (`RTM_GETROUTE`).
//!
//! A raw socket's packets are routed by what the socket tells, not by their headers: `raw_sendmsg`
//! in the kernel's `net/ipv4/raw.c`. So the look-up is repeated with just that:
//!
//! | routing depends on | what makes a raw packet go that way |
//! |---|---|
//! | source | `IP_PKTINFO`, `IPV6_PKTINFO` |
//! | protocol (Linux 6.4) | `IP_PROTOCOL`; in IPv6 the port of the destination |
//! | mark | `SO_MARK` with each packet |
//! | user | sockets opened before root is given up |
//! | ports, several next hops | the interface in `IP_PKTINFO`; in IPv6 without the source |
//! | ports, where that is not enough | nothing: the flow gets an ordinary socket of its own |
//!
//! In IPv6 an interface beside a source is only a wish. The last row is a rule for a port that
//! leads to a gateway which the main table does not have on that interface: with an interface and
//! no route there, IPv4 takes the target for a neighbour. SACK cannot be probed through it.
//!
//! Where no rule depends on anything and the route has one next hop, all flows to a target share
//! one look-up for 100 ms.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU32;
use std::time::Duration;

use netlink_packet_route::AddressFamily;
use netlink_packet_route::rule::{RuleAttribute, RuleMessage};
use traceroute_engine::{Egress, FlowRequest, Route, Time, Transport};

use super::netlink::{KernelRoute, Netlink, Question};
use super::sys;
use crate::route::needs_scope;
use crate::unix::interfaces;

/// What raw sends are routed by is looked up anew after this time. Runs of one request share it.
const FRESH: Duration = Duration::from_millis(100);

/// Ways that are remembered.
const MOST_SHARED: usize = 1024;

/// A flow whose way is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Want {
    pub(super) target: IpAddr,
    /// `None`: ICMP.
    pub(super) transport: Option<Transport>,
    /// Local and remote; 0 where there is none yet.
    pub(super) ports: (u16, u16),
    pub(super) egress: Egress,
}

impl Want {
    /// A flow from a local port.
    pub(super) fn of(request: &FlowRequest, port: u16) -> Self {
        Want {
            target: request.target,
            transport: request.transport,
            ports: (port, request.port),
            egress: request.egress,
        }
    }

    /// An ICMP flow.
    pub(super) fn new(target: IpAddr, egress: Egress) -> Self {
        Want {
            target,
            transport: None,
            ports: (0, 0),
            egress,
        }
    }
}

/// The way of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FlowWay {
    pub(super) route: Route,
    /// Raw packets would go another way.
    pub(super) needs_own_socket: bool,
}

/// Answers for flows.
pub(crate) struct FlowRoutes {
    netlink: Netlink,
    /// Whose routes; `None`: this thread's user's.
    user: Option<u32>,
    /// Whether raw sends tell their protocol.
    raw_tells_protocol: bool,
    raw: Option<Memo<Question, KernelRoute>>,
    /// The ways of all flows that differ only in their ports; `None`: they differ.
    shared: HashMap<Question, Option<KernelRoute>>,
    shared_until: Time,
    rules: [Option<Memo<(), bool>>; 2],
}

/// An answer that may be used again for some time.
#[derive(Clone, Copy)]
struct Memo<Q, A> {
    until: Time,
    question: Q,
    answer: A,
}

impl FlowRoutes {
    pub(crate) fn open() -> io::Result<Self> {
        Ok(FlowRoutes {
            netlink: Netlink::open()?,
            user: super::privileges::caller(),
            raw_tells_protocol: sys::raw_tells_protocol(),
            raw: None,
            shared: HashMap::new(),
            shared_until: Time::ZERO,
            rules: [None; 2],
        })
    }

    /// Whether a raw send may tell its protocol.
    pub(super) fn raw_tells_protocol(&self) -> bool {
        self.raw_tells_protocol
    }

    /// Whether `address` is one of this host's own.
    ///
    /// # Errors
    /// What the kernel says; an address without a route is not this host's.
    pub(crate) fn is_own(&mut self, address: IpAddr) -> io::Result<bool> {
        match self.netlink.route(&Question::new(address)) {
            Ok(way) => Ok(way.is_local),
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENETUNREACH | libc::EHOSTUNREACH)) => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// The route of packets to `target` from `source`, about which the caller knows no more.
    /// Interfaces come and go: a link-local address's is looked for each time.
    pub(super) fn between(source: IpAddr, target: IpAddr) -> Route {
        let interface = if needs_scope(target) || needs_scope(source) {
            interfaces::of(source).unwrap_or(0)
        } else {
            0
        };
        Route {
            source,
            interface,
            mark: 0,
        }
    }

    /// The way of a flow that is probed by raw packets.
    ///
    /// # Errors
    /// No route, a route that forbids, no such interface, a source that is not this host's; a
    /// link-local target that could be on several interfaces.
    pub(super) fn raw_flow(&mut self, want: &Want) -> io::Result<FlowWay> {
        if let Some((asked, way)) = self.shared_way(want)? {
            return Ok(FlowWay {
                route: route(&asked, &way),
                needs_own_socket: false,
            });
        }
        let (asked, first) = self.with_source(want)?;
        let raw = Question {
            protocol: if self.raw_tells_protocol {
                asked.protocol
            } else {
                0
            },
            ports: (0, 0),
            ..asked
        };
        let raw_way = self.raw_way(&raw)?;
        let way = if raw_way.leaves_as(&first) && self.rules_are_plain(want.target) {
            first
        } else {
            let by_kernel = self.netlink.route(&asked)?;
            self.settled(&asked, first, by_kernel)
        };
        let mut flow = FlowWay {
            route: route(&asked, &way),
            needs_own_socket: false,
        };
        if !raw_way.leaves_as(&way) {
            let interface = way.interface;
            let bound = self.netlink.route(&Question { interface, ..raw });
            flow.route.interface = interface;
            flow.needs_own_socket = !bound.is_ok_and(|bound| bound.leaves_as(&way));
        }
        Ok(flow)
    }

    /// The way of a flow that is probed through an ordinary socket, which tells all that routing
    /// may depend on.
    ///
    /// # Errors
    /// As [`FlowRoutes::raw_flow`].
    pub(super) fn ordinary_flow(&mut self, want: &Want) -> io::Result<Route> {
        let mut want = *want;
        if want.transport.is_none() {
            want.ports = (0, port_of_echo(want.target));
        }
        let (asked, first) = self.with_source(&want)?;
        let by_kernel = self.netlink.route(&asked)?;
        let way = self.settled(&asked, first, by_kernel);
        let mut route = route(&asked, &way);
        if !by_kernel.leaves_as(&way) {
            route.interface = way.interface;
        }
        Ok(route)
    }

    /// The way, if it does not depend on protocol, ports or source.
    fn shared_way(&mut self, want: &Want) -> io::Result<Option<(Question, KernelRoute)>> {
        let question = Question {
            ports: (0, 0),
            ..self.question(want)?
        };
        let now = sys::monotonic();
        if self.shared_until <= now || self.shared.len() >= MOST_SHARED {
            self.shared.clear();
            self.shared_until = now + FRESH;
        }
        let known = self.shared.get(&question).copied();
        let way = match known {
            Some(way) => way,
            None => {
                let is_shared = self.rules_are_plain(want.target) && self.netlink.has_single_hop(&question);
                let way = if is_shared {
                    Some(self.with_source(want)?)
                } else {
                    None
                };
                let way = way.map(|(_, way)| way);
                self.shared.insert(question, way);
                way
            }
        };
        Ok(way.map(|way| {
            let source = question.source.or(way.source);
            let asked = Question {
                source: Some(source.unwrap_or_else(|| unspecified(want.target))),
                ..question
            };
            (asked, way)
        }))
    }

    /// The question with the source that the kernel prefers, or that was chosen, and the way that
    /// it prefers that for.
    fn with_source(&mut self, want: &Want) -> io::Result<(Question, KernelRoute)> {
        let question = self.question(want)?;
        if let Some(source) = want.egress.source {
            self.check_source(source, question.interface)?;
        }
        let first = self.netlink.route(&question)?;
        let source = question.source.or(first.source);
        let asked = Question {
            source: Some(source.unwrap_or_else(|| unspecified(want.target))),
            ..question
        };
        Ok((asked, first))
    }

    fn question(&self, want: &Want) -> io::Result<Question> {
        let Egress {
            source,
            interface,
            mark,
        } = want.egress;
        let interface = match interface {
            Some(index) => index.get(),
            None if needs_scope(want.target) => {
                interfaces::only_interface().ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?
            }
            None => 0,
        };
        let protocol = match (want.transport, want.target) {
            (Some(Transport::Udp), _) => libc::IPPROTO_UDP,
            (Some(Transport::Tcp), _) => libc::IPPROTO_TCP,
            (None, IpAddr::V4(_)) => libc::IPPROTO_ICMP,
            (None, IpAddr::V6(_)) => libc::IPPROTO_ICMPV6,
        };
        Ok(Question {
            target: want.target,
            source,
            interface,
            mark: mark.map_or(0, NonZeroU32::get),
            user: self.user,
            protocol: protocol as u8,
            ports: want.ports,
        })
    }

    /// Whether packets may come from an address that was chosen. `interface` (0: none) tells which
    /// link a link-local one is on; and where interfaces have routing tables of their own (VRF),
    /// only those know their addresses.
    pub(super) fn check_source(&mut self, source: IpAddr, interface: u32) -> io::Result<()> {
        let interfaces = if needs_scope(source) {
            [interface, interface]
        } else {
            [0, interface]
        };
        let is_own = interfaces.into_iter().any(|interface| {
            let question = Question {
                interface,
                ..Question::new(source)
            };
            self.netlink.route(&question).is_ok_and(|way| way.is_local)
        });
        if is_own && !source.is_unspecified() {
            Ok(())
        } else {
            Err(io::Error::from_raw_os_error(libc::EADDRNOTAVAIL))
        }
    }

    /// The way once the source is known, which rules may depend on: `by_kernel`, except that of
    /// several next hops the one that the source belongs to stays. The kernel does not care for
    /// that in IPv6, and in IPv4 before 6.15.
    fn settled(&mut self, asked: &Question, first: KernelRoute, by_kernel: KernelRoute) -> KernelRoute {
        if by_kernel.leaves_as(&first) {
            return by_kernel;
        }
        let hops = self.netlink.next_hops(asked).unwrap_or_default();
        if hops.iter().any(|hop| hop.leaves_as(&first)) {
            first
        } else {
            by_kernel
        }
    }

    /// Where the kernel would send a raw packet.
    fn raw_way(&mut self, question: &Question) -> io::Result<KernelRoute> {
        let now = sys::monotonic();
        if let Some(memo) = &self.raw
            && memo.question == *question
            && now < memo.until
        {
            return Ok(memo.answer);
        }
        let answer = self.netlink.route(question)?;
        self.raw = Some(Memo {
            until: now + FRESH,
            question: *question,
            answer,
        });
        Ok(answer)
    }

    /// Whether nobody answers on the link where a flow's packets leave.
    pub(super) fn lacks_neighbour(&mut self, want: &Want, route: &Route) -> bool {
        let find = |routes: &mut Self| {
            let question = Question {
                source: Some(route.source),
                interface: route.interface,
                ..routes.question(want)?
            };
            let way = routes.netlink.route(&question)?;
            let neighbour = way.gateway.unwrap_or(want.target);
            Ok::<_, io::Error>(!way.is_local && routes.netlink.is_missing(neighbour, way.interface)?)
        };
        find(self).unwrap_or(false)
    }

    /// Whether no routing rule depends on anything.
    fn rules_are_plain(&mut self, target: IpAddr) -> bool {
        let now = sys::monotonic();
        let (memo, family) = match (&mut self.rules, target) {
            ([memo, _], IpAddr::V4(_)) => (memo, AddressFamily::Inet),
            ([_, memo], IpAddr::V6(_)) => (memo, AddressFamily::Inet6),
        };
        if let Some(memo) = memo
            && now < memo.until
        {
            return memo.answer;
        }
        let answer = self
            .netlink
            .rules(family)
            .is_ok_and(|rules| rules.iter().all(is_plain));
        *memo = Some(Memo {
            until: now + FRESH,
            question: (),
            answer,
        });
        answer
    }
}

/// What an ICMP socket's flow has for a port when the kernel hashes it: type and code of its
/// messages are in the same place (`union flowi_uli`).
fn port_of_echo(target: IpAddr) -> u16 {
    match target {
        IpAddr::V4(_) => 8 << 8,
        IpAddr::V6(_) => 128 << 8,
    }
}

/// The route of packets that go this way.
fn route(asked: &Question, way: &KernelRoute) -> Route {
    let source = asked.source.unwrap_or_else(|| unspecified(asked.target));
    // A link-local address means nothing without its interface.
    let is_scoped = needs_scope(asked.target) || needs_scope(source);
    Route {
        source,
        // To an address of this host's own the way is the loopback interface, its zone is not.
        interface: if is_scoped && !(way.is_local && asked.interface != 0) {
            way.interface
        } else {
            asked.interface
        },
        mark: asked.mark,
    }
}

/// Whether a rule holds for all packets.
fn is_plain(rule: &RuleMessage) -> bool {
    let header = &rule.header;
    header.src_len == 0
        && header.dst_len == 0
        && header.tos == 0
        && rule.attributes.iter().all(|attribute| {
            matches!(
                attribute,
                RuleAttribute::Table(_)
                    | RuleAttribute::Priority(_)
                    | RuleAttribute::SuppressPrefixLen(_)
                    | RuleAttribute::SuppressIfGroup(_)
                    | RuleAttribute::Protocol(_)
            )
        })
}

fn unspecified(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_that_choose_are_not_plain() {
        let rule = |attribute| {
            let mut rule = RuleMessage::default();
            rule.attributes.push(RuleAttribute::Table(100));
            rule.attributes.push(attribute);
            rule
        };
        assert!(is_plain(&rule(RuleAttribute::Priority(100))));
        assert!(!is_plain(&rule(RuleAttribute::FwMark(5))));
        assert!(!is_plain(&rule(RuleAttribute::Iifname("eth0".to_owned()))));
        let mut from = RuleMessage::default();
        from.header.src_len = 32;
        assert!(!is_plain(&from));
    }
}
