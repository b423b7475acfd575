//! Comparison with etherparse's lax parser.

use std::net::{IpAddr, Ipv6Addr};

use etherparse::{LaxNetSlice, LaxSlicedPacket, TransportSlice};
use traceroute_wire::{Quoted, QuotedTransport, Reply, ReplyKind, TcpReply, UdpReply};

struct Net<'a> {
    source: IpAddr,
    destination: IpAddr,
    ttl: u8,
    identification: u16,
    flow_label: u32,
    protocol: u8,
    payload: &'a [u8],
    has_extensions: bool,
}

fn net<'a>(packet: &LaxSlicedPacket<'a>) -> Net<'a> {
    match packet.net.as_ref().expect("an IP header") {
        LaxNetSlice::Ipv4(ip) => Net {
            source: ip.header().source_addr().into(),
            destination: ip.header().destination_addr().into(),
            ttl: ip.header().ttl(),
            identification: ip.header().identification(),
            flow_label: 0,
            protocol: ip.payload().ip_number.0,
            payload: ip.payload().payload,
            has_extensions: false,
        },
        LaxNetSlice::Ipv6(ip) => Net {
            source: Ipv6Addr::from(ip.header().source()).into(),
            destination: Ipv6Addr::from(ip.header().destination()).into(),
            ttl: ip.header().hop_limit(),
            identification: 0,
            flow_label: ip.header().flow_label().value(),
            protocol: ip.payload().ip_number.0,
            payload: ip.payload().payload,
            has_extensions: ip.header().next_header() != ip.payload().ip_number
                || matches!(ip.header().next_header().0, 0 | 43 | 44 | 60),
        },
        LaxNetSlice::Arp(_) => panic!("an IP packet is no ARP packet"),
    }
}

/// Panics when etherparse sees other things in `packet` than `reply` says.
pub fn check_reply(packet: &[u8], reply: &Reply) {
    let parsed = LaxSlicedPacket::from_ip(packet).expect("headers that decode() could read");
    let net = net(&parsed);
    assert_eq!((reply.source, reply.destination), (net.source, net.destination));
    assert_eq!(reply.ttl, net.ttl);
    // etherparse refuses extension headers that are not in the recommended order.
    if net.has_extensions && parsed.transport.is_none() {
        return;
    }
    match (&reply.kind, parsed.transport) {
        (ReplyKind::Tcp(ours), Some(TransportSlice::Tcp(theirs))) => check_tcp(ours, &theirs),
        (ReplyKind::Udp(ours), Some(TransportSlice::Udp(theirs))) => {
            check_udp(ours, &theirs, reply.source.is_ipv4());
        }
        (
            ReplyKind::Echo {
                identifier, sequence, ..
            },
            Some(transport),
        ) => {
            let bytes = icmp_bytes(&transport);
            assert_eq!(
                bytes[4..8],
                [identifier.to_be_bytes(), sequence.to_be_bytes()].concat()
            );
            assert!(matches!((net.protocol, bytes[0]), (1, 0) | (58, 129)));
        }
        (ReplyKind::IcmpError { quoted, .. }, Some(transport)) => {
            check_quoted(&icmp_bytes(&transport)[8..], quoted);
        }
        (ours, theirs) => panic!("{ours:?} is not {theirs:?}"),
    }
}

fn icmp_bytes<'a>(transport: &TransportSlice<'a>) -> &'a [u8] {
    match transport {
        TransportSlice::Icmpv4(icmp) => icmp.slice(),
        TransportSlice::Icmpv6(icmp) => icmp.slice(),
        other => panic!("{other:?} is not ICMP"),
    }
}

fn check_tcp(ours: &TcpReply, theirs: &etherparse::TcpSlice<'_>) {
    assert_eq!(ours.source_port, theirs.source_port());
    assert_eq!(ours.destination_port, theirs.destination_port());
    assert_eq!(ours.sequence, theirs.sequence_number());
    assert_eq!(ours.acknowledgment, theirs.acknowledgment_number());
    let flags = (ours.flags.syn, ours.flags.ack, ours.flags.rst, ours.flags.fin);
    assert_eq!(flags, (theirs.syn(), theirs.ack(), theirs.rst(), theirs.fin()));
    assert!(usize::from(ours.payload_len) >= theirs.payload().len());
    check_tcp_options(ours, theirs);
}

fn check_tcp_options(ours: &TcpReply, theirs: &etherparse::TcpSlice<'_>) {
    use etherparse::TcpOptionElement as Option_;
    let mut edges = Vec::new();
    let mut timestamps = None;
    for option in theirs.options_iterator() {
        match option {
            Ok(Option_::SelectiveAcknowledgement(first, more)) => {
                edges.push(first.0);
                edges.extend(more.iter().flatten().map(|block| block.0));
            }
            Ok(Option_::SelectiveAcknowledgementPermitted) => {
                assert_eq!(ours.sack.permitted, ours.flags.syn);
            }
            Ok(Option_::Timestamp(value, echo)) => timestamps = Some((value, echo)),
            Ok(_) => {}
            // It stops at unknown kinds, which are to be skipped, and at odd lengths.
            Err(_) => return,
        }
    }
    edges.truncate(4);
    assert_eq!(ours.sack.edges(), edges);
    assert_eq!(ours.timestamps.map(|ours| (ours.value, ours.echo)), timestamps);
}

fn check_udp(ours: &UdpReply, theirs: &etherparse::UdpSlice<'_>, is_v4: bool) {
    assert_eq!(ours.source_port, theirs.source_port());
    assert_eq!(ours.destination_port, theirs.destination_port());
    assert_eq!(ours.payload_len + 8, theirs.length());
    if let Some(identification) = ours.echoed {
        let payload = theirs.payload();
        if is_v4 {
            let rest = payload.strip_prefix(b"NSMNC\0").expect("the signature");
            assert_eq!(rest[..2], identification.to_be_bytes());
        } else {
            assert!(payload.starts_with(b"NSMN"));
            assert_eq!(ours.payload_len, identification);
        }
    }
}

/// Panics when etherparse sees another packet in the quote.
pub fn check_quoted(quote: &[u8], ours: &Quoted) {
    let parsed = LaxSlicedPacket::from_ip(quote).expect("headers that decode() could read");
    let net = net(&parsed);
    assert_eq!((ours.source, ours.destination), (net.source, net.destination));
    assert_eq!((ours.ttl, ours.identification), (net.ttl, net.identification));
    assert_eq!(ours.flow_label, net.flow_label);
    // The quoted length is not to be relied upon, but etherparse does; and see above for extension
    // headers.
    let Some(header) = net.payload.first_chunk::<8>() else {
        return;
    };
    if net.has_extensions && parsed.stop_err.is_some() {
        return;
    }
    let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    match ours.transport {
        QuotedTransport::Echo {
            identifier,
            sequence,
            checksum,
        } => {
            assert_eq!((checksum, identifier, sequence), (word(2), word(4), word(6)));
            assert!(matches!((net.protocol, header[0]), (1, 8) | (58, 128)));
        }
        QuotedTransport::Udp {
            source_port,
            destination_port,
            length,
            checksum,
        } => {
            assert_eq!((source_port, destination_port), (word(0), word(2)));
            assert_eq!((length, checksum), (word(4), word(6)));
            assert_eq!(net.protocol, 17);
        }
        QuotedTransport::Tcp {
            source_port,
            destination_port,
            sequence,
            ..
        } => {
            assert_eq!((source_port, destination_port), (word(0), word(2)));
            assert_eq!(sequence, u32::from(word(4)) << 16 | u32::from(word(6)));
            assert_eq!(net.protocol, 6);
        }
    }
}

/// Panics when `packet` is not one that a strict parser takes and whose checksums are all right.
pub fn check_complete(packet: &[u8]) {
    use etherparse::{NetSlice, SlicedPacket};
    let parsed = SlicedPacket::from_ip(packet).expect("a complete packet");
    let (v4, v6) = match parsed.net.expect("an IP header") {
        NetSlice::Ipv4(ip) => {
            let header = ip.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            assert_eq!(usize::from(header.total_len), packet.len());
            (Some(header), None)
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header().to_header();
            assert_eq!(usize::from(header.payload_length) + 40, packet.len());
            (None, Some(header))
        }
        NetSlice::Arp(_) => panic!("an IP packet is no ARP packet"),
    };
    let (stored, computed) = match parsed.transport.expect("a transport") {
        TransportSlice::Icmpv4(icmp) => (
            icmp.header().checksum,
            icmp.header().icmp_type.calc_checksum(icmp.payload()),
        ),
        TransportSlice::Icmpv6(icmp) => {
            let ip = v6.expect("ICMPv6 over IPv6");
            assert!(icmp.is_checksum_valid(ip.source, ip.destination));
            (0, 0)
        }
        TransportSlice::Udp(udp) => {
            let header = udp.to_header();
            assert_eq!(usize::from(header.length), udp.slice().len());
            let computed = match (&v4, &v6) {
                (Some(ip), _) => header.calc_checksum_ipv4(ip, udp.payload()),
                (_, ip) => header.calc_checksum_ipv6(ip.as_ref().expect("IPv6"), udp.payload()),
            };
            (header.checksum, computed.expect("a length in range"))
        }
        TransportSlice::Tcp(tcp) => {
            let computed = match (&v4, &v6) {
                (Some(ip), _) => tcp.calc_checksum_ipv4(ip.source, ip.destination),
                (_, ip) => {
                    let ip = ip.as_ref().expect("IPv6");
                    tcp.calc_checksum_ipv6(ip.source, ip.destination)
                }
            };
            (tcp.checksum(), computed.expect("a length in range"))
        }
        TransportSlice::Igmp(_) => panic!("no probe is IGMP"),
    };
    assert_eq!(stored, computed);
}
