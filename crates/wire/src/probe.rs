//! What a probe looks like on the wire.

use std::net::IpAddr;

use crate::layout::{icmp as icmp_layout, protocol, udp as udp_layout};
use crate::tcp::ProbeSegment;
use crate::writer::Writer;
use crate::{echo, ip, tcp, udp};

/// Bytes of buffer that suffice for each probe whose size nobody chose: the smallest MTU of an IPv6
/// link (RFC 8200 §5). [`Probe::packet_len`] tells how many others need.
pub const MAX_PROBE_LEN: usize = 1280;

/// Payload of an echo request, in bytes, unless a longer one is wanted.
pub const ECHO_PAYLOAD: u16 = 8;

/// Payload of a UDP probe over IPv4, in bytes.
pub const UDP_IPV4_PAYLOAD: u16 = 10;
/// Payload of a UDP probe over IPv6 is this many bytes and one more for each number from 1 up that
/// is to be told.
pub const UDP_IPV6_BASE: u16 = 5;

/// One probe packet, described by its fields; [`Probe::encode`] turns it into bytes.
///
/// The formats are chosen so that any quote of the first 8 bytes behind the IP header identifies
/// the probe, even when a NAT has rewritten the source address and port inside the quote, and so
/// that everything a per-flow load balancer may hash (addresses, ports, and the first four
/// transport bytes) is the same for each TTL of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// Source address; of the same family as `destination`.
    pub source: IpAddr,
    /// Address of the target.
    pub destination: IpAddr,
    /// IPv4 TTL or IPv6 hop limit, in hops.
    pub ttl: u8,
    /// IPv4 identification (RFC 791 §3.1). Never 0, which the kernel would replace. Unused in IPv6.
    pub identification: u16,
    /// IPv6 flow label (RFC 8200 §3), 20 bits, the same for all probes of a run. Unused in IPv4.
    pub flow_label: u32,
    /// IPv4 type of service or IPv6 traffic class: DSCP (RFC 2474) and, in the two low bits, ECN.
    pub tos: u8,
    /// Sets IPv4's DF bit. UDP datagrams always have it. IPv6 packets are never fragmented on the
    /// way.
    pub dont_fragment: bool,
    /// The transport part.
    pub kind: ProbeKind,
}

/// The transport part of a [`Probe`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeKind {
    /// ICMP or `ICMPv6` echo request (RFC 792, RFC 4443 §4.1).
    ///
    /// Payload: the 6 bytes of `cookie`, then 2 bytes chosen so that the ones' complement sum of
    /// the checksum and the identifier (and so the checksum, as the identifier is constant) equals
    /// `tag` for every sequence number. Zeros follow, up to the wanted length.
    Echo {
        /// Echo identifier, random per run.
        identifier: u16,
        /// Echo sequence number; the TTL.
        sequence: u16,
        /// Invariant of the checksum: see [`Quoted::tag`](crate::Quoted::tag). Below 0xFFFF.
        tag: u16,
        /// Random bytes that the target's reply must return.
        cookie: [u8; 6],
        /// Bytes of payload: at least [`ECHO_PAYLOAD`].
        payload_len: u16,
    },
    /// UDP datagram (RFC 768). DF is set in IPv4.
    ///
    /// IPv4 payload: `NSMNC`, a zero byte, `identification` big-endian, zeros, and 2 balancing
    /// bytes. IPv6 payload: `NSMNC` repeated, with two bytes replaced by the balancing bytes: those
    /// after the first `NSMNC`, or the last two of 6.
    ///
    /// The balancing bytes make the tag ([`Quoted::tag`](crate::Quoted::tag)) equal to `tag`.
    Udp {
        /// Source port, reserved for the run.
        source_port: u16,
        /// Probed port.
        destination_port: u16,
        /// Invariant of the checksum. Below 0xFFFF.
        tag: u16,
        /// Bytes of payload: at least [`UDP_IPV4_PAYLOAD`] over IPv4, at least 6 over IPv6.
        payload_len: u16,
    },
    /// TCP SYN without data, window 1024 (RFC 9293 §3.1).
    TcpSyn {
        /// Source port, reserved for the run.
        source_port: u16,
        /// Probed port.
        destination_port: u16,
        /// Sequence number: a random base per run plus the TTL, so that the acknowledgment in the
        /// target's answer names the probe.
        sequence: u32,
        /// Timestamps option (RFC 7323 §3), preceded by two NOPs. A target that knows it echoes the
        /// value.
        timestamps: Option<TcpTimestamps>,
    },
    /// One byte (the TTL) on an established connection, PSH+ACK, window 1024, beyond a gap so that
    /// the target answers with a selective acknowledgment (RFC 2018).
    TcpSack {
        /// Local port of the connection.
        source_port: u16,
        /// Remote port of the connection.
        destination_port: u16,
        /// The connection's next sequence number plus the TTL.
        sequence: u32,
        /// The peer's next sequence number.
        acknowledgment: u32,
        /// Timestamps option (RFC 7323 §3), preceded by two NOPs, when the peer negotiated it.
        timestamps: Option<TcpTimestamps>,
    },
}

/// The two values of a TCP timestamps option (RFC 7323 §3.2), in ticks of their sender's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TcpTimestamps {
    /// `TSval`: the sender's clock.
    pub value: u32,
    /// `TSecr`: the value echoed.
    pub echo: u32,
}

impl Probe {
    /// Writes the complete packet, IP header included, in network byte order with all checksums,
    /// and returns it.
    ///
    /// `None` when `source` and `destination` are of different families, or `buffer` is shorter
    /// than [`Probe::packet_len`].
    pub fn encode<'b>(&self, buffer: &'b mut [u8]) -> Option<&'b [u8]> {
        let header_len = ip::header_len(self.destination);
        let (header, body) = buffer.split_at_mut_checked(header_len)?;
        let mut out = Writer::new(body);
        self.kind.write(&mut out, self)?;
        let len = out.written().len();
        let payload_len = u16::try_from(len).ok()?;
        ip::write_header(header, self, self.kind.protocol(self.destination), payload_len)?;
        buffer.get(..header_len + len)
    }

    /// Writes what an ordinary socket wants of the packet and returns it: the complete message for
    /// ICMP (the kernel computes its checksum anew), the payload for UDP, nothing for TCP. Sent
    /// with the probe's TTL, addresses and ports, such a message becomes the packet that
    /// [`Probe::encode`] writes, except the IPv4 identification and the IPv6 flow label.
    ///
    /// `None` as for [`Probe::encode`].
    pub fn encode_message<'b>(&self, buffer: &'b mut [u8]) -> Option<&'b [u8]> {
        let packet = self.encode(buffer)?;
        let transport_len = match self.kind {
            ProbeKind::Echo { .. } => 0,
            ProbeKind::Udp { .. } => udp_layout::HEADER_LEN,
            ProbeKind::TcpSyn { .. } | ProbeKind::TcpSack { .. } => return Some(&[]),
        };
        packet.get(ip::header_len(self.destination) + transport_len..)
    }

    /// Bytes of the packet that [`Probe::encode`] writes.
    pub fn packet_len(&self) -> usize {
        ip::header_len(self.destination) + self.kind.len()
    }

    /// Whether IPv4's DF bit is set.
    pub(crate) fn has_dont_fragment(&self) -> bool {
        self.dont_fragment || matches!(self.kind, ProbeKind::Udp { .. })
    }
}

impl ProbeKind {
    /// Bytes of the transport header and what follows it.
    fn len(&self) -> usize {
        match *self {
            ProbeKind::Echo { payload_len, .. } => icmp_layout::HEADER_LEN + usize::from(payload_len),
            ProbeKind::Udp { payload_len, .. } => udp_layout::HEADER_LEN + usize::from(payload_len),
            ProbeKind::TcpSyn { timestamps, .. } => tcp::header_len(timestamps),
            ProbeKind::TcpSack { timestamps, .. } => tcp::header_len(timestamps) + 1,
        }
    }

    /// The protocol that the IP header of a probe to `destination` names.
    pub fn protocol(&self, destination: IpAddr) -> u8 {
        match self {
            ProbeKind::Echo { .. } => echo::icmp_protocol(destination),
            ProbeKind::Udp { .. } => protocol::UDP,
            ProbeKind::TcpSyn { .. } | ProbeKind::TcpSack { .. } => protocol::TCP,
        }
    }

    fn write(&self, out: &mut Writer<'_>, probe: &Probe) -> Option<()> {
        match *self {
            ProbeKind::Echo {
                identifier,
                sequence,
                tag,
                cookie,
                payload_len,
            } => echo::write(out, probe, (identifier, sequence), tag, cookie, payload_len),
            ProbeKind::Udp {
                source_port,
                destination_port,
                tag,
                payload_len,
            } => udp::write(
                out,
                probe,
                (source_port, destination_port),
                tag,
                payload_len.into(),
            ),
            ProbeKind::TcpSyn {
                source_port,
                destination_port,
                sequence,
                timestamps,
            } => {
                let segment = ProbeSegment {
                    source_port,
                    destination_port,
                    sequence,
                    acknowledgment: None,
                    timestamps,
                    data: None,
                };
                tcp::write(out, probe, &segment)
            }
            ProbeKind::TcpSack {
                source_port,
                destination_port,
                sequence,
                acknowledgment,
                timestamps,
            } => {
                let segment = ProbeSegment {
                    source_port,
                    destination_port,
                    sequence,
                    acknowledgment: Some(acknowledgment),
                    timestamps,
                    data: Some(probe.ttl),
                };
                tcp::write(out, probe, &segment)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_what_a_socket_makes_the_packet_from() {
        let udp = ProbeKind::Udp {
            source_port: 40_000,
            destination_port: 33_434,
            tag: 7,
            payload_len: 14,
        };
        let echo = ProbeKind::Echo {
            identifier: 1,
            sequence: 9,
            tag: 7,
            cookie: *b"cookie",
            payload_len: ECHO_PAYLOAD,
        };
        let syn = ProbeKind::TcpSyn {
            source_port: 40_000,
            destination_port: 443,
            sequence: 1,
            timestamps: None,
        };
        // The headers that the kernel puts in front; TCP has no payload.
        for (address, ip_header) in [("192.0.2.1", 20), ("2001:db8::1", 40)] {
            for (kind, headers) in [(udp, 8), (echo, 0), (syn, 20)] {
                let address: IpAddr = address.parse().expect("address");
                let probe = Probe {
                    source: address,
                    destination: address,
                    ttl: 9,
                    identification: 41,
                    flow_label: 1,
                    tos: 0,
                    dont_fragment: false,
                    kind,
                };
                let (mut packet, mut message) = ([0; MAX_PROBE_LEN], [0; MAX_PROBE_LEN]);
                let packet = probe.encode(&mut packet).expect("encodes");
                let message = probe.encode_message(&mut message).expect("encodes");
                assert_eq!(message, &packet[ip_header + headers..], "{kind:?}");
            }
        }
    }
}
