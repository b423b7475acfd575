//! IPv4 and IPv6 headers. Behind this module the families differ in nothing but their addresses and
//! ICMP numbers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::checksum::Sum;
use crate::layout::{bytes_at, ipv4, ipv6, u8_at, u16_at, u32_at};
use crate::writer::Writer;
use crate::{Checksums, Ignored, Probe};

/// More extension headers than this are taken for an attempt to waste time.
const MAX_EXTENSION_HEADERS: usize = 8;

/// An IP header with its options or extension headers, as far as replies need it.
pub(crate) struct Header {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) ttl: u8,
    /// 0 in IPv6.
    pub(crate) identification: u16,
    /// 0 in IPv4.
    pub(crate) flow_label: u32,
    /// Of what follows the options and extension headers.
    pub(crate) protocol: u8,
    pub(crate) fragment: Fragment,
    /// Bytes up to what `protocol` describes. May be more than there are.
    pub(crate) len: usize,
    /// Bytes of the whole packet by its length field.
    total_len: usize,
}

/// Which part of a packet this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fragment {
    /// All of it.
    Whole,
    /// The part with the transport header.
    First,
    /// A part without transport header, at this offset in units of 8 bytes.
    Later(u16),
}

impl Fragment {
    fn new(offset: u16, more: bool) -> Self {
        match (offset, more) {
            (0, false) => Fragment::Whole,
            (0, true) => Fragment::First,
            (offset, _) => Fragment::Later(offset),
        }
    }
}

/// A transport header with its payload, as far as it was captured.
pub(crate) struct Segment<'a> {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) protocol: u8,
    /// The captured bytes, link-layer padding removed.
    pub(crate) bytes: &'a [u8],
    /// Length by the IP header; more than `bytes` when the capture cut the packet short.
    pub(crate) len: usize,
}

impl Segment<'_> {
    /// Whether the capture cut the packet short.
    pub(crate) fn is_cut(&self) -> bool {
        self.bytes.len() < self.len
    }

    /// The sum of the pseudo-header for a transport of `len` bytes.
    pub(crate) fn pseudo_header(&self, len: usize) -> Sum {
        Sum::default().pseudo_header(self.source, self.destination, self.protocol, len)
    }
}

impl Header {
    /// Reads the header at the start of `bytes`. Does not look at IPv4's checksum, and does not
    /// compare the length field with anything, as both may be wrong in quoted packets.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Header, Ignored> {
        match bytes.first().map(|first| first >> 4) {
            Some(4) => Header::parse_v4(bytes.first_chunk().ok_or(Ignored::Truncated)?),
            Some(6) => {
                let (header, rest) = bytes.split_first_chunk().ok_or(Ignored::Truncated)?;
                Header::parse_v6(header, rest)
            }
            Some(_) => Err(Ignored::Malformed),
            None => Err(Ignored::Truncated),
        }
    }

    fn parse_v4(header: &[u8; ipv4::HEADER_LEN]) -> Result<Header, Ignored> {
        let len = usize::from(u8_at::<{ ipv4::VERSION_IHL }, _>(header) & 0x0F) * 4;
        if len < ipv4::HEADER_LEN {
            return Err(Ignored::Malformed);
        }
        let fragment = u16_at::<{ ipv4::FRAGMENT }, _>(header);
        Ok(Header {
            source: Ipv4Addr::from(bytes_at::<{ ipv4::SOURCE }, 4, _>(header)).into(),
            destination: Ipv4Addr::from(bytes_at::<{ ipv4::DESTINATION }, 4, _>(header)).into(),
            ttl: u8_at::<{ ipv4::TTL }, _>(header),
            identification: u16_at::<{ ipv4::IDENTIFICATION }, _>(header),
            flow_label: 0,
            protocol: u8_at::<{ ipv4::PROTOCOL }, _>(header),
            fragment: Fragment::new(
                fragment & ipv4::FRAGMENT_OFFSET_MASK,
                fragment & ipv4::MORE_FRAGMENTS != 0,
            ),
            len,
            total_len: usize::from(u16_at::<{ ipv4::TOTAL_LENGTH }, _>(header)),
        })
    }

    fn parse_v6(header: &[u8; ipv6::HEADER_LEN], rest: &[u8]) -> Result<Header, Ignored> {
        let extensions = Extensions::skip(u8_at::<{ ipv6::NEXT_HEADER }, _>(header), rest)?;
        Ok(Header {
            source: Ipv6Addr::from(bytes_at::<{ ipv6::SOURCE }, 16, _>(header)).into(),
            destination: Ipv6Addr::from(bytes_at::<{ ipv6::DESTINATION }, 16, _>(header)).into(),
            ttl: u8_at::<{ ipv6::HOP_LIMIT }, _>(header),
            identification: 0,
            flow_label: u32_at::<{ ipv6::VERSION_FLOW }, _>(header) & ipv6::FLOW_LABEL_MASK,
            protocol: extensions.protocol,
            fragment: extensions.fragment,
            len: ipv6::HEADER_LEN + extensions.len,
            total_len: ipv6::HEADER_LEN + usize::from(u16_at::<{ ipv6::PAYLOAD_LENGTH }, _>(header)),
        })
    }

    /// What an outer header carries; `packet` is what the header was parsed from.
    pub(crate) fn segment<'a>(&self, packet: &'a [u8], checksums: Checksums) -> Result<Segment<'a>, Ignored> {
        if self.source.is_ipv4() {
            verify_header_checksum(packet.get(..self.len).ok_or(Ignored::Truncated)?, checksums)?;
        }
        if self.fragment != Fragment::Whole {
            return Err(Ignored::Fragment);
        }
        let len = self.total_len.checked_sub(self.len).ok_or(Ignored::Malformed)?;
        let captured = packet.get(self.len..).ok_or(Ignored::Truncated)?;
        Ok(Segment {
            source: self.source,
            destination: self.destination,
            protocol: self.protocol,
            bytes: captured.get(..len).unwrap_or(captured),
            len,
        })
    }
}

/// A zero checksum in a packet whose checksums are left to the device is one that was left to it
/// too (macOS does so on its loopback interface).
fn verify_header_checksum(header: &[u8], checksums: Checksums) -> Result<(), Ignored> {
    let left_out = header.get(ipv4::CHECKSUM..ipv4::CHECKSUM + 2) == Some(&[0, 0]);
    if Sum::default().bytes(header).is_valid() || (left_out && checksums == Checksums::Offloaded) {
        Ok(())
    } else {
        Err(Ignored::BadChecksum)
    }
}

/// The extension headers behind an IPv6 header.
struct Extensions {
    /// What follows them.
    protocol: u8,
    /// Bytes they take. May be more than there are.
    len: usize,
    fragment: Fragment,
}

impl Extensions {
    /// Skips the extension headers at the start of `bytes`; `first` is the kind of the first one.
    fn skip(first: u8, bytes: &[u8]) -> Result<Extensions, Ignored> {
        let mut extensions = Extensions {
            protocol: first,
            len: 0,
            fragment: Fragment::Whole,
        };
        for _ in 0..=MAX_EXTENSION_HEADERS {
            if !ipv6::EXTENSIONS.contains(&extensions.protocol) || extensions.is_later_fragment() {
                return Ok(extensions);
            }
            let rest = bytes.get(extensions.len..).and_then(<[u8]>::first_chunk);
            extensions.advance(rest.ok_or(Ignored::Truncated)?);
        }
        Err(Ignored::Malformed)
    }

    fn is_later_fragment(&self) -> bool {
        matches!(self.fragment, Fragment::Later(_))
    }

    /// Moves past the extension header that starts with `start` (RFC 8200 §4.3–4.6; none is shorter
    /// than 8 bytes).
    fn advance(&mut self, start: &[u8; 8]) {
        let [next, units, field_high, field_low, ..] = *start;
        if self.protocol == ipv6::FRAGMENT {
            let field = u16::from_be_bytes([field_high, field_low]);
            self.fragment = Fragment::new(field >> 3, field & 1 != 0);
            self.len += start.len();
        } else {
            self.len += (usize::from(units) + 1) * 8;
        }
        self.protocol = next;
    }
}

/// Length of the header that [`write_header`] writes, in bytes.
pub(crate) fn header_len(destination: IpAddr) -> usize {
    match destination {
        IpAddr::V4(_) => ipv4::HEADER_LEN,
        IpAddr::V6(_) => ipv6::HEADER_LEN,
    }
}

/// Writes the header for a probe with `payload_len` bytes behind it. `None` if the families differ.
pub(crate) fn write_header(out: &mut [u8], probe: &Probe, protocol: u8, payload_len: u16) -> Option<()> {
    let mut out = Writer::new(out);
    match (probe.source, probe.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            out.put(&[0x45, probe.tos])?;
            out.put_u16(payload_len.checked_add(ipv4::HEADER_LEN as u16)?)?;
            out.put_u16(probe.identification)?;
            out.put_u16(if probe.has_dont_fragment() {
                ipv4::DONT_FRAGMENT
            } else {
                0
            })?;
            out.put(&[probe.ttl, protocol, 0, 0])?;
            out.put(&source.octets())?;
            out.put(&destination.octets())?;
            let checksum = Sum::default().bytes(out.written()).checksum();
            out.set_u16(ipv4::CHECKSUM, checksum)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            out.put_u32(6 << 28 | u32::from(probe.tos) << 20 | (probe.flow_label & ipv6::FLOW_LABEL_MASK))?;
            out.put_u16(payload_len)?;
            out.put(&[protocol, probe.ttl])?;
            out.put(&source.octets())?;
            out.put(&destination.octets())
        }
        _ => None,
    }
}
