//! The keys under which replies find their flow.
//!
//! A flow registers at most three of them, each unique in the process. The TTL is not part of a
//! key: the flow itself derives it from the identifiers, so that a table entry serves all probes of
//! the flow.

use std::net::{IpAddr, Ipv6Addr};

use traceroute_wire::{Quoted, QuotedTransport, Reply, ReplyKind};

use crate::method::udp::difference;

/// What in a reply names the flow it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    /// By our port or echo identifier: packets from the target, and quotes in which it is still, or
    /// again, ours.
    Local {
        protocol: u8,
        remote: IpAddr,
        remote_port: u16,
        local: u16,
    },
    /// By what a NAT leaves of a quote whose source address and port it does not translate.
    Marks {
        protocol: u8,
        remote: IpAddr,
        remote_port: u16,
        mark: u32,
    },
}

impl Key {
    /// IP protocol numbers, with one number for ICMP in both families: the addresses tell those
    /// apart.
    pub(crate) const ICMP: u8 = 1;
    pub(crate) const TCP: u8 = 6;
    pub(crate) const UDP: u8 = 17;

    pub(crate) fn local(protocol: u8, remote: IpAddr, remote_port: u16, local: u16) -> Key {
        Key::Local {
            protocol,
            remote,
            remote_port,
            local,
        }
    }

    /// Of echo replies from another address than was probed.
    pub(crate) fn anycast(identifier: u16) -> Key {
        Key::local(Key::ICMP, Ipv6Addr::UNSPECIFIED.into(), 0, identifier)
    }

    pub(crate) fn marks(protocol: u8, remote: IpAddr, remote_port: u16, mark: u32) -> Key {
        Key::Marks {
            protocol,
            remote,
            remote_port,
            mark,
        }
    }

    /// The keys of a reply, in the order in which they are to be tried.
    pub(crate) fn of(reply: &Reply) -> [Option<Key>; 2] {
        let from = reply.source;
        let direct =
            |protocol, remote_port, local| [Some(Key::local(protocol, from, remote_port, local)), None];
        match &reply.kind {
            ReplyKind::IcmpError { quoted, .. } => Key::of_quoted(quoted),
            ReplyKind::Echo { identifier, .. } => {
                let [local, _] = direct(Key::ICMP, 0, *identifier);
                [local, from.is_ipv6().then(|| Key::anycast(*identifier))]
            }
            ReplyKind::Tcp(tcp) => direct(Key::TCP, tcp.source_port, tcp.destination_port),
            ReplyKind::Udp(udp) => direct(Key::UDP, udp.source_port, udp.destination_port),
        }
    }

    fn of_quoted(quoted: &Quoted) -> [Option<Key>; 2] {
        let (protocol, port, local) = match quoted.transport {
            QuotedTransport::Echo { identifier, .. } => (Key::ICMP, 0, identifier),
            QuotedTransport::Udp {
                source_port,
                destination_port,
                ..
            } => (Key::UDP, destination_port, source_port),
            QuotedTransport::Tcp {
                source_port,
                destination_port,
                ..
            } => (Key::TCP, destination_port, source_port),
        };
        let v4 = quoted.source.is_ipv4();
        let mark = match quoted.transport {
            QuotedTransport::Tcp { sequence, .. } => Some(sequence >> 8),
            _ if !v4 => Some(quoted.flow_label),
            QuotedTransport::Echo { .. } => quoted.tag().map(u32::from),
            QuotedTransport::Udp { .. } => quoted.tag().map(|tag| difference(tag, quoted.identification)),
        };
        let remote = quoted.destination;
        [
            Some(Key::local(protocol, remote, port, local)),
            mark.map(|mark| Key::marks(protocol, remote, port, mark)),
        ]
    }
}
