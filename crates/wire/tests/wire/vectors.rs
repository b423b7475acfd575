//! Packets byte by byte. The hexadecimal ones were written by scapy, which computed their
//! checksums.

use std::net::IpAddr;

use traceroute_wire::filter::{FilterParameters, program};
use traceroute_wire::{
    Checksums, ECHO_PAYLOAD, Family, IcmpError, Ignored, LEAST_SNAP_LEN, MAX_PROBE_LEN, MplsLabel, MplsStack,
    Probe, ProbeKind, Quoted, QuotedTransport, Reply, ReplyKind, SackInfo, TcpFlags, TcpReply, TcpTimestamps,
    UdpReply, decode,
};

use crate::support::bpf;
use crate::support::packets::{self, hex, v4, v6};

const UDP_PROBE: &str = "45000026a36540000111ea1cc000020ac6336407 c350829a0012395e 4e534d4e4300a3651234";
const ECHO6_PROBE: &str = "6001234500103a0120010db800000000000000000000001020010db8000100000000000000000007\
    8000d69e12340009 6162636465661122";
const SACK_PROBE: &str = "45000035004d00000906c531c000020ac6336407 c35101bb00001391000003e9801804008f930000\
    0101080a1122334455667788 09";
const SYN6_PROBE: &str = "600543210014060320010db800000000000000000000001020010db8000100000000000000000007\
    c35101bbdeadbeef0000000050020400edae0000";
const SYN_ACK: &str = "4500003c0001400037065776c6336407c000020a 01bbc351000003e8deadbef0a012ffffe5030000\
    020405b4 0402 080a0102030405060708 01 030307";
const MPLS_HEADER: &str = "450000ac00010000fa01c243cb007101c000020a";
const MPLS_EXTENSION: &str = "2000bd16 000c0101 05dc1a01 000101fe";

fn us() -> IpAddr {
    v4("192.0.2.10")
}

fn target() -> IpAddr {
    v4("198.51.100.7")
}

fn us6() -> IpAddr {
    v6("2001:db8::10")
}

fn target6() -> IpAddr {
    v6("2001:db8:1::7")
}

fn verified(packet: &[u8]) -> Result<Reply, Ignored> {
    decode(packet, Checksums::Verify)
}

fn kind(packet: &[u8]) -> ReplyKind {
    verified(packet).unwrap().kind
}

fn quoted(packet: &[u8]) -> Quoted {
    match kind(packet) {
        ReplyKind::IcmpError { quoted, .. } => quoted,
        other => panic!("{other:?}"),
    }
}

fn labels(packet: &[u8]) -> Vec<MplsLabel> {
    match kind(packet) {
        ReplyKind::IcmpError { mpls, .. } => mpls.labels().collect(),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn assert_encodes(probe: &Probe, expected: &str) {
    let mut buffer = [0xEE; MAX_PROBE_LEN];
    assert_eq!(probe.encode(&mut buffer).unwrap(), hex(expected));
}

fn udp_probe() -> Probe {
    // 0xBEB9 = checksum 0x395E + 0xC000 + 0x020A + source port 0xC350, in ones' complement.
    let kind = ProbeKind::Udp {
        source_port: 50000,
        destination_port: 33434,
        tag: 0xBEB9,
        payload_len: 10,
    };
    let (source, destination) = (us(), target());
    Probe {
        source,
        destination,
        ttl: 1,
        identification: 0xA365,
        flow_label: 0x12345,
        tos: 0,
        dont_fragment: false,
        kind,
    }
}

fn echo6_probe() -> Probe {
    // 0x169C = checksum 0xD69E + identifier 0x1234 + 0x2001 + 0x0DB8 + 0x0010, in ones' complement.
    let kind = ProbeKind::Echo {
        identifier: 0x1234,
        sequence: 9,
        tag: 0x169C,
        cookie: *b"abcdef",
        payload_len: ECHO_PAYLOAD,
    };
    let (source, destination) = (us6(), target6());
    Probe {
        source,
        destination,
        ttl: 1,
        identification: 0,
        flow_label: 0x12345,
        tos: 0,
        dont_fragment: false,
        kind,
    }
}

#[test]
fn udp_over_ipv4_encodes() {
    assert_encodes(&udp_probe(), UDP_PROBE);
}

#[test]
fn udp_checksum_of_zero_is_sent_as_all_ones() {
    // 0x855B = 0xC000 + 0x020A + 0xC350, in ones' complement: nothing is left for the checksum.
    let kind = ProbeKind::Udp {
        source_port: 50000,
        destination_port: 33434,
        tag: 0x855B,
        payload_len: 10,
    };
    let mut buffer = [0; MAX_PROBE_LEN];
    let packet = Probe { kind, ..udp_probe() }.encode(&mut buffer).unwrap();
    assert_eq!(packet[26..28], [0xFF, 0xFF]);
    assert_eq!(quoted(&time_exceeded(packet)).tag(), Some(0x855B));
}

#[test]
fn udp_payloads_have_the_length_asked_for() {
    let mut buffer = [0; MAX_PROBE_LEN];
    for payload_len in 6..=1200 {
        let kind = ProbeKind::Udp {
            source_port: 50000,
            destination_port: 33434,
            tag: 0xBEB9,
            payload_len,
        };
        let (source, destination) = (us6(), target6());
        let probe = Probe {
            source,
            destination,
            kind,
            ..udp_probe()
        };
        let packet = probe.encode(&mut buffer).unwrap();
        assert_eq!(packet.len(), 40 + 8 + usize::from(payload_len));
        let payload = &packet[48..];
        let balance = 5.min(payload.len() - 2);
        let signature: Vec<u8> = b"NSMNC".iter().copied().cycle().take(payload.len()).collect();
        assert_eq!(payload[..balance], signature[..balance]);
        assert_eq!(payload[balance + 2..], signature[balance + 2..]);
        assert_eq!(
            quoted(&packets::time_exceeded(v6("2001:db8::1"), us6(), 0, packet)).tag(),
            Some(0xBEB9)
        );
        if payload_len < 10 {
            continue;
        }
        let packet = Probe { kind, ..udp_probe() }.encode(&mut buffer).unwrap();
        assert_eq!(packet.len(), 20 + 8 + usize::from(payload_len));
        assert_eq!(quoted(&time_exceeded(packet)).tag(), Some(0xBEB9));
    }
}

#[test]
fn first_transport_words_are_the_same_for_each_ttl() {
    let mut buffer = [0; MAX_PROBE_LEN];
    let mut transports = Vec::new();
    for ttl in 1..=30 {
        let probe = Probe {
            ttl,
            identification: 0xA365 + u16::from(ttl),
            ..udp_probe()
        };
        transports.push(probe.encode(&mut buffer).unwrap()[20..28].to_vec());
    }
    assert!(transports.iter().all(|transport| *transport == transports[0]));

    let mut buffer = [0; MAX_PROBE_LEN];
    for (ttl, sequence) in (1..=30).zip(1..) {
        let kind = ProbeKind::Echo {
            identifier: 0x1234,
            sequence,
            tag: 0x169C,
            cookie: *b"abcdef",
            payload_len: ECHO_PAYLOAD,
        };
        let packet = Probe {
            ttl,
            kind,
            ..echo6_probe()
        }
        .encode(&mut buffer)
        .unwrap();
        assert_eq!(packet[40..46], hex("8000d69e1234"));
    }
}

#[test]
fn echo_over_ipv6_encodes() {
    assert_encodes(&echo6_probe(), ECHO6_PROBE);
}

#[test]
fn tcp_sack_encodes() {
    let kind = ProbeKind::TcpSack {
        source_port: 50001,
        destination_port: 443,
        sequence: 5009,
        acknowledgment: 1001,
        timestamps: Some(TcpTimestamps {
            value: 0x1122_3344,
            echo: 0x5566_7788,
        }),
    };
    let (source, destination) = (us(), target());
    assert_encodes(
        &Probe {
            source,
            destination,
            ttl: 9,
            identification: 77,
            flow_label: 0,
            tos: 0,
            dont_fragment: false,
            kind,
        },
        SACK_PROBE,
    );
}

#[test]
fn tcp_syn_encodes_with_20_bits_of_flow_label() {
    let kind = ProbeKind::TcpSyn {
        source_port: 50001,
        destination_port: 443,
        sequence: 0xDEAD_BEEF,
        timestamps: None,
    };
    let (source, destination) = (us6(), target6());
    assert_encodes(
        &Probe {
            source,
            destination,
            ttl: 3,
            identification: 0,
            flow_label: 0xABC5_4321,
            tos: 0,
            dont_fragment: false,
            kind,
        },
        SYN6_PROBE,
    );
}

#[test]
fn type_of_service_and_dont_fragment_are_in_the_header() {
    let mut buffer = [0; MAX_PROBE_LEN];
    let echo = echo6_probe().kind;
    let mut header = |probe: Probe| probe.encode(&mut buffer).unwrap()[..8].to_vec();
    for (kind, by_itself) in [(udp_probe().kind, true), (echo, false)] {
        for (tos, dont_fragment) in [(0, false), (0xB8, true), (0xFF, false)] {
            let options = Probe {
                tos,
                dont_fragment,
                kind,
                ..udp_probe()
            };
            let v4 = header(options);
            let is_set = if by_itself || dont_fragment { 0x40 } else { 0 };
            assert_eq!((v4[1], v4[6], v4[7]), (tos, is_set, 0));
            let v6 = header(Probe {
                tos,
                dont_fragment,
                kind,
                ..echo6_probe()
            });
            let first = u32::from_be_bytes([v6[0], v6[1], v6[2], v6[3]]);
            assert_eq!(first, 6 << 28 | u32::from(tos) << 20 | 0x12345);
        }
    }
}

#[test]
fn padding_leaves_the_tag_as_it_is() {
    let mut buffer = vec![0; 65_535];
    for payload_len in [10, 11, 12, 100, 1472, 9001, 65_487] {
        let udp = ProbeKind::Udp {
            source_port: 50000,
            destination_port: 33434,
            tag: 0xBEB9,
            payload_len,
        };
        let echo = ProbeKind::Echo {
            identifier: 0x1234,
            sequence: 9,
            tag: 0x169C,
            cookie: *b"abcdef",
            payload_len,
        };
        for (kind, tag) in [(udp, 0xBEB9), (echo, 0x169C)] {
            let v4 = Probe { kind, ..udp_probe() };
            let packet = v4.encode(&mut buffer).unwrap();
            assert_eq!(packet.len(), 28 + usize::from(payload_len));
            assert_eq!(quoted(&time_exceeded(&packet[..28])).tag(), Some(tag));
            let v6 = Probe {
                kind,
                ..echo6_probe()
            };
            let packet = v6.encode(&mut buffer).unwrap().to_vec();
            assert_eq!(packet.len(), 48 + usize::from(payload_len));
            let router = packets::time_exceeded(target6(), us6(), 0, &packet[..48]);
            assert_eq!(quoted(&router).tag(), Some(tag));
        }
    }
}

#[test]
fn what_does_not_fit_is_not_encoded() {
    let mut buffer = vec![0; 65_535];
    let kind = |payload_len| ProbeKind::Udp {
        source_port: 50000,
        destination_port: 33434,
        tag: 0xBEB9,
        payload_len,
    };
    let probe = |payload_len| Probe {
        kind: kind(payload_len),
        ..udp_probe()
    };
    assert_eq!(probe(9).encode(&mut buffer), None, "no room for the marks");
    assert!(probe(65_507).encode(&mut buffer).is_some());
    assert_eq!(probe(65_508).encode(&mut buffer), None, "longer than any packet");
    assert_eq!(probe(100).encode(&mut buffer[..127]), None, "a short buffer");
    assert!(probe(100).encode(&mut buffer[..128]).is_some());
}

#[test]
fn families_must_not_be_mixed() {
    let mut buffer = [0; MAX_PROBE_LEN];
    assert_eq!(
        Probe {
            destination: target6(),
            ..udp_probe()
        }
        .encode(&mut buffer),
        None
    );
    assert_eq!(
        Probe {
            source: us6(),
            ..udp_probe()
        }
        .encode(&mut buffer),
        None
    );
}

#[test]
fn time_exceeded_with_28_bytes_of_quote() {
    let packet = hex("4500003800070000fa01c2b1cb007101c000020a 0b0075a400000000\
        45000026a36540000111ea1cc000020ac6336407 c350829a0012395e");
    let reply = verified(&packet).unwrap();
    assert_eq!(
        (reply.source, reply.destination, reply.ttl),
        (v4("203.0.113.1"), us(), 250)
    );
    let quoted = Quoted {
        source: us(),
        destination: target(),
        ttl: 1,
        identification: 0xA365,
        flow_label: 0,
        transport: QuotedTransport::Udp {
            source_port: 50000,
            destination_port: 33434,
            length: 18,
            checksum: 0x395E,
        },
    };
    let error = IcmpError::TimeExceeded;
    assert_eq!(
        reply.kind,
        ReplyKind::IcmpError {
            error,
            quoted,
            mpls: MplsStack::default()
        }
    );
    assert_eq!(quoted.tag(), Some(0xBEB9));

    for len in 0..packet.len() {
        assert_eq!(
            verified(&packet[..len]),
            Err(Ignored::Truncated),
            "cut to {len} bytes"
        );
    }
}

#[test]
fn options_in_both_ipv4_headers_are_skipped() {
    // Router alert outside, record route inside.
    let packet = hex(
        "4600004c00070000fa012d99cb007101c000020a94040000 0b00925500000000\
        49000038a365000001061b07c000020ac6336407 070f0400000000000000000000000000 c35101bbdeadbeef",
    );
    assert_eq!(
        quoted(&packet).transport,
        QuotedTransport::Tcp {
            source_port: 50001,
            destination_port: 443,
            sequence: 0xDEAD_BEEF,
            timestamp: None,
        }
    );
}

#[test]
fn destination_unreachable_keeps_its_code() {
    let packet = hex("450000420001000037019775c6336407c000020a 0303e96500000000\
        45000026a36540000111ea1cc000020ac6336407 c350829a0012395e4e534d4e4300a3651234");
    let ReplyKind::IcmpError { error, .. } = kind(&packet) else {
        panic!()
    };
    assert_eq!(error, IcmpError::Unreachable { code: 3 });

    let packet = packets::unreachable(target6(), us6(), 4, 0, &hex(ECHO6_PROBE));
    let ReplyKind::IcmpError { error, .. } = kind(&packet) else {
        panic!()
    };
    assert_eq!(error, IcmpError::Unreachable { code: 4 });
}

#[test]
fn time_exceeded_over_ipv6() {
    let packet = hex(&format!(
        "6000000000403a3c20010db8ffff0000000000000000000120010db8000000000000000000000010\
         0300e3f400000000 {ECHO6_PROBE}"
    ));
    let quoted = quoted(&packet);
    let transport = QuotedTransport::Echo {
        identifier: 0x1234,
        sequence: 9,
        checksum: 0xD69E,
    };
    assert_eq!((quoted.flow_label, quoted.transport), (0x12345, transport));
    assert_eq!(quoted.tag(), Some(0x169C));
}

#[test]
fn echo_replies() {
    let expected = ReplyKind::Echo {
        identifier: 0x1234,
        sequence: 9,
        cookie: Some(*b"abcdef"),
    };
    let packet = hex("450000240001000037019793c6336407c000020a 0000b27312340009 6162636465661122");
    assert_eq!(kind(&packet), expected);
    let packet = hex(
        "6000000000103a3c20010db800010000000000000000000720010db8000000000000000000000010\
        8100d59e12340009 6162636465661122",
    );
    assert_eq!(kind(&packet), expected);
    let packet = packets::echo(target(), us(), true, 1, 2, b"short");
    assert_eq!(
        kind(&packet),
        ReplyKind::Echo {
            identifier: 1,
            sequence: 2,
            cookie: None
        }
    );
}

#[test]
fn extension_headers_are_skipped() {
    // Hop-by-hop with router alert, then destination options of 16 bytes.
    let packet = hex(
        "600000000028003c20010db800010000000000000000000720010db8000000000000000000000010\
        3c00050200000100 3a01010c000000000000000000000000 8100d59e12340009 6162636465661122",
    );
    let expected = verified(&packet).unwrap();
    assert!(matches!(
        expected.kind,
        ReplyKind::Echo {
            identifier: 0x1234,
            ..
        }
    ));
    for len in 40..packet.len() {
        assert_eq!(
            verified(&packet[..len]),
            Err(Ignored::Truncated),
            "cut to {len} bytes"
        );
    }
}

fn behind_extensions(extensions: &str) -> Result<Reply, Ignored> {
    let message = hex("8100d59e12340009 6162636465661122");
    verified(&packets::ip_with_options(
        target6(),
        us6(),
        packets::ICMPV6,
        &hex(extensions),
        &message,
    ))
}

#[test]
fn fragments_are_told_apart() {
    // Destination options, then a fragment header: atomic, first, later.
    assert!(behind_extensions("2c00010400000000 3a00000000000001").is_ok());
    assert_eq!(
        behind_extensions("2c00010400000000 3a00000100000001"),
        Err(Ignored::Fragment)
    );
    assert_eq!(
        behind_extensions("2c00010400000000 3a00000800000001"),
        Err(Ignored::Fragment)
    );

    // Reserved bits are not part of the offset, and behind a later fragment's header there is no
    // header.
    assert!(behind_extensions("2c00010400000000 3a00000600000001").is_ok());
    assert_eq!(
        behind_extensions("2c00010400000000 3c00000800000001 3cff010400000000"),
        Err(Ignored::Fragment)
    );

    for fragment in [0x2000u16, 0x0001, 0x3FFF] {
        let mut packet = hex(SYN_ACK);
        packet[6..8].copy_from_slice(&fragment.to_be_bytes());
        packets::repair(&mut packet);
        assert_eq!(verified(&packet), Err(Ignored::Fragment));
    }
}

#[test]
fn routing_headers_are_skipped() {
    assert!(behind_extensions("2b00010400000000 3a00040000000000").is_ok());
}

#[test]
fn endless_extension_headers_are_refused() {
    let options = "3c00010400000000";
    assert!(behind_extensions(&(options.repeat(7) + "3a00010400000000")).is_ok());
    assert_eq!(
        behind_extensions(&(options.repeat(8) + "3a00010400000000")),
        Err(Ignored::Malformed)
    );
}

#[test]
fn extension_header_beyond_the_packet_is_malformed() {
    let mut packet = packets::ip_with_options(target6(), us6(), 58, &hex("3a02010400000000"), &[0; 8]);
    packet.extend([0; 100]);
    assert_eq!(verified(&packet), Err(Ignored::Malformed));
}

#[test]
fn syn_ack() {
    let expected = TcpReply {
        source_port: 443,
        destination_port: 50001,
        sequence: 1000,
        acknowledgment: 0xDEAD_BEF0,
        flags: TcpFlags {
            syn: true,
            ack: true,
            rst: false,
            fin: false,
        },
        payload_len: 0,
        sack: SackInfo {
            permitted: true,
            ..SackInfo::default()
        },
        timestamps: Some(TcpTimestamps {
            value: 0x0102_0304,
            echo: 0x0506_0708,
        }),
    };
    assert_eq!(kind(&hex(SYN_ACK)), ReplyKind::Tcp(expected));
}

#[test]
fn selective_acknowledgment() {
    let packet = hex(
        "45000048000140003706576ac6336407c000020a 01bbc351000003e800001388d010ffff09750000\
        0101080a0000000100000002 010105120000139100001392 0000139c0000139d",
    );
    let ReplyKind::Tcp(tcp) = kind(&packet) else {
        panic!()
    };
    assert_eq!(tcp.sack.edges(), [5009, 5020]);
    assert!(!tcp.sack.permitted);
    assert_eq!(tcp.timestamps, Some(TcpTimestamps { value: 1, echo: 2 }));
}

#[test]
fn reset_over_ipv6() {
    let packet = hex(
        "600000000014063c20010db800010000000000000000000720010db8000000000000000000000010\
        01bbc351000000000000004e501400008eec0000",
    );
    let ReplyKind::Tcp(tcp) = kind(&packet) else {
        panic!()
    };
    assert!(tcp.flags.rst && tcp.flags.ack && !tcp.flags.syn);
    assert_eq!(tcp.acknowledgment, 78);
}

#[test]
fn tcp_options_end_at_the_first_broken_one() {
    let with_options = |options: &str| {
        let packet = packets::tcp(target(), us(), (1, 2), (3, 4), 0x12, &hex(options), &[]);
        let ReplyKind::Tcp(tcp) = kind(&packet) else {
            panic!()
        };
        tcp
    };
    assert!(with_options("01010402").sack.permitted);
    // End of list before it, a length of 0, of 1, and beyond the header.
    for broken in ["00000402", "99000402", "99010402", "99ff0402 04020402"] {
        assert!(!with_options(broken).sack.permitted, "{broken}");
    }
    // An unknown option is skipped; a SACK-permitted with a value is none; neither are timestamps
    // of 9 bytes.
    assert!(with_options("99040000 04020101").sack.permitted);
    assert!(!with_options("04040000").sack.permitted);
    assert_eq!(with_options("08090000 00000000 00010101").timestamps, None);
    // They do not undo intact ones either.
    let both = with_options("0809 0000 0000 0000 00 080a 0000000100000002 0101 01");
    assert_eq!(both.timestamps, Some(TcpTimestamps { value: 1, echo: 2 }));
    let both = with_options("080a 0000000100000002 0809 0000 0000 0000 00 0101 01");
    assert_eq!(both.timestamps, Some(TcpTimestamps { value: 1, echo: 2 }));
    // Five blocks in two options: four are kept.
    let blocks = "051a 0000000100000002 0000000300000004 0000000500000006 050a 0000000700000008 0101";
    assert_eq!(with_options(blocks).sack.edges(), [1, 3, 5, 7]);
}

#[test]
fn sack_permitted_counts_in_syn_segments_only() {
    let packet = packets::tcp(target(), us(), (1, 2), (3, 4), 0x10, &hex("01010402"), &[]);
    let ReplyKind::Tcp(tcp) = kind(&packet) else {
        panic!()
    };
    assert!(!tcp.sack.permitted);
}

#[test]
fn tcp_segments_without_ack_or_rst_are_no_answer() {
    for flags in [0x00, 0x01, 0x02, 0x08, 0x03] {
        let packet = packets::tcp(target(), us(), (1, 2), (3, 4), flags, &[], &[]);
        assert_eq!(verified(&packet), Err(Ignored::NotAnAnswer), "{flags:#x}");
    }
    for flags in [0x04, 0x10, 0x12, 0x14, 0x11, 0x18] {
        let packet = packets::tcp(target(), us(), (1, 2), (3, 4), flags, &[], &[]);
        assert!(verified(&packet).is_ok(), "{flags:#x}");
    }
}

#[test]
fn udp_answers() {
    let packet = hex("450000260001000037119781c6336407c000020a 0035c3500012bbc3 4e534d4e4300a3651234");
    let expected = UdpReply {
        source_port: 53,
        destination_port: 50000,
        payload_len: 10,
        echoed: Some(0xA365),
    };
    assert_eq!(kind(&packet), ReplyKind::Udp(expected));
    for other in [&b""[..], b"NSMNC\0\xA3", b"NSMNCN\xA3\x65", b"nsmnc\0\xA3\x65"] {
        let packet = packets::udp(target(), us(), (53, 50000), other);
        let expected = UdpReply {
            payload_len: other.len() as u16,
            echoed: None,
            ..expected
        };
        assert_eq!(kind(&packet), ReplyKind::Udp(expected));
    }
}

/// Where it is balanced, it differs from the pattern.
#[test]
fn the_payload_of_an_ipv6_probe_is_recognised_when_it_comes_back() {
    for len in 6..=300 {
        let probe = Probe {
            source: us6(),
            destination: target6(),
            ttl: 9,
            identification: 0,
            flow_label: 1,
            tos: 0,
            dont_fragment: false,
            kind: ProbeKind::Udp {
                source_port: 50000,
                destination_port: 7,
                tag: 0x4321,
                payload_len: len,
            },
        };
        let mut buffer = [0; MAX_PROBE_LEN];
        let payload = &probe.encode(&mut buffer).unwrap()[48..];
        let identification = |payload: &[u8]| {
            let packet = packets::udp(target6(), us6(), (7, 50000), payload);
            match kind(&packet) {
                ReplyKind::Udp(udp) => udp.echoed,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(identification(payload), Some(len));
        assert_eq!(identification(&payload[1..]), None, "{len}");
        let mut other = payload.to_vec();
        other[0] ^= 1;
        assert_eq!(identification(&other), None, "{len}");
    }
}

#[test]
fn udp_without_checksum_is_for_ipv4_only() {
    for (from, to, at, expected) in [
        (target(), us(), 26, None),
        (target6(), us6(), 46, Some(Ignored::BadChecksum)),
    ] {
        let mut packet = packets::udp(from, to, (53, 50000), b"x");
        packet[at..at + 2].fill(0);
        assert_eq!(verified(&packet).err(), expected);
    }
}

#[test]
fn udp_length_must_fit() {
    for (length, expected) in [
        (7, Err(Ignored::Malformed)),
        (8, Ok(())),
        (11, Ok(())),
        (12, Err(Ignored::Malformed)),
    ] {
        let mut packet = packets::udp(target(), us(), (53, 50000), b"abc");
        packet[24..26].copy_from_slice(&u16::to_be_bytes(length));
        packets::repair(&mut packet);
        assert_eq!(verified(&packet).map(|_| ()), expected, "length {length}");
    }
}

#[test]
fn wrong_checksums_are_seen() {
    let replies = [
        packets::time_exceeded(v4("203.0.113.1"), us(), 0, &hex(UDP_PROBE)),
        packets::time_exceeded(v6("2001:db8::1"), us6(), 0, &hex(ECHO6_PROBE)),
        packets::echo(target(), us(), true, 1, 2, b"abcdef"),
        packets::udp(target(), us(), (53, 50000), b"abc"),
        hex(SYN_ACK),
    ];
    for packet in replies {
        assert!(verified(&packet).is_ok());
        // Behind the fields that say what kind of packet it is, no flipped bit goes unseen.
        for byte in 10..packet.len() {
            for bit in 0..8 {
                let mut damaged = packet.clone();
                damaged[byte] ^= 1 << bit;
                assert!(verified(&damaged).is_err(), "byte {byte}, bit {bit}");
            }
        }
    }
}

#[test]
fn offloaded_checksums_are_not_verified() {
    for mut packet in [hex(SYN_ACK), packets::udp(target(), us(), (53, 50000), b"abc")] {
        let checksum = if packet[9] == 6 { 36 } else { 26 };
        packet[checksum] ^= 0xFF;
        assert_eq!(verified(&packet), Err(Ignored::BadChecksum));
        assert!(decode(&packet, Checksums::Offloaded).is_ok());
        packet[10..12].fill(0);
        assert!(decode(&packet, Checksums::Offloaded).is_ok());
        packets::repair(&mut packet);
        packet[10..12].fill(0);
        assert_eq!(verified(&packet), Err(Ignored::BadChecksum));
        packet[10..12].fill(1);
        assert_eq!(decode(&packet, Checksums::Offloaded), Err(Ignored::BadChecksum));
    }
    let mut packet = packets::echo(target(), us(), true, 1, 2, b"abcdef");
    packet[22] ^= 0xFF;
    assert_eq!(decode(&packet, Checksums::Offloaded), Err(Ignored::BadChecksum));
}

#[test]
fn packets_cut_by_the_capture() {
    let long = packets::tcp(target(), us(), (1, 2), (3, 4), 0x10, &hex("01010101"), &[7; 1000]);
    let ReplyKind::Tcp(tcp) = kind(&long[..44]) else {
        panic!()
    };
    assert_eq!(tcp.payload_len, 1000);
    assert_eq!(verified(&long[..43]), Err(Ignored::Truncated));

    let long = packets::udp(target(), us(), (1, 2), &[7; 1000]);
    let ReplyKind::Udp(udp) = kind(&long[..28]) else {
        panic!()
    };
    assert_eq!(udp.payload_len, 1000);
    assert_eq!(verified(&long[..27]), Err(Ignored::Truncated));

    for (source, destination) in [(target(), us()), (target6(), us6())] {
        let long = packets::echo(source, destination, true, 1, 2, &[7; 2000]);
        let whole = kind(&long);
        assert!(matches!(whole, ReplyKind::Echo { cookie: Some(_), .. }));
        assert_eq!(kind(&long[..LEAST_SNAP_LEN]), whole);
        assert_eq!(verified(&long[..LEAST_SNAP_LEN - 1]), Err(Ignored::Truncated));
    }
}

#[test]
fn padding_is_not_part_of_the_packet() {
    for mut packet in [hex(SYN_ACK), packets::echo(target6(), us6(), true, 1, 2, b"a")] {
        let expected = verified(&packet);
        packet.extend([0xFF; 13]);
        assert_eq!(verified(&packet), expected);
    }
}

#[test]
fn other_messages_are_no_answers() {
    let quote = hex(UDP_PROBE);
    // Redirect, echo request, parameter problem, timestamp reply; fragment reassembly time
    // exceeded.
    for (kind, code) in [(5, 0), (8, 0), (12, 0), (14, 0), (11, 1)] {
        let packet = packets::icmp(target(), us(), kind, code, &[&[0; 4], &quote[..]].concat());
        assert_eq!(verified(&packet), Err(Ignored::NotAnAnswer));
    }
    // Packet too big, parameter problem, echo request, neighbor advertisement.
    for (kind, code) in [(2, 0), (4, 0), (128, 0), (136, 0), (3, 1)] {
        let packet = packets::icmp(target6(), us6(), kind, code, &[0; 60]);
        assert_eq!(verified(&packet), Err(Ignored::NotAnAnswer));
    }
    // ICMP of the other family, IGMP, ESP.
    for protocol in [58, 2, 50] {
        let packet = packets::ip(target(), us(), protocol, &[0; 60]);
        assert_eq!(verified(&packet), Err(Ignored::NotAnAnswer));
    }
    assert_eq!(
        verified(&packets::ip(target6(), us6(), 1, &[0; 60])),
        Err(Ignored::NotAnAnswer)
    );
}

#[test]
fn contradictions_are_malformed() {
    let sealed = |change: fn(&mut Vec<u8>)| {
        let mut packet = hex(SYN_ACK);
        change(&mut packet);
        packets::repair(&mut packet);
        verified(&packet)
    };
    assert!(sealed(|_| {}).is_ok());
    // Version, header length, total length below the header, data offset below and beyond.
    assert_eq!(sealed(|packet| packet[0] = 0x55), Err(Ignored::Malformed));
    assert_eq!(sealed(|packet| packet[0] = 0x44), Err(Ignored::Malformed));
    assert_eq!(sealed(|packet| packet[3] = 19), Err(Ignored::Malformed));
    assert_eq!(sealed(|packet| packet[32] = 0x40), Err(Ignored::Malformed));
    assert_eq!(sealed(|packet| packet[32] = 0xB0), Err(Ignored::Malformed));
    assert_eq!(verified(&[]), Err(Ignored::Truncated));
}

fn time_exceeded(quote: &[u8]) -> Vec<u8> {
    packets::time_exceeded(v4("203.0.113.1"), us(), 0, quote)
}

#[test]
fn quotes_need_not_be_as_they_were_sent() {
    let expected = quoted(&time_exceeded(&hex(UDP_PROBE)));
    let altered = |change: fn(&mut Vec<u8>)| {
        let mut quote = hex(UDP_PROBE);
        change(&mut quote);
        quoted(&time_exceeded(&quote))
    };
    // Type of service, total length (byte order, zero), fragment field in the wrong byte order,
    // checksum.
    assert_eq!(altered(|quote| quote[1] = 0xB8), expected);
    assert_eq!(altered(|quote| quote[2..4].reverse()), expected);
    assert_eq!(altered(|quote| quote[2..4].fill(0)), expected);
    assert_eq!(altered(|quote| quote[6..8].reverse()), expected);
    assert_eq!(altered(|quote| quote[10..12].fill(0)), expected);
    assert_eq!(altered(|quote| quote[8] = 0).ttl, 0);
}

#[test]
fn foreign_quotes() {
    let altered = |change: fn(&mut Vec<u8>)| {
        let mut quote = hex(UDP_PROBE);
        change(&mut quote);
        verified(&time_exceeded(&quote))
    };
    // GRE, a later fragment, another version, a bad header length, ICMP that is no echo request.
    assert_eq!(altered(|quote| quote[9] = 47), Err(Ignored::ForeignQuote));
    assert_eq!(altered(|quote| quote[7] = 1), Err(Ignored::ForeignQuote));
    assert_eq!(altered(|quote| quote[0] = 0x75), Err(Ignored::ForeignQuote));
    assert_eq!(altered(|quote| quote[0] = 0x41), Err(Ignored::ForeignQuote));
    assert_eq!(altered(|quote| quote[9] = 1), Err(Ignored::ForeignQuote));
    // ICMP quoting IPv6.
    assert_eq!(
        verified(&time_exceeded(&hex(ECHO6_PROBE))),
        Err(Ignored::ForeignQuote)
    );
    // A first fragment has the header.
    assert!(altered(|quote| quote[6] = 0x20).is_ok());
}

#[test]
fn udp_quoted_without_checksum_has_no_tag() {
    let mut quote = hex(UDP_PROBE);
    quote[26..28].fill(0);
    assert_eq!(quoted(&time_exceeded(&quote)).tag(), None);
    assert_eq!(quoted(&time_exceeded(&hex(SACK_PROBE))).tag(), None);
}

fn expected_labels() -> [MplsLabel; 2] {
    [
        MplsLabel {
            label: 24001,
            traffic_class: 5,
            bottom: false,
            ttl: 1,
        },
        MplsLabel {
            label: 16,
            traffic_class: 0,
            bottom: true,
            ttl: 254,
        },
    ]
}

#[test]
fn mpls_labels_with_and_without_length_attribute() {
    let mut quote = hex(UDP_PROBE);
    quote.resize(128, 0);
    let extended = |icmp: &str| [hex(MPLS_HEADER), hex(icmp), quote.clone(), hex(MPLS_EXTENSION)].concat();
    assert_eq!(labels(&extended("0b00e14800200000")), expected_labels());
    assert_eq!(labels(&extended("0b00e16800000000")), expected_labels());
}

#[test]
fn mpls_labels_over_ipv6() {
    let router = v6("2001:db8::1");
    for announced in [true, false] {
        let packet =
            packets::time_exceeded_with_mpls(router, us6(), &hex(ECHO6_PROBE), announced, &expected_labels());
        assert_eq!(labels(&packet), expected_labels());
    }
}

/// The labels that are read from `extensions` behind a quote of `quote_len` bytes.
fn labels_of(quote_len: usize, length: u8, extensions: &[u8]) -> Vec<MplsLabel> {
    let mut body = hex(UDP_PROBE);
    body.resize(quote_len, 0);
    body.extend(extensions);
    labels(&packets::time_exceeded(v4("203.0.113.1"), us(), length, &body))
}

fn with_checksum(extensions: &str) -> Vec<u8> {
    let mut bytes = hex(extensions);
    bytes[2..4].fill(0);
    let sum = packets::checksum(&[&bytes]);
    bytes[2..4].copy_from_slice(&sum.to_be_bytes());
    bytes
}

#[test]
fn broken_extensions_are_skipped() {
    let intact = hex(MPLS_EXTENSION);
    assert_eq!(labels_of(128, 32, &intact).len(), 2);
    assert_eq!(labels_of(160, 40, &intact).len(), 2);
    // A length attribute beyond the message or below 128 bytes; extensions elsewhere than it says.
    assert!(labels_of(128, 255, &intact).is_empty());
    assert!(labels_of(64, 16, &intact).is_empty());
    assert!(labels_of(160, 32, &intact).is_empty());
    // Version, checksum, nothing at all, a lone half header.
    assert!(labels_of(128, 32, &with_checksum("10000000 000c0101 05dc1a01 000101fe")).is_empty());
    assert!(labels_of(128, 32, &hex("2000bd17 000c0101 05dc1a01 000101fe")).is_empty());
    assert!(labels_of(128, 32, &[]).is_empty());
    assert!(labels_of(128, 32, &[0x20, 0]).is_empty());
    // Object lengths: 0, below the header, beyond the end, not a multiple of 4.
    assert!(labels_of(128, 32, &with_checksum("20000000 00000101 05dc1a01 000101fe")).is_empty());
    assert!(labels_of(128, 32, &with_checksum("20000000 00030101 05dc1a01 000101fe")).is_empty());
    assert!(labels_of(128, 32, &with_checksum("20000000 000d0101 05dc1a01 000101fe")).is_empty());
    assert_eq!(
        labels_of(128, 32, &with_checksum("20000000 000b0101 05dc1a01 000101")).len(),
        1
    );
}

/// As ordinary sockets on Linux get ICMP errors: without the IP and UDP headers of the quote.
#[test]
fn mpls_labels_behind_a_quote_without_headers() {
    let labels = |padding: usize, extensions: &str, announced| {
        let data = [vec![0; padding], hex(extensions)].concat();
        let stack = MplsStack::without_headers(&data, 28, announced);
        stack.labels().collect::<Vec<_>>()
    };
    let unsealed = "20000000 000c0101 05dc1a01 000101fe";
    assert_eq!(labels(100, MPLS_EXTENSION, None), expected_labels());
    assert_eq!(labels(100, MPLS_EXTENSION, Some(100)), expected_labels());
    assert_eq!(labels(132, MPLS_EXTENSION, Some(132)), expected_labels());
    assert_eq!(labels(100, unsealed, Some(100)), expected_labels());
    assert!(labels(100, unsealed, None).is_empty(), "no checksum");
    assert!(labels(132, MPLS_EXTENSION, None).is_empty(), "elsewhere");
    assert!(
        labels(100, MPLS_EXTENSION, Some(1000)).is_empty(),
        "beyond the end"
    );
    let headers_only = MplsStack::without_headers(&[], 1000, None);
    assert!(headers_only.is_empty(), "longer than the quote");
}

#[test]
fn extension_checksum_may_be_absent_only_with_a_length_attribute() {
    let unsealed = hex("20000000 000c0101 05dc1a01 000101fe");
    assert_eq!(labels_of(128, 32, &unsealed).len(), 2);
    assert!(labels_of(128, 0, &unsealed).is_empty());
}

#[test]
fn other_extension_objects_are_skipped() {
    // Interface information (RFC 5837), then labels; more than 8 of them.
    let objects = with_checksum(&format!(
        "20000000 00080208 00000001 002c0101 {}",
        "00010101".repeat(10)
    ));
    let label = MplsLabel {
        label: 16,
        traffic_class: 0,
        bottom: true,
        ttl: 1,
    };
    assert_eq!(labels_of(128, 32, &objects), [label; 8]);
}

#[test]
fn filter_wants_28_quoted_bytes() {
    let program = program(&FilterParameters {
        family: Family::V4,
        port_blocks: &[],
        link_header_len: 0,
        snap_len: 1500,
        segment_snap_len: 1400,
    });
    let quote = hex(UDP_PROBE);
    assert_eq!(bpf::run(&program, &time_exceeded(&quote[..28])), 1500);
    assert_eq!(bpf::run(&program, &time_exceeded(&quote[..27])), 0);
    assert_eq!(
        bpf::run(
            &program,
            &packets::unreachable(target(), us(), 1, 0, &quote[..27])
        ),
        0
    );
}

#[test]
fn filter_stops_what_is_no_reply() {
    let blocks = [0xC3];
    let run = |packet: &[u8]| {
        [Family::V4, Family::V6].map(|family| {
            let parameters = FilterParameters {
                family,
                port_blocks: &blocks,
                link_header_len: 0,
                snap_len: 1500,
                segment_snap_len: 1400,
            };
            bpf::run(&program(&parameters), packet) != 0
        })
    };
    for (from, to, mine) in [(target(), us(), [true, false]), (target6(), us6(), [false, true])] {
        let none = [false; 2];
        assert_eq!(run(&packets::echo(from, to, true, 1, 2, b"")), mine);
        assert_eq!(run(&packets::echo(from, to, false, 1, 2, b"")), none);
        for (port, expected) in [(0xC2FF, none), (0xC300, mine), (0xC3FF, mine), (0xC400, none)] {
            assert_eq!(run(&packets::udp(from, to, (53, port), b"")), expected);
            assert_eq!(
                run(&packets::tcp(from, to, (80, port), (1, 2), 0x12, &[], &[])),
                expected
            );
        }
        assert_eq!(run(&packets::ip(from, to, 50, &[0xC3; 40])), none);
    }
}
