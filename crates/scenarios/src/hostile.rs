//! Forged and damaged packets around a genuine reply.
//!
//! [`damaged`] makes what accidents and broken devices make of a reply. So do [`cut`], which leaves
//! too little of it, and [`shortened`] and [`overstated`], which leave all of it that matters.
//! [`forged`] makes what somebody sends who knows who traces whom, but has not seen the probes:
//! everything right but an identifier, or but two of a quote's three marks. Checksums are right
//! unless they are the point.

use etherparse::{IpNumber, NetSlice, SlicedPacket};
use fastrand::Rng;

/// IP protocol numbers.
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP_V6: u8 = 58;
/// IPv6 extension headers that say how long they are: hop-by-hop, routing, destination options.
const EXTENSIONS: [usize; 3] = [0, 43, 60];

/// Where things are in a packet.
#[derive(Debug, Clone, Copy)]
struct Layout {
    v6: bool,
    protocol: u8,
    /// Where the transport header begins.
    transport: usize,
}

impl Layout {
    fn of(packet: &[u8]) -> Option<Layout> {
        let sliced = SlicedPacket::from_ip(packet).ok()?;
        let (v6, payload) = match sliced.net? {
            NetSlice::Ipv4(ip) => (false, ip.payload().clone()),
            NetSlice::Ipv6(ip) => (true, ip.payload().clone()),
            NetSlice::Arp(_) => return None,
        };
        let IpNumber(protocol) = payload.ip_number;
        Some(Layout {
            v6,
            protocol,
            transport: payload.payload.as_ptr() as usize - packet.as_ptr() as usize,
        })
    }

    fn is_icmp(self) -> bool {
        matches!(self.protocol, ICMP | ICMP_V6)
    }

    /// Whether it is an ICMP error, which quotes.
    fn is_error(self, packet: &[u8]) -> bool {
        let errors: &[u8] = if self.v6 { &[1, 3] } else { &[3, 11] };
        self.is_icmp()
            && packet
                .get(self.transport)
                .is_some_and(|kind| errors.contains(kind))
    }
}

/// The packet with lengths and checksums made right again.
fn repaired(mut packet: Vec<u8>, layout: Layout) -> Vec<u8> {
    let total = packet.len() as u16;
    if layout.v6 {
        put(&mut packet, 4, total.saturating_sub(40));
    } else {
        put(&mut packet, 2, total);
    }
    with_checksums(packet, layout)
}

/// The packet with its checksums made right again, as far as its headers are there.
fn with_checksums(mut packet: Vec<u8>, layout: Layout) -> Vec<u8> {
    if !layout.v6 && packet.len() >= layout.transport {
        put(&mut packet, 10, 0);
        let sum = !sum(&packet[..layout.transport]);
        put(&mut packet, 10, sum);
    }
    let at = layout.transport
        + match layout.protocol {
            TCP => 16,
            UDP => 6,
            _ => 2,
        };
    if packet.len() >= at + 2 {
        put(&mut packet, at, 0);
        let mut covered = Vec::new();
        if layout.protocol != ICMP {
            let addresses = if layout.v6 { 8..40 } else { 12..20 };
            covered.extend_from_slice(&packet[addresses]);
            covered.extend([0, layout.protocol]);
            covered.extend(((packet.len() - layout.transport) as u16).to_be_bytes());
        }
        covered.extend_from_slice(&packet[layout.transport..]);
        let sum = !sum(&covered);
        put(&mut packet, at, if sum == 0 { 0xFFFF } else { sum });
    }
    packet
}

/// RFC 1071.
fn sum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    }
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    sum as u16
}

fn put(packet: &mut [u8], at: usize, value: u16) {
    if let Some(field) = packet.get_mut(at..at + 2) {
        field.copy_from_slice(&value.to_be_bytes());
    }
}

fn flip(packet: &mut [u8], at: usize, bits: u8) {
    if let Some(byte) = packet.get_mut(at) {
        *byte ^= bits;
    }
}

impl Layout {
    /// How many bytes from the transport header on say all that a reply has to say: of an error the
    /// beginning of the quote that RFC 792 asks for (its IP header and 8 bytes), of an echo reply
    /// what of the probe's random bytes must come back, of a segment its header with the options,
    /// of a datagram what of the probe an echo service sends back.
    fn needed(self, packet: &[u8]) -> usize {
        let at = |offset: usize| usize::from(packet.get(self.transport + offset).copied().unwrap_or(0));
        match self.protocol {
            TCP => (at(12) >> 4) * 4,
            UDP => 16,
            _ if self.is_error(packet) && self.v6 => {
                let (mut next, mut end) = (at(8 + 6), 8 + 40);
                while EXTENSIONS.contains(&next) {
                    (next, end) = (at(end), end + (at(end + 1) + 1) * 8);
                }
                end + 8
            }
            _ if self.is_error(packet) => 8 + (at(8) & 0xF) * 4 + 8,
            _ => 8 + 6,
        }
    }
}

/// Lengths that lie. The packet's own length is not among them.
fn wrong_lengths(packet: &[u8], layout: Layout) -> impl Iterator<Item = u16> {
    let right = packet.len() as u16 - if layout.v6 { 40 } else { 0 };
    [0, 1, 19, 39, 1500, u16::MAX]
        .into_iter()
        .filter(move |length| *length != right)
}

/// Whether a packet whose header says this length would be longer than it is: so look packets of
/// which only the beginning was captured, and of a segment or datagram that is enough. An ICMP
/// message must be there to its end, for its checksum.
fn looks_captured_in_part(packet: &[u8], layout: Layout, length: u16) -> bool {
    !layout.is_icmp() && usize::from(length) + if layout.v6 { 40 } else { 0 } > packet.len()
}

fn with_length(packet: &[u8], layout: Layout, length: u16) -> Vec<u8> {
    let mut packet = packet.to_vec();
    put(&mut packet, if layout.v6 { 4 } else { 2 }, length);
    packet
}

/// The reply cut so short that it does not say any more which probe it answers, or with lengths
/// that say so. Nothing of this may be credited to a probe.
pub fn cut(genuine: &[u8], rng: &mut Rng) -> Vec<Vec<u8>> {
    let Some(layout) = Layout::of(genuine) else {
        return Vec::new();
    };
    let mut all = Vec::new();
    let header = match layout.protocol {
        TCP => layout.needed(genuine),
        UDP => 8,
        _ => genuine.len() - layout.transport,
    };
    // Cut anywhere, and cut by somebody who makes it look right.
    for _ in 0..6 {
        all.push(genuine[..rng.usize(..layout.transport + header)].to_vec());
    }
    let whole = genuine.len() - layout.transport;
    // A datagram says its length itself.
    let too_short = if layout.protocol == UDP {
        whole
    } else {
        layout.needed(genuine)
    };
    for keep in 0..too_short.min(whole) {
        // It is the last bytes that count.
        if keep + 8 >= too_short || rng.bool() {
            all.push(repaired(genuine[..layout.transport + keep].to_vec(), layout));
        }
    }
    for length in wrong_lengths(genuine, layout) {
        let packet = with_length(genuine, layout, length);
        let in_part = looks_captured_in_part(genuine, layout, length);
        // The header's own checksum.
        if !layout.v6 || !in_part {
            all.push(packet.clone());
        }
        if !in_part {
            all.push(with_checksums(packet, layout));
        }
    }
    rng.shuffle(&mut all);
    all
}

/// The reply with more behind it, or with less, down to the last byte that matters: answers like
/// itself, but without labels.
pub fn shortened(genuine: &[u8], rng: &mut Rng) -> Vec<Vec<u8>> {
    let Some(layout) = Layout::of(genuine) else {
        return Vec::new();
    };
    // Longer than it says.
    let mut all = vec![[genuine, &[0xA5; 60]].concat()];
    let whole = genuine.len() - layout.transport;
    let needed = layout.needed(genuine);
    if layout.is_icmp() {
        for keep in needed..whole.min(needed + 8) {
            all.push(repaired(genuine[..layout.transport + keep].to_vec(), layout));
        }
    } else {
        // Captured in part.
        for keep in needed..whole.min(needed + 2) {
            all.push(genuine[..layout.transport + keep].to_vec());
        }
    }
    if layout.is_error(genuine) {
        for units in [1, 5, 16, 255] {
            let mut packet = genuine.to_vec();
            packet[layout.transport + if layout.v6 { 4 } else { 5 }] = units;
            all.push(with_checksums(packet, layout));
        }
    }
    rng.shuffle(&mut all);
    all
}

/// Segments and datagrams that say to be longer than they are: answers, as if captured in part, but
/// not with the right length of what they carry.
pub fn overstated(genuine: &[u8], _: &mut Rng) -> Vec<Vec<u8>> {
    let Some(layout) = Layout::of(genuine) else {
        return Vec::new();
    };
    wrong_lengths(genuine, layout)
        .filter(|length| looks_captured_in_part(genuine, layout, *length))
        .map(|length| with_checksums(with_length(genuine, layout, length), layout))
        .collect()
}

/// What accidents make of a reply: lengths of headers that lie, wrong checksums, fragments,
/// nonsense. Nothing of this may be credited to a probe.
pub fn damaged(genuine: &[u8], rng: &mut Rng) -> Vec<Vec<u8>> {
    let Some(layout) = Layout::of(genuine) else {
        return Vec::new();
    };
    let mut all = Vec::new();
    if !layout.v6 {
        for words in [0, 4, 6, 15] {
            let mut packet = genuine.to_vec();
            packet[0] = 0x40 | words;
            all.push(packet);
        }
    }
    if layout.protocol == TCP {
        for words in [0, 4, 15] {
            let mut packet = genuine.to_vec();
            packet[layout.transport + 12] = words << 4;
            all.push(with_checksums(packet, layout));
        }
    }
    // A bit wrong in what the checksums cover.
    for _ in 0..12 {
        let mut packet = genuine.to_vec();
        let from = if layout.v6 { layout.transport } else { 0 };
        flip(&mut packet, rng.usize(from..genuine.len()), 1 << rng.u8(..8));
        all.push(packet);
    }
    all.extend(fragments(genuine, layout));
    all.extend(loops(genuine, layout));
    // Nonsense.
    for _ in 0..4 {
        let length = rng.usize(..200);
        all.push((0..length).map(|_| rng.u8(..)).collect());
        let mut packet = genuine[..layout.transport].to_vec();
        packet.extend((0..length).map(|_| rng.u8(..)));
        all.push(repaired(packet, layout));
    }
    // A length that was as long as can be is no longer one that lies.
    all.retain(|packet| packet != genuine);
    rng.shuffle(&mut all);
    all
}

/// Fragments, and an IPv6 chain of headers that does not end.
fn fragments(genuine: &[u8], layout: Layout) -> Vec<Vec<u8>> {
    if layout.v6 {
        let mut chain = genuine[..40].to_vec();
        chain[6] = 60;
        for _ in 0..100 {
            chain.extend([60, 0, 0, 0, 0, 0, 0, 0]);
        }
        chain.extend_from_slice(&genuine[40..]);
        let length = chain.len() as u16 - 40;
        put(&mut chain, 4, length);
        let mut fragment = genuine[..40].to_vec();
        fragment[6] = 44;
        fragment.extend([genuine[6], 0, 0, 9, 0, 0, 0, 1]);
        fragment.extend_from_slice(&genuine[40..]);
        let length = fragment.len() as u16 - 40;
        put(&mut fragment, 4, length);
        return vec![chain, fragment];
    }
    [0x2000, 0x0001, 0x2010]
        .into_iter()
        .map(|field| {
            let mut packet = genuine.to_vec();
            put(&mut packet, 6, field);
            with_checksums(packet, layout)
        })
        .collect()
}

/// The reply inside an error, also inside itself, and as other kinds of messages.
fn loops(genuine: &[u8], layout: Layout) -> Vec<Vec<u8>> {
    let error = |inner: &[u8], kind: u8, code: u8| {
        let mut packet = genuine[..if layout.v6 { 40 } else { 20 }].to_vec();
        let protocol = if layout.v6 { ICMP_V6 } else { ICMP };
        packet[0] = if layout.v6 { 0x60 } else { 0x45 };
        packet[if layout.v6 { 6 } else { 9 }] = protocol;
        let transport = packet.len();
        packet.extend([kind, code, 0, 0, 0, 0, 0, 0]);
        packet.extend_from_slice(inner);
        repaired(
            packet,
            Layout {
                protocol,
                transport,
                ..layout
            },
        )
    };
    let time_exceeded = if layout.v6 { 3 } else { 11 };
    let mut nested = genuine.to_vec();
    let mut all = Vec::new();
    for _ in 0..4 {
        nested = error(&nested, time_exceeded, 0);
        all.push(nested.clone());
    }
    if layout.is_error(genuine) {
        // The right quote in messages that answer no probe: reassembly time exceeded, redirect,
        // source quench, parameter problem, packet too big, and types that nobody has defined.
        let quote = genuine[layout.transport + 8..].to_vec();
        all.push(error(&quote, time_exceeded, 1));
        let kinds: &[u8] = if layout.v6 {
            &[2, 4, 100, 137, 255]
        } else {
            &[4, 5, 12, 30, 255]
        };
        all.extend(kinds.iter().map(|kind| error(&quote, *kind, 0)));
    }
    all
}

/// Whether it is a SYN-ACK or RST-ACK that must acknowledge our sequence number. Not one with
/// options that our SYNs do not ask for: that answers the kernel's own SYN, whose sequence number
/// nobody but the kernel knows.
fn answers_a_syn_probe(packet: &[u8], transport: usize) -> bool {
    const FIN_SYN_RST: u8 = 0x07;
    const ACK: u8 = 0x10;
    const WINDOW_SCALE: u8 = 3;
    const SACK_PERMITTED: u8 = 4;
    let flags = packet[transport + 13];
    flags & FIN_SYN_RST != 0
        && flags & ACK != 0
        && !has_option(packet, transport, &[WINDOW_SCALE, SACK_PERMITTED])
}

/// Whether a segment has an option of one of these kinds.
fn has_option(packet: &[u8], transport: usize, kinds: &[u8]) -> bool {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    let end = transport + usize::from(packet[transport + 12] >> 4) * 4;
    let mut options = packet.get(transport + 20..end).unwrap_or_default();
    loop {
        let length = match options {
            [] | [END, ..] | [_] => return false,
            [NO_OPERATION, ..] => 1,
            [kind, ..] if kinds.contains(kind) => return true,
            [_, length, ..] => usize::from(*length).max(2),
        };
        options = options.get(length..).unwrap_or_default();
    }
}

/// What somebody makes of an acknowledgment on an established connection who knows addresses and
/// ports, but not where the sequence numbers are: resets, and acknowledgments of what nobody sent.
fn blind_segments(genuine: &[u8], layout: Layout, rng: &mut Rng) -> Vec<Vec<u8>> {
    const ACK: u8 = 0x10;
    const RST: u8 = 0x04;
    const SACK: u8 = 5;
    let transport = layout.transport;
    // What acknowledges without blocks may answer a SYN, and then acknowledges what nobody else
    // knows.
    if genuine[transport + 13] & 0x3F != ACK || !has_option(genuine, transport, &[SACK]) {
        return Vec::new();
    }
    // In the upper half: no distance that a path or a greeting could have.
    let bits = rng.u8(1..);
    let mut all = Vec::new();
    for flags in [RST, RST | ACK] {
        let mut packet = genuine.to_vec();
        packet[transport + 13] = flags;
        flip(&mut packet, transport + 4, bits);
        all.push(with_checksums(packet, layout));
    }
    // With and without selective acknowledgments.
    let mut packet = genuine.to_vec();
    flip(&mut packet, transport + 8, bits);
    let end = transport + usize::from(genuine[transport + 12] >> 4) * 4;
    let mut option = transport + 20;
    while option + 1 < end.min(genuine.len()) {
        match (genuine[option], usize::from(genuine[option + 1])) {
            (0, _) => break,
            (1, _) => option += 1,
            (SACK, length) => {
                for edge in (option + 2..option + length).step_by(4) {
                    flip(&mut packet, edge, bits);
                }
                option += length.max(2);
            }
            (_, length) => option += length.max(2),
        }
    }
    all.push(with_checksums(packet.clone(), layout));
    packet.truncate(transport + 20);
    packet[transport + 12] = 5 << 4;
    all.push(repaired(packet, layout));
    all
}

/// What carries no identifier but the ports, and so may only be taken from and to the right ones: a
/// reset that acknowledges nothing, a datagram of a service. From the target of the quoted probe,
/// with other ports or from somebody else.
fn bare_answers(
    genuine: &[u8],
    layout: Layout,
    quoted_transport: usize,
    protocol: u8,
    bits: u8,
) -> Vec<Vec<u8>> {
    const RST: u8 = 0x04;
    let rest: &[u8] = match protocol {
        TCP => &[0, 0, 0, 1, 0, 0, 0, 0, 5 << 4, RST, 0, 0, 0, 0, 0, 0],
        _ => &[0, 13, 0, 0, b'h', b'e', b'l', b'l', b'o'],
    };
    let Some(right) = from_target(genuine, layout, quoted_transport, protocol, rest) else {
        return Vec::new();
    };
    let (transport, address) = if layout.v6 { (40, 8) } else { (20, 12) };
    // Never to another port that the same client probes from, which differ in the lower byte only.
    [address + 1, transport, transport + 1, transport + 2]
        .into_iter()
        .map(|at| {
            let mut packet = right.clone();
            flip(&mut packet, at, bits);
            let layout = Layout {
                protocol,
                transport,
                ..layout
            };
            with_checksums(packet, layout)
        })
        .collect()
}

/// A reset from the target of a quoted segment, by somebody who knows its addresses and ports only.
fn blind_reset(genuine: &[u8], layout: Layout, quoted_segment: usize, rng: &mut Rng) -> Option<Vec<u8>> {
    const RST_ACK: u8 = 0x14;
    let mut rest: Vec<u8> = (0..8).map(|_| rng.u8(..)).collect();
    rest.extend([5 << 4, RST_ACK, 0, 0, 0, 0, 0, 0]);
    from_target(genuine, layout, quoted_segment, TCP, &rest)
}

/// A packet from the quoted destination to the quoted source, between the quoted ports; `rest`
/// follows these.
fn from_target(
    genuine: &[u8],
    layout: Layout,
    quoted_transport: usize,
    protocol: u8,
    rest: &[u8],
) -> Option<Vec<u8>> {
    let quote = layout.transport + 8;
    let (header, source, destination) = if layout.v6 {
        (40, quote + 8..quote + 24, quote + 24..quote + 40)
    } else {
        (20, quote + 12..quote + 16, quote + 16..quote + 20)
    };
    let (source, destination) = (genuine.get(source)?, genuine.get(destination)?);
    let ports = genuine.get(quoted_transport..quoted_transport + 4)?;
    let mut packet = genuine[..header].to_vec();
    packet[0] = if layout.v6 { 0x60 } else { 0x45 };
    packet[if layout.v6 { 6 } else { 9 }] = protocol;
    packet.truncate(header - 2 * source.len());
    packet.extend([destination, source].concat());
    packet.extend([ports[2], ports[3], ports[0], ports[1]]);
    packet.extend(rest);
    Some(repaired(
        packet,
        Layout {
            protocol,
            transport: header,
            ..layout
        },
    ))
}

/// What somebody sends who knows all but one identifier; of a quote's marks (port or echo
/// identifier, checksum, IPv4 identification or IPv6 flow label) one. Nothing of this may be
/// credited to a probe.
pub fn forged(genuine: &[u8], rng: &mut Rng) -> Vec<Vec<u8>> {
    let Some(layout) = Layout::of(genuine) else {
        return Vec::new();
    };
    let mut all = Vec::new();
    // Always the highest bit, of the upper byte: never another of the same trace's identifiers,
    // which are near each other.
    let bits = rng.u8(..) | 0x80;
    let mut change = |at: &[usize]| {
        let mut packet = genuine.to_vec();
        for at in at {
            flip(&mut packet, *at, bits);
        }
        all.push(with_checksums(packet, layout));
    };
    let destination = if layout.v6 { 24 } else { 16 };
    // To somebody else.
    change(&[destination + 1]);
    let transport = layout.transport;
    match layout.protocol {
        TCP => {
            // From somebody else, another port, to another port.
            change(&[destination - 1]);
            change(&[transport]);
            change(&[transport + 1]);
            change(&[transport + 2]);
            change(&[transport + 3]);
            if answers_a_syn_probe(genuine, transport) {
                change(&[transport + 8]);
                change(&[transport + 9]);
                change(&[transport + 10]);
            }
            all.extend(blind_segments(genuine, layout, rng));
        }
        UDP => {
            change(&[destination - 1]);
            change(&[transport]);
            change(&[transport + 1]);
            change(&[transport + 2]);
        }
        _ if layout.is_error(genuine) => {
            let quote = transport + 8;
            let v4_header = usize::from(genuine.get(quote).map_or(5, |first| first & 0xF)) * 4;
            let (quoted_destination, inner) = if layout.v6 {
                (quote + 24, quote + 40)
            } else {
                (quote + 16, quote + v4_header)
            };
            let protocol = genuine.get(quote + if layout.v6 { 6 } else { 9 }).copied();
            // About a packet to somebody else.
            change(&[quoted_destination + 3]);
            // Of the IPv4 identification the upper byte, of the IPv6 flow label the middle.
            let network = quote + if layout.v6 { 2 } else { 4 };
            match protocol {
                Some(TCP) => {
                    change(&[inner + 2]);
                    change(&[inner + 4, network]);
                    change(&[inner + 5, network]);
                    change(&[inner + 6, network]);
                    all.extend(blind_reset(genuine, layout, inner, rng));
                    all.extend(bare_answers(genuine, layout, inner, TCP, bits));
                }
                Some(UDP) => {
                    change(&[inner + 3]);
                    change(&[inner, network]);
                    change(&[inner + 6, network]);
                    change(&[inner, inner + 6, network]);
                    if !layout.v6 {
                        // Another port changes what the checksum says, too.
                        change(&[inner]);
                        change(&[inner + 1]);
                    }
                    all.extend(bare_answers(genuine, layout, inner, UDP, bits));
                }
                Some(ICMP | ICMP_V6) => {
                    change(&[inner + 2, network]);
                    change(&[inner + 3, network]);
                    change(&[inner + 4, network]);
                    change(&[inner + 5, network]);
                    change(&[inner + 3, inner + 4]);
                    if !layout.v6 {
                        // Another attempt than the IPv4 identification says.
                        change(&[inner + 6]);
                    }
                }
                _ => {}
            }
        }
        _ => {
            // An echo reply: from somebody else, to another identifier, an impossible sequence
            // number, without our cookie.
            change(&[destination - 1]);
            change(&[transport + 4]);
            change(&[transport + 5]);
            change(&[transport + 6]);
            change(&[transport + 8]);
            change(&[transport + 13]);
            all.push(repaired(genuine[..transport + 8].to_vec(), layout));
        }
    }
    rng.shuffle(&mut all);
    all
}
