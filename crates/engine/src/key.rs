//! The keys under which replies find their trace.
//!
//! A trace registers at most three of them, each unique in the process. The TTL is not part of the key: the trace itself
//! derives it from the identifier, exactly, so that a table entry serves all probes of the trace.

use std::net::IpAddr;

use traceroute_wire::{Quoted, QuotedTransport, Reply, ReplyKind};

/// IP protocol numbers, with one number for ICMP in both families: the addresses tell those apart.
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// What in a reply names the trace it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    /// An ICMP error about one of our probes. Uses nothing that a NAT between us and the router rewrites.
    Quote {
        protocol: u8,
        destination: IpAddr,
        port: u16,
        /// Checksum tag of an echo request or datagram; the sequence number without its low byte of a TCP segment.
        tag: u32,
    },
    /// A packet from the target itself.
    Direct {
        protocol: u8,
        remote: IpAddr,
        remote_port: u16,
        /// Our port, or the echo identifier.
        local: u16,
    },
}

impl Key {
    /// Errors about echo requests with this checksum tag.
    pub(crate) fn echo_quote(destination: IpAddr, tag: u16) -> Key {
        Key::Quote {
            protocol: ICMP,
            destination,
            port: 0,
            tag: u32::from(tag),
        }
    }

    /// Errors about datagrams with this checksum tag.
    pub(crate) fn udp_quote(destination: IpAddr, port: u16, tag: u16) -> Key {
        Key::Quote {
            protocol: UDP,
            destination,
            port,
            tag: u32::from(tag),
        }
    }

    /// Errors about segments whose sequence number shares its upper 24 bits with `sequence`.
    pub(crate) fn tcp_quote(destination: IpAddr, port: u16, sequence: u32) -> Key {
        Key::Quote {
            protocol: TCP,
            destination,
            port,
            tag: sequence >> 8,
        }
    }

    /// Echo replies.
    pub(crate) fn echo_reply(remote: IpAddr, identifier: u16) -> Key {
        Key::Direct {
            protocol: ICMP,
            remote,
            remote_port: 0,
            local: identifier,
        }
    }

    /// Datagrams from a service.
    pub(crate) fn udp_reply(remote: IpAddr, remote_port: u16, local: u16) -> Key {
        Key::Direct {
            protocol: UDP,
            remote,
            remote_port,
            local,
        }
    }

    /// Segments from the target.
    pub(crate) fn tcp_reply(remote: IpAddr, remote_port: u16, local: u16) -> Key {
        Key::Direct {
            protocol: TCP,
            remote,
            remote_port,
            local,
        }
    }

    /// The key of a reply. `None` for a quote without the identifier that all our probes carry.
    pub(crate) fn of(reply: &Reply) -> Option<Key> {
        match &reply.kind {
            ReplyKind::IcmpError { quoted, .. } => Key::of_quoted(quoted),
            ReplyKind::Echo { identifier, .. } => Some(Key::echo_reply(reply.source, *identifier)),
            ReplyKind::Tcp(tcp) => Some(Key::tcp_reply(
                reply.source,
                tcp.source_port,
                tcp.destination_port,
            )),
            ReplyKind::Udp(udp) => Some(Key::udp_reply(
                reply.source,
                udp.source_port,
                udp.destination_port,
            )),
        }
    }

    fn of_quoted(quoted: &Quoted) -> Option<Key> {
        let destination = quoted.destination;
        match quoted.transport {
            QuotedTransport::Echo { .. } => quoted.tag().map(|tag| Key::echo_quote(destination, tag)),
            QuotedTransport::Udp { destination_port, .. } => quoted
                .tag()
                .map(|tag| Key::udp_quote(destination, destination_port, tag)),
            QuotedTransport::Tcp {
                destination_port,
                sequence,
                ..
            } => Some(Key::tcp_quote(destination, destination_port, sequence)),
        }
    }
}
