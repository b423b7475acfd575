//! IP packets as bytes: the few fields that routers look at or change, and checksums (RFC 1071, RFC
//! 1624).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMP_V6: u8 = 58;

const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;

/// A packet whose IP header was checked: every header field is inside the bytes, and the transport
/// offset is too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Packet {
    bytes: Vec<u8>,
    /// Where the transport header starts; at most `bytes.len()`.
    transport: usize,
    protocol: u8,
    /// Any fragment, the first included.
    fragment: bool,
}

impl Packet {
    /// Checks the IP header and cuts link-layer padding off. `None` when a length field does not
    /// fit.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        match bytes.first()? >> 4 {
            4 => Self::parse_v4(bytes),
            6 => Self::parse_v6(bytes),
            _ => None,
        }
    }

    fn parse_v4(bytes: &[u8]) -> Option<Self> {
        let header = usize::from(bytes.first()? & 0x0F) * 4;
        let total = usize::from(u16_at(bytes, 2)?);
        if header < IPV4_HEADER || total < header || bytes.len() < total {
            return None;
        }
        let flags_and_offset = u16_at(bytes, 6)?;
        Some(Self {
            bytes: bytes.get(..total)?.to_vec(),
            transport: header,
            protocol: *bytes.get(9)?,
            fragment: flags_and_offset & 0x3FFF != 0,
        })
    }

    fn parse_v6(bytes: &[u8]) -> Option<Self> {
        let total = IPV6_HEADER + usize::from(u16_at(bytes, 4)?);
        Self::behind_v6_headers(bytes.get(..total)?)
    }

    /// A packet of exactly these bytes. `None` when its headers before the transport header are not
    /// all in them.
    fn behind_v6_headers(bytes: &[u8]) -> Option<Self> {
        let mut protocol = *bytes.get(6)?;
        let mut transport = IPV6_HEADER;
        let mut fragment = false;
        // Hop-by-hop options, routing, destination options (length in units of 8 beyond the first
        // 8), fragment (8).
        while matches!(protocol, 0 | 43 | 44 | 60) {
            let length = match protocol {
                44 => {
                    fragment = true;
                    8
                }
                _ => 8 + usize::from(*bytes.get(transport + 1)?) * 8,
            };
            protocol = *bytes.get(transport)?;
            transport += length;
        }
        (transport <= bytes.len()).then(|| Self {
            bytes: bytes.to_vec(),
            transport,
            protocol,
            fragment,
        })
    }

    /// A packet with a fresh header: no options, DF set in IPv4.
    pub(crate) fn build(
        source: IpAddr,
        destination: IpAddr,
        ttl: u8,
        identification: u16,
        protocol: u8,
        transport: &[u8],
    ) -> Self {
        let mut bytes = Vec::with_capacity(IPV6_HEADER + transport.len());
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                bytes.extend([0x45, 0]);
                bytes.extend(((IPV4_HEADER + transport.len()) as u16).to_be_bytes());
                bytes.extend(identification.to_be_bytes());
                bytes.extend([0x40, 0, ttl, protocol, 0, 0]);
                bytes.extend(source.octets());
                bytes.extend(destination.octets());
                let sum = checksum(&bytes, 0);
                put_u16(&mut bytes, 10, sum);
            }
            (source, destination) => {
                bytes.extend([0x60, 0, 0, 0]);
                bytes.extend((transport.len() as u16).to_be_bytes());
                bytes.extend([protocol, ttl]);
                bytes.extend(v6(source).octets());
                bytes.extend(v6(destination).octets());
            }
        }
        let offset = bytes.len();
        bytes.extend(transport);
        Self {
            bytes,
            transport: offset,
            protocol,
            fragment: false,
        }
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    pub(crate) fn is_v6(&self) -> bool {
        self.bytes[0] >> 4 == 6
    }

    pub(crate) fn protocol(&self) -> u8 {
        self.protocol
    }

    pub(crate) fn is_fragment(&self) -> bool {
        self.fragment
    }

    /// Where the transport header starts.
    pub(crate) fn transport_offset(&self) -> usize {
        self.transport
    }

    pub(crate) fn transport(&self) -> &[u8] {
        &self.bytes[self.transport..]
    }

    pub(crate) fn source(&self) -> IpAddr {
        self.address(12, 8)
    }

    pub(crate) fn destination(&self) -> IpAddr {
        self.address(16, 24)
    }

    fn address(&self, v4_at: usize, v6_at: usize) -> IpAddr {
        if self.is_v6() {
            let mut octets = [0; 16];
            octets.copy_from_slice(&self.bytes[v6_at..v6_at + 16]);
            Ipv6Addr::from(octets).into()
        } else {
            let mut octets = [0; 4];
            octets.copy_from_slice(&self.bytes[v4_at..v4_at + 4]);
            Ipv4Addr::from(octets).into()
        }
    }

    /// IPv6 flow label; `None` in IPv4.
    pub(crate) fn flow_label(&self) -> Option<u32> {
        self.is_v6()
            .then(|| u32::from_be_bytes([0, self.bytes[1] & 0x0F, self.bytes[2], self.bytes[3]]))
    }

    /// IPv4 identification; 0 in IPv6.
    pub(crate) fn identification(&self) -> u16 {
        if self.is_v6() {
            0
        } else {
            u16_at(&self.bytes, 4).unwrap_or(0)
        }
    }

    /// Whether it is an IPv4 packet that is no fragment and has DF set (RFC 6864 §4).
    pub(crate) fn is_atomic(&self) -> bool {
        !self.is_v6() && !self.fragment && self.bytes[6] & 0x40 != 0
    }

    /// Rewrites the IPv4 identification; does nothing in IPv6.
    pub(crate) fn set_identification(&mut self, identification: u16) {
        if !self.is_v6() {
            self.replace_v4_header(4, &identification.to_be_bytes());
        }
    }

    /// Rewrites the IPv6 flow label (20 bits); does nothing in IPv4.
    pub(crate) fn set_flow_label(&mut self, label: u32) {
        if self.is_v6() {
            let [_, high, middle, low] = label.to_be_bytes();
            self.bytes[1] = self.bytes[1] & 0xF0 | high & 0x0F;
            self.bytes[2] = middle;
            self.bytes[3] = low;
        }
    }

    pub(crate) fn ttl(&self) -> u8 {
        self.bytes[if self.is_v6() { 7 } else { 8 }]
    }

    pub(crate) fn set_ttl(&mut self, ttl: u8) {
        if self.is_v6() {
            self.bytes[7] = ttl;
        } else {
            self.replace_v4_header(8, &[ttl, self.bytes[9]]);
        }
    }

    /// Rewrites the type of service or traffic class.
    pub(crate) fn set_traffic_class(&mut self, class: u8) {
        if self.is_v6() {
            self.bytes[0] = 0x60 | class >> 4;
            self.bytes[1] = class << 4 | self.bytes[1] & 0x0F;
        } else {
            self.replace_v4_header(0, &[self.bytes[0], class]);
        }
    }

    /// Replaces an even number of IPv4 header bytes at an even offset; a wrong checksum stays
    /// wrong.
    fn replace_v4_header(&mut self, at: usize, new: &[u8]) {
        let sum = adjust(
            u16_at(&self.bytes, 10).unwrap_or(0),
            &self.bytes[at..at + new.len()],
            new,
        );
        self.bytes[at..at + new.len()].copy_from_slice(new);
        put_u16(&mut self.bytes, 10, sum);
    }

    /// Rewrites the source address and the checksums that cover it.
    pub(crate) fn set_source(&mut self, address: IpAddr) {
        self.set_address(if self.is_v6() { 8 } else { 12 }, address);
    }

    /// Rewrites the destination address and the checksums that cover it.
    pub(crate) fn set_destination(&mut self, address: IpAddr) {
        self.set_address(if self.is_v6() { 24 } else { 16 }, address);
    }

    fn set_address(&mut self, at: usize, address: IpAddr) {
        let new = octets(address);
        let Some(old) = self.bytes.get(at..at + new.len()).map(<[u8]>::to_vec) else {
            return;
        };
        self.adjust_transport_checksum(&old, &new, true);
        if self.is_v6() {
            self.bytes[at..at + new.len()].copy_from_slice(&new);
        } else {
            self.replace_v4_header(at, &new);
        }
    }

    /// Replaces two transport bytes (a port or an echo identifier) and adjusts the transport
    /// checksum.
    pub(crate) fn set_transport_u16(&mut self, offset: usize, value: u16) {
        let at = self.transport + offset;
        let Some(old) = self.bytes.get(at..at + 2).map(<[u8]>::to_vec) else {
            return;
        };
        self.adjust_transport_checksum(&old, &value.to_be_bytes(), false);
        put_u16(&mut self.bytes, at, value);
    }

    /// Keeps the transport checksum in step with a change of `old` to `new`, when it is inside the
    /// bytes (a quoted packet may be cut before it) and covers the change (ICMP in IPv4 has no
    /// pseudo header).
    fn adjust_transport_checksum(&mut self, old: &[u8], new: &[u8], pseudo_header: bool) {
        if self.protocol == ICMP && pseudo_header {
            return;
        }
        let Some(sum) = self.transport_checksum() else {
            return;
        };
        // RFC 768: zero means that the sender computed none.
        if self.protocol == UDP && sum == 0 {
            return;
        }
        let sum = match adjust(sum, old, new) {
            0 if self.protocol == UDP => 0xFFFF,
            sum => sum,
        };
        self.set_transport_checksum(sum);
    }

    fn checksum_offset(&self) -> Option<usize> {
        match self.protocol {
            ICMP | ICMP_V6 => Some(self.transport + 2),
            UDP => Some(self.transport + 6),
            TCP => Some(self.transport + 16),
            _ => None,
        }
    }

    /// The ICMP, UDP or TCP checksum field; `None` when it is not inside the bytes.
    pub(crate) fn transport_checksum(&self) -> Option<u16> {
        u16_at(&self.bytes, self.checksum_offset()?)
    }

    /// Writes the ICMP, UDP or TCP checksum field, right or wrong.
    pub(crate) fn set_transport_checksum(&mut self, sum: u16) {
        if let Some(at) = self.checksum_offset() {
            put_u16(&mut self.bytes, at, sum);
        }
    }

    /// Blanks SACK-permitted (4) and timestamps (8) in a TCP SYN with NOPs; recomputes its checksum
    /// unless it was wrong.
    pub(crate) fn strip_syn_options(&mut self) {
        let header = self
            .transport()
            .get(12)
            .map_or(0, |offset| usize::from(offset >> 4) * 4);
        let is_syn = self.transport().get(13).is_some_and(|flags| flags & 0x02 != 0);
        if self.protocol != TCP || self.fragment || !is_syn || self.transport().len() < header {
            return;
        }
        let checksum_ok = self.transport_checksum_ok();
        let (source, destination) = (self.source(), self.destination());
        let transport = &mut self.bytes[self.transport..];
        let mut at = 20;
        while at < header {
            let kind = transport[at];
            let length = match kind {
                0 => break,
                1 => 1,
                _ => transport.get(at + 1).map_or(0, |length| usize::from(*length)),
            };
            let Some(option) = transport
                .get_mut(at..at + length)
                .filter(|option| !option.is_empty())
            else {
                break;
            };
            if matches!(kind, 4 | 8) {
                option.fill(1);
            }
            at += length;
        }
        if checksum_ok {
            put_u16(transport, 16, 0);
            fill_checksum(source, destination, TCP, transport);
        }
    }

    /// Adds 8 bytes between IP header and transport: four-byte router alert (RFC 2113) and NOPs in
    /// IPv4, a destination options header with padding (RFC 8200 §4.6) in IPv6.
    pub(crate) fn add_options(&mut self) {
        // IPv4 headers end at 60 bytes.
        if !self.is_v6() && self.transport > 52 {
            return;
        }
        if self.is_v6() {
            let next = std::mem::replace(&mut self.bytes[6], 60);
            self.bytes
                .splice(IPV6_HEADER..IPV6_HEADER, [next, 0, 1, 4, 0, 0, 0, 0]);
            let length = u16_at(&self.bytes, 4).unwrap_or(0).wrapping_add(8);
            put_u16(&mut self.bytes, 4, length);
        } else {
            self.bytes
                .splice(IPV4_HEADER..IPV4_HEADER, [0x94, 4, 0, 0, 1, 1, 1, 1]);
            self.bytes[0] += 2;
            let length = u16_at(&self.bytes, 2).unwrap_or(0).wrapping_add(8);
            put_u16(&mut self.bytes, 2, length);
            put_u16(&mut self.bytes, 10, 0);
            let header = self.transport + 8;
            let sum = checksum(&self.bytes[..header], 0);
            put_u16(&mut self.bytes, 10, sum);
        }
        self.transport += 8;
    }

    /// Sends an ICMP error on to another address with another body; computes its checksum unless it
    /// was wrong before.
    pub(crate) fn replace_message(&mut self, destination: IpAddr, mut message: Vec<u8>, checksum_ok: bool) {
        self.set_destination(destination);
        if checksum_ok {
            put_u16(&mut message, 2, 0);
            fill_checksum(self.source(), destination, self.protocol, &mut message);
        }
        self.bytes.splice(self.transport.., message);
    }

    /// Whether the IPv4 header checksum is right; always true for IPv6.
    pub(crate) fn header_checksum_ok(&self) -> bool {
        self.is_v6() || checksum(&self.bytes[..self.transport], 0) == 0
    }

    /// Whether the ICMP, UDP or TCP checksum is right. A UDP checksum of zero is right in IPv4 only
    /// (RFC 8200 §8.1).
    pub(crate) fn transport_checksum_ok(&self) -> bool {
        let transport = self.transport();
        match self.protocol {
            ICMP => checksum(transport, 0) == 0,
            UDP if u16_at(transport, 6) == Some(0) => !self.is_v6(),
            _ => checksum(transport, self.pseudo_header_sum()) == 0,
        }
    }

    fn pseudo_header_sum(&self) -> u32 {
        pseudo_header_sum(
            self.source(),
            self.destination(),
            self.protocol,
            self.transport().len(),
        )
    }

    /// Parses a quoted packet, which may be cut anywhere behind its IP headers and whose total
    /// length is that of the original. [`Packet::bytes`] are the quoted ones.
    pub(crate) fn parse_quote(bytes: &[u8]) -> Option<Self> {
        match bytes.first()? >> 4 {
            4 => {
                let transport = usize::from(bytes.first()? & 0x0F) * 4;
                let whole = transport >= IPV4_HEADER && bytes.len() >= transport;
                whole.then_some(Self {
                    bytes: bytes.to_vec(),
                    transport,
                    protocol: *bytes.get(9)?,
                    fragment: false,
                })
            }
            6 => Self::behind_v6_headers(bytes),
            _ => None,
        }
    }
}

/// Sum of the pseudo header (RFC 768, RFC 9293 §3.1, RFC 8200 §8.1).
pub(crate) fn pseudo_header_sum(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> u32 {
    add(&octets(source), 0) + add(&octets(destination), 0) + u32::from(protocol) + length as u32
}

/// Writes the checksum at `offset` of a transport header that has zeros there.
pub(crate) fn fill_checksum(source: IpAddr, destination: IpAddr, protocol: u8, transport: &mut [u8]) {
    let (offset, start) = match protocol {
        ICMP => (2, 0),
        ICMP_V6 => (
            2,
            pseudo_header_sum(source, destination, protocol, transport.len()),
        ),
        UDP => (
            6,
            pseudo_header_sum(source, destination, protocol, transport.len()),
        ),
        _ => (
            16,
            pseudo_header_sum(source, destination, protocol, transport.len()),
        ),
    };
    let sum = match checksum(transport, start) {
        0 if protocol == UDP => 0xFFFF,
        sum => sum,
    };
    put_u16(transport, offset, sum);
}

/// A UDP header with its payload, between an address and port and another.
pub(crate) fn datagram(from: (IpAddr, u16), to: (IpAddr, u16), payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(8 + payload.len());
    bytes.extend(from.1.to_be_bytes());
    bytes.extend(to.1.to_be_bytes());
    bytes.extend(((8 + payload.len()) as u16).to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(payload);
    fill_checksum(from.0, to.0, UDP, &mut bytes);
    bytes
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from(u16_at(bytes, at)?) << 16 | u32::from(u16_at(bytes, at + 2)?))
}

/// Does nothing when the position is outside.
pub(crate) fn put_u16(bytes: &mut [u8], at: usize, value: u16) {
    if let Some(place) = bytes.get_mut(at..at + 2) {
        place.copy_from_slice(&value.to_be_bytes());
    }
}

/// Ones' complement checksum (RFC 1071) of `bytes` and an already summed `start`.
pub(crate) fn checksum(bytes: &[u8], start: u32) -> u16 {
    !fold(add(bytes, start))
}

fn add(bytes: &[u8], start: u32) -> u32 {
    bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)))
        .fold(start, |sum, word| sum + word)
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    sum as u16
}

/// The checksum after `old` was replaced by `new` (RFC 1624 equation 3); both start at an even
/// offset.
fn adjust(sum: u16, old: &[u8], new: &[u8]) -> u16 {
    let without = u32::from(!sum) + u32::from(!fold(add(old, 0)));
    !fold(add(new, without))
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}
