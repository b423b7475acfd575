//! Probes as the first router receives them. What they should look like is said at
//! `traceroute_wire::ProbeKind`; etherparse and tshark, which know nothing of that, read them.

use std::collections::HashSet;
use std::io::Write;
use std::net::IpAddr;
use std::process::Stdio;

use etherparse::{Icmpv4Type, Icmpv6Type, IpPayloadSlice, NetSlice, SlicedPacket, TcpSlice, TransportSlice};
use traceroute_testbed::{Chain, Result, not_run, require_lab};

use crate::capture::Capture;
use crate::program::{Path, hops, paths, trace};

const HOPS: usize = 6;

/// What is the same in IPv4 and IPv6.
#[derive(Debug)]
struct Ip {
    destination: IpAddr,
    ttl: u8,
    /// Identification in IPv4, flow label in IPv6.
    label: u32,
    dont_fragment: Option<bool>,
}

fn ip(packet: &SlicedPacket<'_>) -> Ip {
    match packet.net.as_ref().unwrap() {
        NetSlice::Ipv4(slice) => {
            let header = slice.header();
            assert_eq!(
                header.header_checksum(),
                header.to_header().calc_header_checksum()
            );
            assert!(header.options().is_empty() && !header.is_fragmenting_payload());
            Ip {
                destination: header.destination_addr().into(),
                ttl: header.ttl(),
                label: header.identification().into(),
                dont_fragment: Some(header.dont_fragment()),
            }
        }
        NetSlice::Ipv6(slice) => {
            let header = slice.header();
            Ip {
                destination: header.destination_addr().into(),
                ttl: header.hop_limit(),
                label: header.flow_label().value(),
                dont_fragment: None,
            }
        }
        NetSlice::Arp(_) => panic!("no IP packet"),
    }
}

fn payload<'a>(packet: &'a SlicedPacket<'_>) -> &'a IpPayloadSlice<'a> {
    packet.ip_payload().unwrap()
}

/// Traces a chain's target, each TTL once, and returns what the first router received meanwhile.
fn probes(chain: &Chain, path: &Path, arguments: &str) -> Vec<Vec<u8>> {
    let capture = Capture::start(&chain.routers[0]).unwrap();
    let report = trace(
        &chain.client,
        path.target,
        &format!("{arguments} -q 1 -Q 0 --hop-retries 0"),
    );
    assert_eq!(hops(&report), path.hops);
    capture.packets_from(path.client)
}

/// Reads probes that should have TTLs from 1 to at least the target's, one after the other.
fn parse<'a>(packets: &'a [Vec<u8>], path: &Path) -> Vec<(Ip, SlicedPacket<'a>)> {
    let probes: Vec<_> = packets
        .iter()
        .map(|bytes| SlicedPacket::from_ip(bytes).unwrap())
        .map(|packet| (ip(&packet), packet))
        .collect();
    let ttls: Vec<usize> = probes.iter().map(|(ip, _)| ip.ttl.into()).collect();
    assert!(ttls.len() >= HOPS, "{ttls:?}");
    assert_eq!(ttls, (1..=ttls.len()).collect::<Vec<_>>());
    assert!(probes.iter().all(|(ip, _)| ip.destination == path.target));
    probes
}

/// Whether all that a load balancer or a NAT may look at stays the same.
fn assert_same<T: PartialEq + std::fmt::Debug>(values: impl IntoIterator<Item = T>) -> T {
    let mut values = values.into_iter();
    let first = values.next().unwrap();
    for value in values {
        assert_eq!(value, first);
    }
    first
}

/// Identifications count up in IPv4; the flow label stays the same and is not 0 in IPv6.
fn assert_labels(probes: &[(Ip, SlicedPacket<'_>)], path: &Path) {
    if path.target.is_ipv4() {
        assert_same(
            probes
                .iter()
                .map(|(ip, _)| (ip.label as u16).wrapping_sub(ip.ttl.into())),
        );
        assert!(probes.iter().all(|(ip, _)| ip.label != 0));
    } else {
        assert_ne!(assert_same(probes.iter().map(|(ip, _)| ip.label)), 0);
    }
}

#[test]
fn icmp_probes() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let chain = lab.chain(HOPS)?;
    for path in paths(&chain) {
        let packets = probes(&chain, &path, "-P icmp");
        let probes = parse(&packets, &path);
        let mut checksums = Vec::new();
        let mut cookies = Vec::new();
        let mut identifiers = Vec::new();
        for (ip, packet) in &probes {
            let (echo, checksum, expected, payload) = match packet.transport.as_ref().unwrap() {
                TransportSlice::Icmpv4(icmp) => {
                    let Icmpv4Type::EchoRequest(echo) = icmp.icmp_type() else {
                        panic!("no echo request: {icmp:?}");
                    };
                    let expected = icmp.icmp_type().calc_checksum(icmp.payload());
                    (echo, icmp.checksum(), expected, icmp.payload())
                }
                TransportSlice::Icmpv6(icmp) => {
                    let Icmpv6Type::EchoRequest(echo) = icmp.icmp_type() else {
                        panic!("no echo request: {icmp:?}");
                    };
                    let (IpAddr::V6(from), IpAddr::V6(to)) = (path.client, path.target) else {
                        panic!()
                    };
                    assert!(icmp.is_checksum_valid(from.octets(), to.octets()));
                    (echo, icmp.checksum(), icmp.checksum(), icmp.payload())
                }
                other => panic!("no ICMP: {other:?}"),
            };
            assert_eq!(checksum, expected);
            assert_eq!(u16::from(ip.ttl), echo.seq);
            assert_eq!(payload.len(), 8);
            identifiers.push(echo.id);
            checksums.push(checksum);
            cookies.push(payload[..6].to_vec());
        }
        assert_ne!(assert_same(identifiers), 0);
        assert_same(checksums);
        assert_same(cookies);
        assert_labels(&probes, &path);
        assert_ne!(probes[0].0.dont_fragment, Some(true));
    }
    Ok(())
}

#[test]
fn udp_probes() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let chain = lab.chain(HOPS)?;
    for path in paths(&chain) {
        let packets = probes(&chain, &path, "-P udp -p 33440");
        let probes = parse(&packets, &path);
        assert_labels(&probes, &path);
        let mut flows = Vec::new();
        let mut tags = Vec::new();
        for (ip, packet) in &probes {
            let Some(TransportSlice::Udp(udp)) = &packet.transport else {
                panic!("{packet:?}")
            };
            let payload = udp.payload();
            let header = udp.to_header();
            let checksum = match packet.net.as_ref().unwrap() {
                NetSlice::Ipv4(slice) => header.calc_checksum_ipv4(&slice.header().to_header(), payload),
                NetSlice::Ipv6(slice) => header.calc_checksum_ipv6(&slice.header().to_header(), payload),
                NetSlice::Arp(_) => panic!("no IP packet"),
            };
            assert_eq!(udp.checksum(), checksum.unwrap());
            assert_eq!(usize::from(udp.length()), 8 + payload.len());
            if ip.dont_fragment.is_some() {
                assert_eq!(ip.dont_fragment, Some(true));
                assert_eq!(payload.len(), 10);
                assert_eq!(payload[..6], *b"NSMNC\0");
                assert_eq!(payload[6..8], (ip.label as u16).to_be_bytes());
            } else {
                // Repeated, but for two bytes that balance the checksum.
                assert_eq!(payload.len(), 5 + usize::from(ip.ttl));
                let repeated = b"NSMNC".iter().cycle();
                let changed = payload
                    .iter()
                    .zip(repeated)
                    .filter(|(found, original)| found != original);
                assert!(changed.count() <= 2, "{payload:?}");
                // At the first TTL there is one byte beside the signature, no room for them.
                let whole = if ip.ttl == 1 { 4 } else { 5 };
                assert_eq!(payload[..whole], b"NSMNC"[..whole]);
            }
            flows.push((udp.source_port(), udp.destination_port()));
            // Which probe it is; in ones' complement 0 and 0xffff are the same.
            tags.push((u32::from(udp.checksum()) + 0xffff - u32::from(ip.ttl)) % 0xffff);
        }
        assert_eq!(assert_same(flows).1, 33440);
        assert_same(tags);
    }
    Ok(())
}

/// Verifies a segment's checksum.
fn tcp<'p, 'a>(packet: &'p SlicedPacket<'a>) -> &'p TcpSlice<'a> {
    let Some(TransportSlice::Tcp(tcp)) = &packet.transport else {
        panic!("{packet:?}")
    };
    let header = tcp.to_header();
    let checksum = match packet.net.as_ref().unwrap() {
        NetSlice::Ipv4(slice) => header.calc_checksum_ipv4(&slice.header().to_header(), tcp.payload()),
        NetSlice::Ipv6(slice) => header.calc_checksum_ipv6(&slice.header().to_header(), tcp.payload()),
        NetSlice::Arp(_) => panic!("no IP packet"),
    };
    assert_eq!(tcp.checksum(), checksum.unwrap());
    assert_eq!(
        payload(packet).payload.len(),
        usize::from(tcp.data_offset()) * 4 + tcp.payload().len()
    );
    tcp
}

#[test]
fn tcp_syn_probes() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let chain = lab.chain(HOPS)?;
    for path in paths(&chain) {
        let packets = probes(&chain, &path, "-P tcp -p 81");
        let probes = parse(&packets, &path);
        // Serial: nothing is sent beyond the target.
        assert_eq!(probes.len(), HOPS);
        assert_labels(&probes, &path);
        let mut timestamps = HashSet::new();
        let flows = probes.iter().map(|(ip, packet)| {
            let tcp = tcp(packet);
            assert!(tcp.syn() && !(tcp.ack() || tcp.rst() || tcp.fin() || tcp.psh()));
            // RFC 7323 appendix A: two no-operations, then kind 8 and length 10. The value says
            // which probe it is.
            let options = tcp.options();
            assert_eq!((options.len(), &options[..4]), (12, &[1, 1, 8, 10][..]));
            assert!(timestamps.insert(options[4..8].to_vec()) && options[8..] == [0; 4]);
            assert!(tcp.payload().is_empty());
            assert_eq!((tcp.window_size(), tcp.acknowledgment_number()), (1024, 0));
            let base = tcp.sequence_number().wrapping_sub(ip.ttl.into());
            (tcp.source_port(), tcp.destination_port(), base)
        });
        assert_eq!(assert_same(flows).1, 81);
    }
    Ok(())
}

#[test]
fn tcp_sack_probes() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let chain = lab.chain(HOPS)?;
    let server = chain.target.listen_tcp(0)?;
    for path in paths(&chain) {
        let arguments = format!("-P tcp --tcp-method sack -p {}", server.port());
        let mut packets = probes(&chain, &path, &arguments);
        // The rest is the kernel's: the handshake, and the reset at the end.
        packets.retain(|bytes| match SlicedPacket::from_ip(bytes).unwrap().transport {
            Some(TransportSlice::Tcp(tcp)) => tcp.psh(),
            other => panic!("{other:?}"),
        });
        let probes = parse(&packets, &path);
        assert_labels(&probes, &path);
        let mut timestamps = Vec::new();
        let flows: Vec<_> = probes
            .iter()
            .map(|(ip, packet)| {
                let tcp = tcp(packet);
                assert!(tcp.psh() && tcp.ack() && !(tcp.syn() || tcp.rst() || tcp.fin()));
                assert_eq!((tcp.payload(), tcp.window_size()), (&[ip.ttl][..], 1024));
                // RFC 7323 appendix A: two no-operations, then kind 8 and length 10.
                let options = tcp.options();
                assert_eq!((options.len(), &options[..4]), (12, &[1, 1, 8, 10][..]));
                timestamps.push(u32::from_be_bytes(options[4..8].try_into().unwrap()));
                let next = tcp.sequence_number().wrapping_sub(ip.ttl.into());
                let echo: [u8; 4] = options[8..].try_into().unwrap();
                (
                    tcp.source_port(),
                    tcp.destination_port(),
                    next,
                    tcp.acknowledgment_number(),
                    echo,
                )
            })
            .collect();
        assert_eq!(assert_same(flows).1, server.port());
        let grow = timestamps
            .windows(2)
            .all(|pair| pair[1].wrapping_sub(pair[0]).cast_signed() > 0);
        assert!(grow, "{timestamps:?}");
    }
    Ok(())
}

/// A single probe each, with the highest TTL, from a port of its own.
#[test]
fn end_to_end_probes() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let chain = lab.chain(2)?;
    let server = chain.target.listen_tcp(0)?;
    for path in paths(&chain) {
        for protocol in ["udp", "icmp", "tcp", "tcp --tcp-method sack"] {
            let capture = Capture::start(&chain.routers[0])?;
            let port = server.port();
            let arguments = format!("-P {protocol} -p {port} -q 0 -Q 3 -m 7 --timeout 100");
            let report = trace(&chain.client, path.target, &arguments);
            assert_eq!(report.e2e.sent, 3, "{protocol}");
            let packets = capture.packets_from(path.client);
            let mut probes: Vec<_> = packets
                .iter()
                .map(|bytes| SlicedPacket::from_ip(bytes).unwrap())
                .collect();
            // Our kernel resets connections that it knows nothing of.
            probes.retain(|packet| !matches!(&packet.transport, Some(TransportSlice::Tcp(tcp)) if tcp.rst()));
            assert_eq!(probes.len(), 3, "{protocol}");
            for packet in &probes {
                assert_eq!(ip(packet).ttl, 7, "{protocol}");
                let is_syn = matches!(&packet.transport, Some(TransportSlice::Tcp(tcp)) if tcp.syn());
                assert_eq!(is_syn, protocol.starts_with("tcp"));
            }
        }
    }
    Ok(())
}

/// A capture file of bare IP packets (`LINKTYPE_RAW`, 101). draft-ietf-opsawg-pcap
fn pcap(packets: &[Vec<u8>]) -> Vec<u8> {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4_u32, 2 | 4 << 16, 0, 0, 65_535, 101] {
        file.extend(word.to_le_bytes());
    }
    for packet in packets {
        let length = packet.len() as u32;
        for word in [0, 0, length, length] {
            file.extend(word.to_le_bytes());
        }
        file.extend(packet);
    }
    file
}

/// What tshark says of each packet: its protocols, the states of its checksums, and whether it is
/// malformed.
fn tshark(chain: &Chain, packets: &[Vec<u8>]) -> Option<Vec<String>> {
    let mut command = chain.client.command("tshark");
    // Nobody's settings.
    command.env("HOME", "/nonexistent").env_remove("XDG_CONFIG_HOME");
    command.args(["-n", "-r", "-", "-T", "fields", "-E", "separator=|"]);
    for checked in ["ip", "udp", "tcp"] {
        command.args(["-o", &format!("{checked}.check_checksum:TRUE")]);
    }
    for protocol in ["ip", "udp", "tcp", "icmp", "icmpv6"] {
        command.args(["-e", &format!("{protocol}.checksum.status")]);
    }
    command.args(["-e", "_ws.malformed", "-e", "frame.protocols"]);
    let child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.ok()?;
    child.stdin.take().unwrap().write_all(&pcap(packets)).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Some(
        String::from_utf8(output.stdout)
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect(),
    )
}

#[test]
fn tshark_finds_nothing_wrong() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let chain = lab.chain(HOPS)?;
    // Status 1 is good, 0 would be bad, 2 unverified.
    let expected = [
        ("udp", ["1|1||||", "|1||||"]),
        ("icmp", ["1|||1||", "||||1|"]),
        ("tcp", ["1||1|||", "||1|||"]),
    ];
    for (protocol, lines) in expected {
        for (path, line) in paths(&chain).iter().zip(lines) {
            let packets = probes(&chain, path, &format!("-P {protocol}"));
            let Some(found) = tshark(&chain, &packets) else {
                not_run("the program `tshark` is missing: install the Debian package tshark");
                return Ok(());
            };
            assert_eq!(found.len(), packets.len());
            assert!(
                found.iter().all(|found| found.starts_with(line)),
                "{protocol}: {found:#?}"
            );
        }
    }
    Ok(())
}
