//! What comes back: the parts of a reply that identify its probe and describe its sender.

use std::fmt;
use std::net::IpAddr;

use crate::layout::{icmp, u8_at, u16_at};
use crate::{Family, TcpTimestamps, echo, udp};

/// A packet that may answer a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Reply {
    /// Who sent it: the outer source address.
    pub source: IpAddr,
    /// To whom: the outer destination address.
    pub destination: IpAddr,
    /// Remaining TTL or hop limit of the reply itself, in hops.
    pub ttl: u8,
    /// What it says.
    pub kind: ReplyKind,
}

/// What a [`Reply`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReplyKind {
    /// Time exceeded or destination unreachable, quoting the packet it is about.
    IcmpError {
        /// Which error.
        error: IcmpError,
        /// The packet that the error is about.
        quoted: Quoted,
        /// MPLS label stack entries from RFC 4950 extensions; empty when there are none.
        mpls: MplsStack,
    },
    /// Echo reply.
    Echo {
        /// Echo identifier.
        identifier: u16,
        /// Echo sequence number.
        sequence: u16,
        /// The first 6 payload bytes, when there are that many.
        cookie: Option<[u8; 6]>,
    },
    /// A TCP segment.
    Tcp(TcpReply),
    /// A UDP datagram.
    Udp(UdpReply),
}

impl ReplyKind {
    /// What an ICMP socket received: a message whose checksum the kernel has verified. `None`: not
    /// an echo reply.
    pub fn from_echo_message(family: Family, message: &[u8]) -> Option<ReplyKind> {
        let (header, payload) = message.split_first_chunk()?;
        let wanted = match family {
            Family::V4 => icmp::V4_ECHO_REPLY,
            Family::V6 => icmp::V6_ECHO_REPLY,
        };
        (u8_at::<{ icmp::TYPE }, _>(header) == wanted).then(|| echo::reply(header, payload))
    }

    /// What a UDP socket received: a payload of `len` bytes, though the buffer may hold only its
    /// beginning.
    pub fn from_datagram(
        family: Family,
        source_port: u16,
        destination_port: u16,
        payload: &[u8],
        len: u16,
    ) -> ReplyKind {
        ReplyKind::Udp(UdpReply {
            source_port,
            destination_port,
            payload_len: len,
            echoed: udp::echoed(family, payload, len.into()),
        })
    }
}

/// The echo sequence number in the first 8 bytes of an ICMP message.
pub fn echo_sequence(message: &[u8]) -> Option<u16> {
    let header: &[u8; icmp::HEADER_LEN] = message.first_chunk()?;
    Some(u16_at::<{ icmp::SEQUENCE }, _>(header))
}

/// ICMP errors that answer probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IcmpError {
    /// TTL or hop limit exceeded in transit (RFC 792 type 11 code 0, RFC 4443 type 3 code 0).
    TimeExceeded,
    /// Destination unreachable, any code (RFC 792 type 3, RFC 4443 type 1). The code as received.
    Unreachable {
        /// ICMP code.
        code: u8,
    },
}

impl IcmpError {
    /// The error that an ICMP or `ICMPv6` message of this type and code is, if it is one.
    pub fn from_type_and_code(family: Family, kind: u8, code: u8) -> Option<IcmpError> {
        match (family, kind) {
            // Code 1 is about reassembly, not TTL.
            (Family::V4, icmp::V4_TIME_EXCEEDED) | (Family::V6, icmp::V6_TIME_EXCEEDED) if code == 0 => {
                Some(IcmpError::TimeExceeded)
            }
            (Family::V4, icmp::V4_UNREACHABLE) | (Family::V6, icmp::V6_UNREACHABLE) => {
                Some(IcmpError::Unreachable { code })
            }
            _ => None,
        }
    }
}

/// The packet inside an ICMP error, as far as it was quoted. At least the IP header and 8 bytes
/// behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Quoted {
    /// Source address of the quoted packet; not ours when a NAT does not translate quotes.
    pub source: IpAddr,
    /// Destination address of the quoted packet.
    pub destination: IpAddr,
    /// TTL or hop limit in the quote, as the router saw it.
    pub ttl: u8,
    /// IPv4 identification; 0 in IPv6.
    pub identification: u16,
    /// IPv6 flow label; 0 in IPv4.
    pub flow_label: u32,
    /// The transport header.
    pub transport: QuotedTransport,
}

/// The first 8 transport bytes of a quoted packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum QuotedTransport {
    /// Echo request.
    Echo {
        /// Echo identifier.
        identifier: u16,
        /// Echo sequence number.
        sequence: u16,
        /// Checksum as quoted.
        checksum: u16,
    },
    /// UDP header.
    Udp {
        /// Source port.
        source_port: u16,
        /// Destination port.
        destination_port: u16,
        /// UDP length, header included, in bytes.
        length: u16,
        /// Checksum as quoted.
        checksum: u16,
    },
    /// Start of a TCP header.
    Tcp {
        /// Source port.
        source_port: u16,
        /// Destination port.
        destination_port: u16,
        /// Sequence number.
        sequence: u32,
        /// `TSval` of the timestamps option, when that much was quoted and it is where probes have
        /// it.
        timestamp: Option<u32>,
    },
}

impl Quoted {
    /// What a NAT leaves of the transport checksum: a value in `0..0xFFFF` that equals the `tag`
    /// that the probe was encoded with, even when the quote shows a source address, source port or
    /// echo identifier that is not ours.
    ///
    /// A NAT that rewrites one of these must adjust the checksum by the difference (RFC 3022 §4.1
    /// and §4.2, RFC 1624), so the ones' complement sum (RFC 1071) of the checksum and the
    /// rewritten fields stays the same. For UDP these are the source address and port; for echo
    /// requests the identifier and in IPv6, where the checksum covers it, the source address. The
    /// sum is taken modulo 0xFFFF because ones' complement has two zeros and devices disagree about
    /// which to use (RFC 1624 §3).
    ///
    /// `None` for TCP, whose checksum is not in the first 8 bytes, and for UDP without checksum, as
    /// some NATs leave it.
    pub fn tag(&self) -> Option<u16> {
        let (checksum, rewritable) = match self.transport {
            QuotedTransport::Echo {
                identifier, checksum, ..
            } => (checksum, echo::rewritable(self.source, identifier)),
            QuotedTransport::Udp { checksum: 0, .. } | QuotedTransport::Tcp { .. } => return None,
            QuotedTransport::Udp {
                source_port,
                checksum,
                ..
            } => (checksum, udp::rewritable(self.source, source_port)),
        };
        Some(rewritable.word(checksum).residue())
    }
}

/// A TCP segment from a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TcpReply {
    /// The sender's port: the probed one.
    pub source_port: u16,
    /// Our port.
    pub destination_port: u16,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgment number; meaningful with [`TcpFlags::ack`].
    pub acknowledgment: u32,
    /// Flags.
    pub flags: TcpFlags,
    /// Payload length in bytes, by the IP header's length fields.
    pub payload_len: u16,
    /// Selective acknowledgments.
    pub sack: SackInfo,
    /// Timestamps option.
    pub timestamps: Option<TcpTimestamps>,
}

/// TCP control bits (RFC 9293 §3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct TcpFlags {
    /// Synchronize.
    pub syn: bool,
    /// Acknowledgment field is significant.
    pub ack: bool,
    /// Reset.
    pub rst: bool,
    /// No more data.
    pub fin: bool,
}

/// SACK options of a segment (RFC 2018).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct SackInfo {
    /// SACK-permitted option seen (only in SYN segments).
    pub permitted: bool,
    /// Left edges of the SACK blocks in option order; at most 4 fit into a header.
    pub left_edges: [u32; 4],
    /// How many of `left_edges` are set.
    pub blocks: u8,
    /// Right edge of the first block, which contains the segment that this one acknowledges (RFC
    /// 2018 §4).
    pub first_right_edge: Option<u32>,
}

impl SackInfo {
    /// The left edges that are set.
    pub fn edges(&self) -> &[u32] {
        self.left_edges
            .get(..usize::from(self.blocks))
            .unwrap_or(&self.left_edges)
    }
}

/// A UDP datagram from a target: a service answers on the probed port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct UdpReply {
    /// The sender's port: the probed one.
    pub source_port: u16,
    /// Our port.
    pub destination_port: u16,
    /// Payload length in bytes.
    pub payload_len: u16,
    /// When the payload is a probe's own payload echoed back: the identification in it (IPv4:
    /// starts `NSMNC`, zero byte), or its length (IPv6: `NSMNC` repeated).
    pub echoed: Option<u16>,
}

/// MPLS label stack entries (RFC 4950) of one reply; at most 8 are kept.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct MplsStack {
    /// As on the wire: every answered probe carries a stack, mostly an empty one, so it is kept
    /// small.
    entries: [u32; 8],
    len: u8,
}

/// One MPLS label stack entry (RFC 3032 §2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct MplsLabel {
    /// Label, 20 bits.
    pub label: u32,
    /// Traffic class (formerly EXP), 3 bits.
    pub traffic_class: u8,
    /// Bottom of stack.
    pub bottom: bool,
    /// TTL, in hops.
    pub ttl: u8,
}

impl MplsLabel {
    /// From a label stack entry in host byte order: label, traffic class, bottom of stack, TTL.
    pub fn from_bits(bits: u32) -> Self {
        MplsLabel {
            label: bits >> 12,
            traffic_class: (bits >> 9) as u8 & 7,
            bottom: bits & 0x100 != 0,
            ttl: bits as u8,
        }
    }
}

impl MplsStack {
    /// The entries, outermost first.
    pub fn labels(&self) -> impl Iterator<Item = MplsLabel> + '_ {
        self.entries
            .iter()
            .take(usize::from(self.len))
            .copied()
            .map(MplsLabel::from_bits)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds an entry as it is on the wire, in host byte order; beyond 8 it is dropped.
    pub fn push(&mut self, bits: u32) {
        if let Some(slot) = self.entries.get_mut(usize::from(self.len)) {
            *slot = bits;
            self.len += 1;
        }
    }
}

impl fmt::Debug for MplsStack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.labels()).finish()
    }
}

/// Whether transport checksums of captured packets can be trusted to be complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksums {
    /// Verify them: a wrong one means [`Ignored::BadChecksum`].
    Verify,
    /// The packet comes from this host with its checksum left to the device
    /// (`TP_STATUS_CSUMNOTREADY`): TCP and UDP checksums cannot be verified, and an IPv4 header
    /// checksum of 0 is accepted. ICMP checksums still are verified: the kernel always computes
    /// those in software.
    Offloaded,
}

/// Why a captured packet is no reply. Each is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ignored {
    /// Shorter than its headers say, or than any header.
    Truncated,
    /// Fields that contradict each other.
    Malformed,
    /// A checksum is wrong.
    BadChecksum,
    /// A fragment other than an unfragmented packet (outer header).
    Fragment,
    /// A protocol, ICMP type or TCP segment that answers no probe.
    NotAnAnswer,
    /// An ICMP error about a packet that is no probe of ours by its protocol, or is itself
    /// unusable.
    ForeignQuote,
}

impl Ignored {
    /// All reasons, for counters.
    pub const ALL: [Ignored; 6] = [
        Ignored::Truncated,
        Ignored::Malformed,
        Ignored::BadChecksum,
        Ignored::Fragment,
        Ignored::NotAnAnswer,
        Ignored::ForeignQuote,
    ];

    /// Position in [`Ignored::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }

    /// A short name for logs and metrics, in `snake_case`.
    pub fn name(self) -> &'static str {
        match self {
            Ignored::Truncated => "truncated",
            Ignored::Malformed => "malformed",
            Ignored::BadChecksum => "bad_checksum",
            Ignored::Fragment => "fragment",
            Ignored::NotAnAnswer => "not_an_answer",
            Ignored::ForeignQuote => "foreign_quote",
        }
    }
}
