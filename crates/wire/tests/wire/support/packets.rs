//! Packets, written without the crate's own encoder so that both have to be right.

use std::net::{IpAddr, Ipv6Addr};

use etherparse::LaxSlicedPacket;
use traceroute_wire::bpf_device::LinkType;
use traceroute_wire::ddnpm::{HEADER_LEN, signature};
use traceroute_wire::{MplsLabel, Probe, ProbeKind, Quoted, QuotedTransport};

pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMPV6: u8 = 58;

pub fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let digits = std::str::from_utf8(&digits).unwrap();
    (0..digits.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&digits[i..i + 2], 16).unwrap())
        .collect()
}

pub fn v4(text: &str) -> IpAddr {
    IpAddr::V4(text.parse().unwrap())
}

pub fn v6(text: &str) -> IpAddr {
    IpAddr::V6(text.parse().unwrap())
}

/// The checksum of RFC 1071, word by word.
pub fn checksum(parts: &[&[u8]]) -> u16 {
    let bytes = parts.concat();
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    !(sum as u16)
}

pub fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, len: usize) -> Vec<u8> {
    let mut bytes = octets(source);
    bytes.extend(octets(destination));
    bytes.extend((len as u32).to_be_bytes());
    bytes.extend([0, 0, 0, protocol]);
    bytes
}

/// Writes the checksum of a transport at `at`.
fn seal(source: IpAddr, destination: IpAddr, protocol: u8, at: usize, bytes: &mut [u8]) {
    bytes[at..at + 2].fill(0);
    let mut pseudo = pseudo_header(source, destination, protocol, bytes.len());
    if protocol == ICMP {
        pseudo.clear();
    }
    let mut value = checksum(&[&pseudo, bytes]);
    if protocol == UDP && value == 0 {
        value = 0xFFFF;
    }
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// An IP packet with hop limit 57.
pub fn ip(source: IpAddr, destination: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    ip_with_options(source, destination, protocol, &[], payload)
}

/// `options` are IPv4 options, or IPv6 extension headers whose first is a destination options
/// header.
pub fn ip_with_options(
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    options: &[u8],
    payload: &[u8],
) -> Vec<u8> {
    let mut packet = Vec::new();
    let len = (options.len() + payload.len()) as u16;
    if source.is_ipv4() {
        packet.extend([0x45 + (options.len() / 4) as u8, 0]);
        packet.extend((len + 20).to_be_bytes());
        packet.extend([0x12, 0x34, 0, 0, 57, protocol, 0, 0]);
    } else {
        packet.extend([0x60, 0, 0, 0]);
        packet.extend(len.to_be_bytes());
        packet.extend([if options.is_empty() { protocol } else { 60 }, 57]);
    }
    packet.extend(octets(source));
    packet.extend(octets(destination));
    packet.extend(options);
    if source.is_ipv4() {
        let sum = checksum(&[&packet]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    packet.extend(payload);
    packet
}

/// An ICMP message with `rest` behind its first 4 bytes.
pub fn icmp(source: IpAddr, destination: IpAddr, kind: u8, code: u8, rest: &[u8]) -> Vec<u8> {
    let protocol = if source.is_ipv4() { ICMP } else { ICMPV6 };
    let mut message = vec![kind, code, 0, 0];
    message.extend(rest);
    seal(source, destination, protocol, 2, &mut message);
    ip(source, destination, protocol, &message)
}

/// Time exceeded quoting `quote`; `length` is RFC 4884's length attribute in its own units.
pub fn time_exceeded(source: IpAddr, destination: IpAddr, length: u8, quote: &[u8]) -> Vec<u8> {
    let kind = if source.is_ipv4() { 11 } else { 3 };
    error(source, destination, (kind, 0), length, quote)
}

pub fn unreachable(source: IpAddr, destination: IpAddr, code: u8, length: u8, quote: &[u8]) -> Vec<u8> {
    let kind = if source.is_ipv4() { 3 } else { 1 };
    error(source, destination, (kind, code), length, quote)
}

fn error(source: IpAddr, destination: IpAddr, (kind, code): (u8, u8), length: u8, quote: &[u8]) -> Vec<u8> {
    let unused = if source.is_ipv4() {
        [0, length, 0, 0]
    } else {
        [length, 0, 0, 0]
    };
    icmp(source, destination, kind, code, &[&unused, quote].concat())
}

pub fn echo(
    source: IpAddr,
    destination: IpAddr,
    reply: bool,
    identifier: u16,
    sequence: u16,
    payload: &[u8],
) -> Vec<u8> {
    let kind = match (source.is_ipv4(), reply) {
        (true, true) => 0,
        (true, false) => 8,
        (false, true) => 129,
        (false, false) => 128,
    };
    let rest = [&identifier.to_be_bytes()[..], &sequence.to_be_bytes(), payload].concat();
    icmp(source, destination, kind, 0, &rest)
}

pub fn udp(source: IpAddr, destination: IpAddr, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let mut datagram = Vec::new();
    datagram.extend(ports.0.to_be_bytes());
    datagram.extend(ports.1.to_be_bytes());
    datagram.extend((8 + payload.len() as u16).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    seal(source, destination, UDP, 6, &mut datagram);
    ip(source, destination, UDP, &datagram)
}

/// A TCP segment; `options` must be a multiple of 4 bytes long.
pub fn tcp(
    source: IpAddr,
    destination: IpAddr,
    ports: (u16, u16),
    numbers: (u32, u32),
    flags: u8,
    options: &[u8],
    payload: &[u8],
) -> Vec<u8> {
    let mut segment = Vec::new();
    segment.extend(ports.0.to_be_bytes());
    segment.extend(ports.1.to_be_bytes());
    segment.extend(numbers.0.to_be_bytes());
    segment.extend(numbers.1.to_be_bytes());
    segment.extend([(5 + options.len() / 4) as u8 * 16, flags, 0xFF, 0xFF, 0, 0, 0, 0]);
    segment.extend(options);
    segment.extend(payload);
    seal(source, destination, TCP, 16, &mut segment);
    ip(source, destination, TCP, &segment)
}

/// An RFC 4884 extension structure with one RFC 4950 object.
pub fn mpls_extension(labels: &[MplsLabel]) -> Vec<u8> {
    let mut extension = vec![0x20, 0, 0, 0];
    extension.extend((4 + 4 * labels.len() as u16).to_be_bytes());
    extension.extend([1, 1]);
    for label in labels {
        let word = label.label << 12
            | u32::from(label.traffic_class) << 9
            | u32::from(label.bottom) << 8
            | u32::from(label.ttl);
        extension.extend(word.to_be_bytes());
    }
    let sum = checksum(&[&extension]);
    extension[2..4].copy_from_slice(&sum.to_be_bytes());
    extension
}

/// Time exceeded whose quote is padded to 128 bytes and followed by labels.
pub fn time_exceeded_with_mpls(
    source: IpAddr,
    destination: IpAddr,
    quote: &[u8],
    announced: bool,
    labels: &[MplsLabel],
) -> Vec<u8> {
    let mut body = quote.to_vec();
    body.resize(128, 0);
    body.extend(mpls_extension(labels));
    let units = if source.is_ipv4() { 32 } else { 16 };
    time_exceeded(source, destination, if announced { units } else { 0 }, &body)
}

/// Makes the outer IPv4 checksum and the transport checksum right, as far as the packet has them
/// whole.
pub fn repair(packet: &mut [u8]) {
    let Some(first) = packet.first() else { return };
    if first >> 4 == 4 {
        let len = usize::from(first & 0xF) * 4;
        if let Some(header) = packet.get_mut(..len).filter(|header| header.len() >= 20) {
            header[10..12].fill(0);
            let sum = checksum(&[header]);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
        }
    }
    let Some((protocol, start, len, source, destination)) = transport(packet) else {
        return;
    };
    let at = match protocol {
        ICMP | ICMPV6 => 2,
        TCP => 16,
        UDP => 6,
        _ => return,
    };
    let Some(mut bytes) = packet.get_mut(start..start + len) else {
        return;
    };
    if protocol == UDP && bytes.len() >= 8 {
        let len = usize::from(u16::from_be_bytes([bytes[4], bytes[5]])).clamp(8, bytes.len());
        bytes = &mut bytes[..len];
    }
    if bytes.len() >= at + 2 {
        seal(source, destination, protocol, at, bytes);
    }
}

/// Where the transport of a packet is, by another parser: protocol, start, length, addresses.
fn transport(packet: &[u8]) -> Option<(u8, usize, usize, IpAddr, IpAddr)> {
    let parsed = LaxSlicedPacket::from_ip(packet).ok()?;
    let (source, destination): (IpAddr, IpAddr) = match parsed.net.as_ref()? {
        etherparse::LaxNetSlice::Ipv4(ip) => (
            ip.header().source_addr().into(),
            ip.header().destination_addr().into(),
        ),
        etherparse::LaxNetSlice::Ipv6(ip) => (
            Ipv6Addr::from(ip.header().source()).into(),
            Ipv6Addr::from(ip.header().destination()).into(),
        ),
        etherparse::LaxNetSlice::Arp(_) => return None,
    };
    let payload = parsed.net.as_ref()?.ip_payload_ref()?;
    let start = payload.payload.as_ptr() as usize - packet.as_ptr() as usize;
    Some((
        payload.ip_number.0,
        start,
        payload.payload.len(),
        source,
        destination,
    ))
}

/// What a quote of `probe` must decode to: of the whole packet, or of its first 8 bytes after the
/// IP header.
pub fn expected_quote(probe: &Probe, packet: &[u8], is_whole: bool) -> Quoted {
    let transport = &packet[if probe.source.is_ipv4() { 20 } else { 40 }..];
    let checksum_at = |at: usize| u16::from_be_bytes([transport[at], transport[at + 1]]);
    Quoted {
        source: probe.source,
        destination: probe.destination,
        ttl: probe.ttl,
        identification: if probe.source.is_ipv4() {
            probe.identification
        } else {
            0
        },
        flow_label: if probe.source.is_ipv4() {
            0
        } else {
            probe.flow_label & 0xF_FFFF
        },
        transport: match probe.kind {
            ProbeKind::Echo {
                identifier, sequence, ..
            } => QuotedTransport::Echo {
                identifier,
                sequence,
                checksum: checksum_at(2),
            },
            ProbeKind::Udp {
                source_port,
                destination_port,
                ..
            } => QuotedTransport::Udp {
                source_port,
                destination_port,
                length: transport.len() as u16,
                checksum: checksum_at(6),
            },
            ProbeKind::TcpSyn {
                source_port,
                destination_port,
                sequence,
                timestamps,
            }
            | ProbeKind::TcpSack {
                source_port,
                destination_port,
                sequence,
                timestamps,
                ..
            } => QuotedTransport::Tcp {
                source_port,
                destination_port,
                sequence,
                timestamp: timestamps.filter(|_| is_whole).map(|timestamps| timestamps.value),
            },
        },
    }
}

/// The tag that the probe was built with.
pub fn tag(probe: &Probe) -> Option<u16> {
    match probe.kind {
        ProbeKind::Echo { tag, .. } | ProbeKind::Udp { tag, .. } => Some(tag),
        ProbeKind::TcpSyn { .. } | ProbeKind::TcpSack { .. } => None,
    }
}

/// Rewrites the source address and the source port or echo identifier as a NAT does, and computes
/// the checksum anew.
pub fn nat(packet: &mut [u8], source: IpAddr, id: u16) {
    let (address_at, start) = if source.is_ipv4() { (12, 20) } else { (8, 40) };
    let address = octets(source);
    packet[address_at..address_at + address.len()].copy_from_slice(&address);
    let protocol = if source.is_ipv4() { packet[9] } else { packet[6] };
    let id_at = if matches!(protocol, ICMP | ICMPV6) {
        start + 4
    } else {
        start
    };
    packet[id_at..id_at + 2].copy_from_slice(&id.to_be_bytes());
    repair(packet);
}

/// A record as a BPF device of macOS delivers it.
pub fn bpf_record(header_len: u16, frame: &[u8]) -> Vec<u8> {
    let mut bytes: Vec<u8> = [1_700_000_000, 123_456, frame.len() as u32, frame.len() as u32]
        .into_iter()
        .flat_map(u32::to_ne_bytes)
        .collect();
    bytes.extend(header_len.to_ne_bytes());
    bytes.resize(usize::from(header_len), 0);
    bytes.extend(frame);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// A read from the Windows driver.
pub fn driver_read(skipped: u64, stamp: u64, packet: &[u8]) -> Vec<u8> {
    let length = packet.len() as u64;
    let fields = [
        signature(0x18),
        HEADER_LEN as u64,
        skipped,
        // Filter, direction.
        1,
        0,
        length,
        // Family, process.
        2,
        u64::MAX,
        stamp,
    ];
    let mut bytes: Vec<u8> = fields.iter().flat_map(|field| field.to_le_bytes()).collect();
    bytes.extend(packet);
    bytes
}

/// A packet behind the header of its link; Ethernet with a VLAN tag if `tagged`.
pub fn frame(link: LinkType, tagged: bool, packet: &[u8]) -> Vec<u8> {
    let v4 = packet[0] >> 4 == 4;
    let header = match link {
        LinkType::Null => u32::to_ne_bytes(if v4 { 2 } else { 30 }).to_vec(),
        LinkType::Loop => vec![0, 0, 0, if v4 { 2 } else { 24 }],
        LinkType::Ppp => vec![0xFF, 3, 0, if v4 { 0x21 } else { 0x57 }],
        LinkType::Raw => vec![],
        LinkType::Ethernet => {
            let ethertype = if v4 { [8, 0] } else { [0x86, 0xDD] };
            let tag: &[u8] = if tagged { &[0x81, 0, 0x40, 5] } else { &[] };
            [&[0x45; 12], tag, &ethertype].concat()
        }
    };
    [&header[..], packet].concat()
}
