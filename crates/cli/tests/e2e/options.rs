//! What a caller chooses of the probes, as the first router receives them.

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use serde_json::Value;
use traceroute_testbed::{Result, require_lab};

use crate::capture::Capture;
use crate::program::{PROGRAM, addresses, each_family, finish, hops, run, trace};

const HOPS: usize = 6;

/// Type of service, whole length, and in IPv4 whether DF is set.
fn header(packet: &SlicedPacket<'_>) -> (u8, usize, Option<bool>) {
    match packet.net.as_ref().unwrap() {
        NetSlice::Ipv4(slice) => {
            let header = slice.header();
            let tos = header.dcp().value() << 2 | header.ecn().value();
            assert!(!header.is_fragmenting_payload());
            (tos, header.total_len().into(), Some(header.dont_fragment()))
        }
        NetSlice::Ipv6(slice) => {
            let header = slice.header();
            (
                header.traffic_class(),
                40 + usize::from(header.payload_length()),
                None,
            )
        }
        NetSlice::Arp(_) => panic!("no IP packet"),
    }
}

/// TCP: a SYN. The rest is our kernel's resets.
fn is_probe(packet: &SlicedPacket<'_>) -> bool {
    match &packet.transport {
        Some(TransportSlice::Tcp(tcp)) => tcp.syn(),
        _ => true,
    }
}

#[test]
fn probes_look_as_asked_for() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let chain = lab.chain(HOPS)?;
    let groups = if lab.is_unprivileged() { "0 0" } else { "0 65534" };
    chain.client.sysctl("net.ipv4.ping_group_range", groups)?;
    let cases = [
        ("-P icmp --tos 185", 185, Some(300)),
        ("-P udp --tos 185", 185, Some(301)),
        ("-P udp --dscp 10", 40, Some(1400)),
        ("-P tcp --dscp 46", 184, None),
    ];
    for (options, tos, size) in cases {
        let size_option = size
            .map(|size| format!(" --packet-size {size}"))
            .unwrap_or_default();
        let arguments = format!("{options}{size_option} --dont-fragment -q 1 -Q 1");
        each_family(&chain, |path| {
            let capture = Capture::start(&chain.routers[0]).unwrap();
            let check = |what: &str| {
                let packets = capture.packets_from(path.client);
                let packets = packets.iter().map(|bytes| SlicedPacket::from_ip(bytes).unwrap());
                let probes: Vec<_> = packets.filter(is_probe).collect();
                assert!(probes.len() > HOPS, "{what} {arguments}: {}", probes.len());
                for probe in &probes {
                    let (found_tos, len, dont_fragment) = header(probe);
                    assert_eq!(found_tos, tos, "{what} {arguments}");
                    assert_ne!(dont_fragment, Some(false), "{what} {arguments}");
                    assert!(size.is_none_or(|size| size == len), "{what} {arguments}: {len}");
                }
            };
            let report = trace(&chain.client, path.target, &arguments);
            assert_eq!(hops(&report), path.hops, "{arguments}");
            assert_eq!((report.e2e.sent, report.e2e.received), (1, 1), "{arguments}");
            check("root");
            let mut command = chain.client.command_as_nobody(PROGRAM);
            command
                .args(arguments.split_whitespace())
                .arg(path.target.to_string());
            let outcome = finish(&mut command);
            assert_eq!(outcome.status, Some(0), "{outcome:?}");
            let report: Value = serde_json::from_str(&outcome.stdout).unwrap();
            let hops = report["traceroute"]["runs"][0]["hops"].as_array().unwrap();
            assert!(
                hops.iter().all(|hop| hop["reachable"] == true),
                "{arguments}: {hops:?}"
            );
            assert_eq!(hops.len(), HOPS, "{arguments}");
            check("nobody");
        });
    }
    Ok(())
}

#[test]
fn a_packet_that_is_too_long_is_refused() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let chain = lab.chain(2)?;
    each_family(&chain, |path| {
        let outcome = run(&chain.client, path.target, "--packet-size 9001 -q 1 -Q 0");
        let message = outcome.failure();
        assert!(message.contains("choose a smaller packet size"), "{message}");
    });
    Ok(())
}

/// Whatever this host has heard of the path's MTU before.
#[test]
fn a_path_ends_where_a_packet_is_too_long_each_time() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let chain = lab.chain(HOPS)?;
    chain.routers[2].ip("route add 10.0.6.2/32 via 10.0.4.2 mtu lock 1000")?;
    for _ in 0..2 {
        for protocol in ["udp", "icmp"] {
            let arguments =
                format!("-P {protocol} --dont-fragment --packet-size 1400 -q 1 -Q 1 --timeout 800 --details");
            let report = trace(&chain.client, chain.target_v4(), &arguments);
            let expected = [1, 2, 3, 3].map(|ttl| Some(chain.hop_addresses_v4()[ttl - 1].into()));
            assert_eq!(hops(&report), expected, "{arguments}");
            let hops = &report.details.as_ref().unwrap().runs[0].hops;
            assert!(hops.iter().all(|hop| !hop.lost.contains_key("local")), "{hops:?}");
        }
    }
    Ok(())
}

#[test]
fn runs_begin_at_the_first_ttl() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let chain = lab.chain(HOPS)?;
    for protocol in ["udp", "icmp", "tcp"] {
        each_family(&chain, |path| {
            let arguments = format!("-P {protocol} --first-ttl 3 -q 2 -Q 0");
            let outcome = run(&chain.client, path.target, &arguments);
            let report: Value = serde_json::from_str(&outcome.stdout).unwrap();
            for run in report["traceroute"]["runs"].as_array().unwrap() {
                let hops = run["hops"].as_array().unwrap();
                let ttls: Vec<_> = hops.iter().map(|hop| hop["ttl"].as_u64().unwrap()).collect();
                assert_eq!(ttls, [3, 4, 5, 6], "{arguments}");
                assert!(hops.iter().all(|hop| hop["reachable"] == true), "{arguments}");
            }
            let count = &report["traceroute"]["hop_count"];
            assert_eq!(
                (&count["min"], &count["max"]),
                (&6.into(), &6.into()),
                "{arguments}"
            );
        });
    }
    Ok(())
}

/// Linux answers six datagrams to a closed port at once, and then one a second: enough for all
/// runs, if they take turns.
#[test]
fn runs_without_a_delay_all_see_the_whole_path() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    for protocol in ["udp", "icmp", "tcp", "tcp --tcp-method sack"] {
        let chain = lab.chain(11)?;
        let server = chain.target.listen_tcp(0)?;
        let port = if protocol.starts_with("tcp") {
            server.port()
        } else {
            33434
        };
        each_family(&chain, |path| {
            let arguments = format!("-P {protocol} -p {port} --delay 0 -q 3 -Q 0");
            let report = trace(&chain.client, path.target, &arguments);
            for run in &report.runs {
                assert_eq!(addresses(run), path.hops, "{arguments}");
            }
        });
    }
    Ok(())
}
