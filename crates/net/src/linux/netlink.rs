//! Route look-ups by netlink (rtnetlink(7), `RTM_GETROUTE`), and lists of what the kernel has.
//!
//! The kernel answers for a flow that does not exist yet: with its protocol, ports, mark and user.
//! One socket serves all look-ups. It is opened early, so a look-up needs no free port and no free
//! descriptor.

use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::ops::ControlFlow;

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteType, RouteVia,
};
use netlink_packet_route::rule::RuleMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use socket2::{Domain, Protocol, Socket, Type};

/// Room for one answer. A route with 256 next hops has some 7 KiB.
const BUFFER: usize = 16 << 10;

/// Which route is asked for. What is `None` or 0 is left to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Question {
    pub(super) target: IpAddr,
    pub(super) source: Option<IpAddr>,
    /// Index of the outgoing interface.
    pub(super) interface: u32,
    pub(super) mark: u32,
    pub(super) user: Option<u32>,
    /// `IPPROTO_ICMP`, `IPPROTO_ICMPV6`, `IPPROTO_TCP` or `IPPROTO_UDP`; the kernel knows no others
    /// here.
    pub(super) protocol: u8,
    /// Local and remote.
    pub(super) ports: (u16, u16),
}

impl Question {
    /// Asks for the route to `target` and nothing else.
    pub(super) fn new(target: IpAddr) -> Self {
        Question {
            target,
            source: None,
            interface: 0,
            mark: 0,
            user: None,
            protocol: 0,
            ports: (0, 0),
        }
    }

    /// IPv6 takes an outgoing interface for a wish when a source is given
    /// (`ip6_route_output_flags`), so none is.
    fn interface_excludes_source(&self) -> bool {
        self.target.is_ipv6() && self.interface != 0
    }

    fn message(&self, flags: RouteFlags) -> RouteMessage {
        let mut message = RouteMessage::default();
        let bits = if self.target.is_ipv4() { 32 } else { 128 };
        message.header.address_family = family(self.target);
        message.header.destination_prefix_length = bits;
        message.header.flags = flags;
        let attributes = &mut message.attributes;
        attributes.push(RouteAttribute::Destination(self.target.into()));
        if let Some(source) = self.source.filter(|_| !self.interface_excludes_source()) {
            message.header.source_prefix_length = bits;
            attributes.push(RouteAttribute::Source(source.into()));
        }
        let numbers = [
            (self.interface, RouteAttribute::Oif(self.interface)),
            (self.mark, RouteAttribute::Mark(self.mark)),
            (self.protocol.into(), RouteAttribute::IpProto(self.protocol)),
            (self.ports.0.into(), RouteAttribute::Sport(self.ports.0)),
            (self.ports.1.into(), RouteAttribute::Dport(self.ports.1)),
        ];
        attributes.extend(
            numbers
                .into_iter()
                .filter_map(|(value, attribute)| (value != 0).then_some(attribute)),
        );
        attributes.extend(self.user.map(RouteAttribute::Uid));
        message
    }
}

/// The kernel's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KernelRoute {
    /// The address that the kernel prefers for packets on this route.
    pub(super) source: Option<IpAddr>,
    /// Index of the outgoing interface.
    pub(super) interface: u32,
    /// `None`: the target is on the link.
    pub(super) gateway: Option<IpAddr>,
    /// The target is an address of this host.
    pub(super) is_local: bool,
}

impl KernelRoute {
    /// Whether packets of both leave by the same interface to the same neighbour.
    pub(super) fn leaves_as(&self, other: &KernelRoute) -> bool {
        (self.interface, self.gateway) == (other.interface, other.gateway)
    }
}

/// The netlink socket.
pub(super) struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Box<[u8]>,
}

impl Netlink {
    pub(super) fn open() -> io::Result<Self> {
        Self::open_to(libc::NETLINK_ROUTE)
    }

    /// A socket to another part of the kernel than routing (netlink(7)).
    pub(super) fn open_to(part: libc::c_int) -> io::Result<Self> {
        let socket = Socket::new(
            Domain::from(libc::AF_NETLINK),
            Type::RAW.nonblocking().cloexec(),
            Some(Protocol::from(part)),
        )?;
        Ok(Netlink {
            socket,
            sequence: 0,
            buffer: vec![0; BUFFER].into(),
        })
    }

    /// The way of a flow's packets.
    ///
    /// # Errors
    /// What sending them would fail with: no route, a route that forbids, no such interface.
    pub(super) fn route(&mut self, question: &Question) -> io::Result<KernelRoute> {
        way(&self.ask_for_route(question, RouteFlags::empty())?)
    }

    /// The next hops of the route that serves a flow, when there are several.
    ///
    /// # Errors
    /// As [`Netlink::route`]; also on kernels before 4.13 (IPv4) and 4.20 (IPv6).
    pub(super) fn next_hops(&mut self, question: &Question) -> io::Result<Vec<KernelRoute>> {
        let message = self.ask_for_route(question, RouteFlags::FibMatch)?;
        let hops = message.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::MultiPath(hops) => Some(hops),
            _ => None,
        });
        let hop = |hop: &netlink_packet_route::route::RouteNextHop| KernelRoute {
            source: None,
            interface: hop.interface_index,
            gateway: gateway(&hop.attributes),
            is_local: false,
        };
        Ok(hops.into_iter().flatten().map(hop).collect())
    }

    /// Whether the route that serves a flow has a single next hop, so that all flows by this route
    /// leave alike. Not known before Linux 4.13 (IPv4) and 4.20 (IPv6), which answer as if they had
    /// not been asked for the route.
    pub(super) fn has_single_hop(&mut self, question: &Question) -> bool {
        self.ask_for_route(question, RouteFlags::FibMatch)
            .is_ok_and(|message| {
                !message.header.flags.contains(RouteFlags::Cloned)
                    && !message.attributes.iter().any(|attribute| {
                        matches!(attribute, RouteAttribute::MultiPath(_) | RouteAttribute::NhId(_))
                    })
            })
    }

    /// Whether a neighbour (ip-neighbour(8)) was asked for its link-layer address and has not
    /// answered. Not known before Linux 5.0.
    ///
    /// # Errors
    /// What the kernel says; there may be no entry.
    pub(super) fn is_missing(&mut self, address: IpAddr, interface: u32) -> io::Result<bool> {
        let mut question = NeighbourMessage::default();
        question.header.family = family(address);
        question.header.ifindex = interface;
        let destination = match address {
            IpAddr::V4(address) => NeighbourAddress::Inet(address),
            IpAddr::V6(address) => NeighbourAddress::Inet6(address),
        };
        question
            .attributes
            .push(NeighbourAttribute::Destination(destination));
        self.ask(
            RouteNetlinkMessage::GetNeighbour(question),
            |answer| match answer {
                RouteNetlinkMessage::NewNeighbour(neighbour) => Some(matches!(
                    neighbour.header.state,
                    NeighbourState::Incomplete | NeighbourState::Failed
                )),
                _ => None,
            },
        )
    }

    /// The routing rules of a family (ip-rule(8)).
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn rules(&mut self, family: AddressFamily) -> io::Result<Vec<RuleMessage>> {
        let mut question = RuleMessage::default();
        question.header.family = family;
        let mut rules = Vec::new();
        self.list(RouteNetlinkMessage::GetRule(question), |answer| {
            if let RouteNetlinkMessage::NewRule(rule) = answer? {
                rules.push(rule);
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(rules)
    }

    /// Asks for a list. `entry` gets each answer, or why it could not be understood, and says when
    /// it has had enough: then this socket must not be used again, because the rest is still to
    /// come.
    ///
    /// # Errors
    /// What the kernel says, and what `entry` does.
    pub(super) fn list<M: NetlinkSerializable + NetlinkDeserializable>(
        &mut self,
        question: M,
        mut entry: impl FnMut(io::Result<M>) -> io::Result<ControlFlow<()>>,
    ) -> io::Result<()> {
        self.send(question, NLM_F_REQUEST | NLM_F_DUMP)?;
        loop {
            for message in self.receive()? {
                let answer = match message {
                    Ok(NetlinkPayload::Done(_)) => return Ok(()),
                    Ok(NetlinkPayload::InnerMessage(answer)) => Ok(answer),
                    Ok(NetlinkPayload::Error(error)) => {
                        error_of(&error)?;
                        continue;
                    }
                    Ok(_) => continue,
                    Err(error) => Err(error),
                };
                if entry(answer)?.is_break() {
                    return Ok(());
                }
            }
        }
    }

    fn ask_for_route(&mut self, question: &Question, flags: RouteFlags) -> io::Result<RouteMessage> {
        let question = RouteNetlinkMessage::GetRoute(question.message(flags));
        self.ask(question, |answer| match answer {
            RouteNetlinkMessage::NewRoute(route) => Some(route),
            _ => None,
        })
    }

    /// Asks for one thing. `take` knows it among what else comes.
    fn ask<T>(
        &mut self,
        question: RouteNetlinkMessage,
        take: impl Fn(RouteNetlinkMessage) -> Option<T>,
    ) -> io::Result<T> {
        self.send(question, NLM_F_REQUEST)?;
        loop {
            for message in self.receive()? {
                match message? {
                    NetlinkPayload::InnerMessage(answer) => {
                        if let Some(answer) = take(answer) {
                            return Ok(answer);
                        }
                    }
                    NetlinkPayload::Error(error) => {
                        error_of(&error)?;
                        return Err(unexpected());
                    }
                    _ => {}
                }
            }
        }
    }

    fn send<M: NetlinkSerializable>(&mut self, message: M, flags: u16) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let length = message.buffer_len();
        let buffer = self.buffer.get_mut(..length).ok_or(io::ErrorKind::InvalidInput)?;
        message.serialize(buffer);
        let sent = (&self.socket).write(buffer)?;
        if sent == length { Ok(()) } else { Err(unexpected()) }
    }

    /// The messages of one datagram that answer the last question, and errors for those that cannot
    /// be understood. The kernel answers during the system call that asks, so there is nothing to
    /// wait for.
    fn receive<M: NetlinkDeserializable>(&mut self) -> io::Result<Vec<io::Result<NetlinkPayload<M>>>> {
        let length = (&self.socket).read(&mut self.buffer)?;
        let mut rest = self.buffer.get(..length).unwrap_or_default();
        let mut messages = Vec::new();
        // Each message begins with its length (struct nlmsghdr).
        while let Some(length) = rest.first_chunk() {
            let length = (u32::from_ne_bytes(*length) as usize).next_multiple_of(4);
            match parse(rest) {
                Ok(message) if message.header.sequence_number != self.sequence => {}
                Ok(message) => messages.push(Ok(message.payload)),
                Err(error) => messages.push(Err(error)),
            }
            rest = rest.get(length.max(4)..).unwrap_or_default();
        }
        Ok(messages)
    }
}

fn parse<T: NetlinkDeserializable>(bytes: &[u8]) -> io::Result<NetlinkMessage<T>> {
    NetlinkMessage::deserialize(bytes)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))
}

/// `Ok`: an acknowledgment.
fn error_of(error: &netlink_packet_core::ErrorMessage) -> io::Result<()> {
    match error.raw_code() {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code.saturating_abs())),
    }
}

fn unexpected() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "unexpected answer to a route look-up")
}

fn way(message: &RouteMessage) -> io::Result<KernelRoute> {
    // IPv6 delivers routes that forbid; IPv4 reports the error itself. A broadcast address cannot
    // be probed.
    let forbidden = match message.header.kind {
        RouteType::Unreachable => Some(libc::EHOSTUNREACH),
        RouteType::Prohibit | RouteType::Broadcast => Some(libc::EACCES),
        RouteType::BlackHole => Some(libc::EINVAL),
        RouteType::Throw => Some(libc::ENETUNREACH),
        _ => None,
    };
    if let Some(code) = forbidden {
        return Err(io::Error::from_raw_os_error(code));
    }
    let mut way = KernelRoute {
        source: None,
        interface: 0,
        gateway: gateway(&message.attributes),
        is_local: matches!(message.header.kind, RouteType::Local | RouteType::Anycast),
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::PrefSource(source) => way.source = ip(source),
            RouteAttribute::Oif(index) => way.interface = *index,
            _ => {}
        }
    }
    Ok(way)
}

/// The neighbour that a route leads to. It may be of the other family (RFC 8950).
pub(super) fn gateway(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(gateway) => ip(gateway),
        RouteAttribute::Via(RouteVia::Inet(gateway)) => Some((*gateway).into()),
        RouteAttribute::Via(RouteVia::Inet6(gateway)) => Some((*gateway).into()),
        _ => None,
    })
}

pub(super) fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Loopback is up wherever tests run.
    #[test]
    fn a_local_address_is_known() {
        let mut netlink = Netlink::open().expect("a socket");
        let loopback: IpAddr = [127, 0, 0, 1].into();
        let way = netlink.route(&Question::new(loopback)).expect("a route");
        assert!(way.is_local);
        assert_eq!(way.source, Some(loopback));
        assert_ne!(way.interface, 0);
    }

    #[test]
    fn no_such_interface_is_an_error() {
        let mut netlink = Netlink::open().expect("a socket");
        let question = Question {
            interface: 0x00FF_FFFF,
            ..Question::new([192, 0, 2, 1].into())
        };
        let error = netlink.route(&question).expect_err("no such interface");
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
    }

    #[test]
    fn rules_are_read() {
        let mut netlink = Netlink::open().expect("a socket");
        let rules = netlink.rules(AddressFamily::Inet).expect("rules");
        assert!(rules.len() >= 3, "local, main and default: {rules:?}");
    }
}
