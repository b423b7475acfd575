//! Bodies of the fuzz targets: each takes any bytes and panics when something is wrong.

use traceroute_wire::bpf_device::{LinkType, Records};
use traceroute_wire::ddnpm;
use traceroute_wire::filter::{FilterParameters, program};
use traceroute_wire::{
    Checksums, Family, Ignored, MAX_PROBE_LEN, MplsLabel, MplsStack, Probe, Reply, ReplyKind, decode,
};

use super::input::Input;
use super::{bpf, oracle, packets};

/// A target by its name, which is also the name of its corpus.
pub type Target = (&'static str, fn(&[u8]));

pub const ALL: [Target; 7] = [
    ("decode", any_packet),
    ("quoted", quoted),
    ("mutate_reply", mutate_reply),
    ("encode", encode),
    ("filter", filter),
    ("bpf_records", bpf_records),
    ("driver_read", driver_read),
];

/// Decodes in both ways and checks what must hold for any packet.
fn check_decode(packet: &[u8]) -> Result<Reply, Ignored> {
    let verified = decode(packet, Checksums::Verify);
    let unverified = decode(packet, Checksums::Offloaded);
    if let Ok(reply) = unverified {
        assert_eq!(reply.source.is_ipv4(), reply.destination.is_ipv4());
        oracle::check_reply(packet, &reply);
    }
    match (verified, unverified) {
        (Err(Ignored::BadChecksum), _) => {}
        (verified, unverified) => assert_eq!(verified, unverified),
    }
    // Link-layer padding changes nothing, where there is a packet.
    if verified.is_ok() && packet.len() < 2000 {
        let padded = [packet, &[0xA5; 7]].concat();
        if !is_cut(packet) {
            assert_eq!(decode(&padded, Checksums::Verify), verified);
        }
    }
    verified
}

fn is_cut(packet: &[u8]) -> bool {
    let at = |at: usize| usize::from(u16::from_be_bytes([packet[at], packet[at + 1]]));
    packet.len() < if packet[0] >> 4 == 4 { at(2) } else { at(4) + 40 }
}

/// Any bytes, as they are and with checksums made right.
pub fn any_packet(data: &[u8]) {
    let _ = check_decode(data);
    let mut repaired = data.to_vec();
    packets::repair(&mut repaired);
    let _ = check_decode(&repaired);
}

/// Any quoted packet in a valid ICMP error.
pub fn quoted(data: &[u8]) {
    let mut input = Input(data);
    let (v4, length, selector) = (input.flag(), input.byte(), input.byte());
    let (router, us) = addresses(v4);
    let quote = &input.0[..input.0.len().min(60_000)];
    let packet = match selector.checked_sub(0x80) {
        Some(code) => packets::unreachable(router, us, code, length, quote),
        None => packets::time_exceeded(router, us, length, quote),
    };
    match check_decode(&packet) {
        Ok(reply) => {
            let ReplyKind::IcmpError { quoted, mpls, .. } = reply.kind else {
                panic!("{reply:?}")
            };
            let announced = usize::from(length) * if v4 { 4 } else { 8 };
            if announced == 0 || announced >= 128 {
                let at = (announced != 0).then(|| announced - 28);
                assert_eq!(MplsStack::without_headers(&quote[28..], 28, at), mpls);
            }
            assert_eq!(reply.source, router);
            assert_eq!(quoted.source.is_ipv4(), v4);
            assert_ne!(quoted.tag(), Some(0xFFFF));
        }
        Err(Ignored::Truncated | Ignored::ForeignQuote) => {}
        Err(why) => panic!("{why:?}"),
    }
}

fn addresses(v4: bool) -> (std::net::IpAddr, std::net::IpAddr) {
    if v4 {
        (packets::v4("203.0.113.1"), packets::v4("192.0.2.10"))
    } else {
        (packets::v6("2001:db8:ffff::1"), packets::v6("2001:db8::10"))
    }
}

/// A valid reply, damaged.
pub fn mutate_reply(data: &[u8]) {
    let mut input = Input(data);
    let mut packet = valid_reply(&mut input);
    check_decode(&packet).expect("a valid reply");
    let repair = input.flag();
    for _ in 0..input.byte() % 8 {
        let (at, value) = (usize::from(input.u16()) % packet.len(), input.byte());
        packet[at] = value;
    }
    match input.byte() % 4 {
        0 => packet.truncate(usize::from(input.u16()) % (packet.len() + 1)),
        1 => packet.extend(input.bytes()),
        _ => {}
    }
    if repair {
        packets::repair(&mut packet);
    }
    let _ = check_decode(&packet);
}

/// One of the replies that a probe may get.
pub fn valid_reply(input: &mut Input<'_>) -> Vec<u8> {
    let v4 = input.flag();
    let kind = input.byte() % 7;
    let probe = input.probe(v4);
    let (router, _) = addresses(v4);
    let (us, target) = (probe.source, probe.destination);
    let mut buffer = [0; MAX_PROBE_LEN];
    let sent = probe.encode(&mut buffer).expect("one family");
    let ports = (input.u16(), input.u16());
    match kind {
        0 => packets::time_exceeded(router, us, 0, sent),
        1 => {
            let label = MplsLabel {
                label: input.u32() >> 12,
                traffic_class: input.byte() & 7,
                bottom: input.flag(),
                ttl: input.byte(),
            };
            packets::time_exceeded_with_mpls(router, us, &sent[..sent.len().min(128)], input.flag(), &[label])
        }
        2 => packets::unreachable(target, us, input.byte(), 0, sent),
        3 => packets::echo(target, us, true, ports.0, ports.1, &input.bytes()),
        4 => packets::tcp(
            target,
            us,
            ports,
            (input.u32(), input.u32()),
            0x12,
            &input.array::<20>(),
            &[],
        ),
        5 => packets::tcp(
            target,
            us,
            ports,
            (input.u32(), input.u32()),
            0x10,
            &input.array::<36>(),
            &input.bytes(),
        ),
        _ => packets::udp(target, us, ports, &input.bytes()),
    }
}

/// Any probe: encoded, checked by another parser, quoted back, with and without a NAT in between.
pub fn encode(data: &[u8]) {
    let mut input = Input(data);
    let v4 = input.flag();
    let probe = input.probe(v4);
    check_probe(&probe, input.address(v4), input.u16());
}

/// Checks one probe; a NAT shows it with `nat_source` and `nat_id`.
pub fn check_probe(probe: &Probe, nat_source: std::net::IpAddr, nat_id: u16) {
    let mut buffer = [0xEE; MAX_PROBE_LEN];
    let packet = probe.encode(&mut buffer).expect("one family").to_vec();
    assert_eq!(probe.packet_len(), packet.len());
    oracle::check_complete(&packet);

    let (router, us) = addresses(probe.source.is_ipv4());
    let start = if probe.source.is_ipv4() { 20 } else { 40 };
    for quote in [&packet[..], &packet[..start + 8]] {
        let reply = check_decode(&packets::time_exceeded(router, us, 0, quote)).expect("a reply");
        let ReplyKind::IcmpError { quoted, mpls, .. } = reply.kind else {
            panic!("{reply:?}")
        };
        let is_whole = quote.len() == packet.len();
        assert_eq!(quoted, packets::expected_quote(probe, &packet, is_whole));
        assert_eq!(quoted.tag(), packets::tag(probe));
        assert!(mpls.is_empty());
    }

    let mut translated = packet;
    packets::nat(&mut translated, nat_source, nat_id);
    let reply =
        check_decode(&packets::time_exceeded(router, us, 0, &translated[..start + 8])).expect("a reply");
    let ReplyKind::IcmpError { quoted, .. } = reply.kind else {
        panic!("{reply:?}")
    };
    assert_eq!(quoted.source, nat_source);
    assert_eq!(quoted.tag(), packets::tag(probe));
}

/// The filter lets through whatever decodes, and nothing that cannot be a reply.
pub fn filter(data: &[u8]) {
    let mut input = Input(data);
    let link_header_len = [0, 4, 14][usize::from(input.byte() % 3)];
    let blocks = input.bytes();
    let mut packet = if input.flag() {
        valid_reply(&mut input)
    } else {
        input.0.to_vec()
    };
    if packet.is_empty() {
        return;
    }
    for _ in 0..input.byte() % 4 {
        let (at, value) = (usize::from(input.u16()) % packet.len(), input.byte());
        packet[at] = value;
    }
    packets::repair(&mut packet);
    check_filter(&packet, &blocks, link_header_len);
}

/// Checks the filters of both families on one packet.
pub fn check_filter(packet: &[u8], port_blocks: &[u8], link_header_len: u32) {
    let frame = [&vec![0xEE; link_header_len as usize][..], packet].concat();
    for (family, version) in [(Family::V4, 4), (Family::V6, 6)] {
        let parameters = FilterParameters {
            family,
            port_blocks,
            link_header_len,
            snap_len: 1500,
            segment_snap_len: 1400,
        };
        let captured = bpf::run(&program(&parameters), &frame);
        assert!([0, 1400, 1500].contains(&captured));
        let accepted = captured != 0;
        let has_version = packet.first().is_some_and(|first| first >> 4 == version);
        assert!(has_version || !accepted, "a packet of the other family");
        if let (true, Ok(reply)) = (has_version, decode(packet, Checksums::Offloaded)) {
            let wanted = is_wanted(&reply, port_blocks);
            let is_sorted_out_later = matches!(packet[6], 0 | 43 | 44 | 60) && version == 6;
            assert_eq!(accepted, wanted || is_sorted_out_later, "{reply:?}");
            let is_segment = matches!(reply.kind, ReplyKind::Tcp(_) | ReplyKind::Udp(_));
            let snap_len = if is_segment { 1400 } else { 1500 };
            assert!(
                captured == snap_len || !accepted || is_sorted_out_later,
                "{reply:?}"
            );
        }
        if accepted {
            assert!(may_be_reply(packet, port_blocks), "{packet:x?}");
        }
    }
}

pub const LINK_TYPES: [LinkType; 5] = [
    LinkType::Null,
    LinkType::Ethernet,
    LinkType::Ppp,
    LinkType::Raw,
    LinkType::Loop,
];

/// Any bytes as what was read from a BPF device, and as what is behind one record's header.
pub fn bpf_records(data: &[u8]) {
    let mut input = Input(data);
    let link = LINK_TYPES[usize::from(input.byte()) % LINK_TYPES.len()];
    let frame = input.0;
    check_records(link, frame);
    let buffer = packets::bpf_record(18, frame);
    let records: Vec<_> = Records::new(&buffer).collect();
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].frame, frame);
    check_records(link, &buffer);
}

/// Records lie in the buffer in order, and packets at the end of their frames.
fn check_records(link: LinkType, buffer: &[u8]) {
    let mut end = 0;
    for record in Records::new(buffer) {
        let start = record.frame.as_ptr() as usize - buffer.as_ptr() as usize;
        assert!(start >= end + 18, "overlaps the record before it");
        end = start + record.frame.len();
        assert!(end <= buffer.len());
        if let Some(packet) = link.packet(record.frame) {
            assert!(record.frame.ends_with(packet));
            assert!(record.frame.len() >= packet.len() + link.header_len());
            assert!(matches!(packet[0] >> 4, 4 | 6));
            let _ = check_decode(packet);
        }
    }
}

/// Any bytes as a read from the Windows driver, and as the packet behind a header with any sizes in
/// it.
pub fn driver_read(data: &[u8]) {
    check_driver_read(data);
    let mut input = Input(data);
    let sizes = [0x08, 0x28].map(|offset| (offset, input.flag().then(|| u64::from(input.u16()))));
    let packet = input.0;
    let mut bytes = packets::driver_read(3, 5, packet);
    assert_eq!(ddnpm::parse(&bytes).map(|captured| captured.packet), Some(packet));
    for (offset, size) in sizes {
        if let Some(size) = size {
            bytes[offset..offset + 8].copy_from_slice(&size.to_le_bytes());
        }
    }
    check_driver_read(&bytes);
}

/// The packet lies in what was read, behind the header, and is not longer than the driver says.
fn check_driver_read(bytes: &[u8]) {
    let Some(captured) = ddnpm::parse(bytes) else {
        return;
    };
    let start = captured.packet.as_ptr() as usize - bytes.as_ptr() as usize;
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    assert!(start >= ddnpm::HEADER_LEN && start as u64 == word(0x08));
    assert!(start + captured.packet.len() <= bytes.len());
    assert!(captured.packet.len() as u64 <= word(0x28));
    assert_eq!((captured.skipped, captured.stamp), (word(0x10), word(0x40)));
    let _ = check_decode(captured.packet);
}

fn is_wanted(reply: &Reply, port_blocks: &[u8]) -> bool {
    match reply.kind {
        ReplyKind::Tcp(tcp) => port_blocks.contains(&((tcp.destination_port >> 8) as u8)),
        ReplyKind::Udp(udp) => port_blocks.contains(&((udp.destination_port >> 8) as u8)),
        ReplyKind::Echo { .. } | ReplyKind::IcmpError { .. } => true,
    }
}

/// What the filter may accept, read off the packet by hand.
fn may_be_reply(packet: &[u8], port_blocks: &[u8]) -> bool {
    let v4 = packet[0] >> 4 == 4;
    let (protocol, start) = if v4 {
        (packet[9], usize::from(packet[0] & 0xF) * 4)
    } else {
        (packet[6], 40)
    };
    let at = |offset: usize| packet.get(start + offset).copied();
    if v4 && (packet[6] & 0x1F != 0 || packet[7] != 0) {
        return false;
    }
    match protocol {
        6 | 17 => at(2).is_some_and(|block| port_blocks.contains(&block)),
        1 => v4 && matches!(at(0), Some(0 | 3 | 11)),
        58 => !v4 && matches!(at(0), Some(1 | 3 | 129)),
        0 | 43 | 44 | 60 => !v4,
        _ => false,
    }
}
