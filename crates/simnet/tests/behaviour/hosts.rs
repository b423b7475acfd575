//! Echo, UDP and what hosts refuse.

use crate::lab::*;
use traceroute_simnet::Dropped;

#[test]
fn echo_replies_return_everything() {
    let mut lab = Lab::new(&three("", ""));
    for target in [TARGET, TARGET_V6] {
        let heard = lab.ask_one(&echo(target, 0xABCD, 17, 64));
        assert_eq!(heard.from, ip(target));
        assert!(heard.is_echo_reply() && heard.icmp().checksum_ok);
        assert_eq!(heard.icmp().rest, [0xAB, 0xCD, 0, 17]);
        assert_eq!(heard.icmp().body, b"payload");
    }
}

#[test]
fn echo_can_be_off() {
    let mut lab = Lab::new(&three("", "echo = false"));
    assert!(lab.ask(&echo(TARGET, 1, 1, 64)).is_empty());
    assert_eq!(lab.counters("target").dropped(Dropped::Silent), 1);
}

#[test]
fn udp_ports_are_open_closed_or_silent() {
    let mut lab = Lab::new(&three("", "[target.udp]\nopen = [7]\nsilent = [9]"));
    for target in [TARGET, TARGET_V6] {
        let heard = lab.ask_one(&udp(target, 7, 64));
        let What::Udp {
            source_port,
            destination_port,
            payload,
        } = heard.what
        else {
            panic!("{heard:?}")
        };
        assert_eq!(
            (source_port, destination_port, payload.as_slice()),
            (7, 50_000, &b"NSMNC\0probe"[..])
        );
        assert!(lab.ask(&udp(target, 9, 64)).is_empty());
        let heard = lab.ask_one(&udp(target, 8, 64));
        assert_eq!(heard.from, ip(target));
        assert_eq!(heard.icmp().code, if ip(target).is_ipv4() { 3 } else { 4 });
        assert!(heard.icmp().checksum_ok);
    }
}

#[test]
fn udp_services_may_have_their_own_answer() {
    let mut lab = Lab::new(&three(
        "",
        "udp = { default = \"open\", reply = \"hello\", closed = [1] }",
    ));
    assert!(
        matches!(lab.ask_one(&udp(TARGET, 7, 64)).what, What::Udp { payload, .. } if payload == b"hello")
    );
    assert_eq!(lab.ask_one(&udp(TARGET, 1, 64)).icmp().code, 3);
}

#[test]
fn hosts_may_be_firewalled() {
    let mut lab = Lab::new(&three(
        "",
        "block = [{ protocols = [\"udp\", \"tcp\"], answer = \"admin-prohibited\" }]",
    ));
    for probe in [udp(TARGET, 33_434, 64), syn(TARGET, 80, 64)] {
        let heard = lab.ask_one(&probe);
        assert_eq!(
            (heard.from, heard.icmp().kind, heard.icmp().code),
            (ip(TARGET), 3, 13)
        );
    }
    assert!(lab.ask_one(&echo(TARGET, 1, 1, 64)).is_echo_reply());
}

#[test]
fn wrong_checksums_are_dropped_by_hosts_and_forwarded_by_routers() {
    let mut lab = Lab::new(&three(
        "",
        "[target.udp]\ndefault = \"open\"\n[target.tcp]\ndefault = \"open\"",
    ));
    for target in [TARGET, TARGET_V6] {
        for mut probe in [udp(target, 7, 64), echo(target, 1, 1, 64), syn(target, 80, 64)] {
            let at = if ip(target).is_ipv4() { 21 } else { 41 };
            probe[at] ^= 0xFF;
            assert!(lab.ask(&probe).is_empty());
            probe[if ip(target).is_ipv4() { 8 } else { 7 }] = 2;
            if ip(target).is_ipv4() {
                let (mut header, _) = etherparse::Ipv4Header::from_slice(&probe).unwrap();
                header.header_checksum = header.calc_header_checksum();
                probe[..20].copy_from_slice(&header.to_bytes());
            }
            assert!(lab.ask_one(&probe).is_time_exceeded());
        }
    }
    assert_eq!(lab.counters("target").dropped(Dropped::WrongChecksum), 6);
}

#[test]
fn a_wrong_ip_header_checksum_ends_at_the_first_router() {
    let mut lab = Lab::new(&three("", ""));
    let mut probe = udp(TARGET, 7, 64);
    probe[10] ^= 0xFF;
    assert!(lab.ask(&probe).is_empty());
    assert_eq!(lab.counters("r1").dropped(Dropped::WrongChecksum), 1);
}

#[test]
fn udp_without_a_checksum_is_for_ipv4_only() {
    let mut lab = Lab::new(&three("", "udp = { default = \"open\" }"));
    let mut probe = udp(TARGET, 7, 64);
    probe[26..28].fill(0);
    assert_eq!(lab.ask(&probe).len(), 1);
    let mut probe = udp(TARGET_V6, 7, 64);
    probe[46..48].fill(0);
    assert!(lab.ask(&probe).is_empty());
}

#[test]
fn unknown_protocols_are_unreachable() {
    let mut lab = Lab::new(&three("", ""));
    let mut probe = Vec::new();
    header(TARGET, 64)
        .write(&mut probe, etherparse::IpNumber(132), &[0; 16])
        .unwrap();
    let heard = lab.ask_one(&probe);
    assert_eq!((heard.icmp().kind, heard.icmp().code), (3, 2));
}

#[test]
fn fragments_are_forwarded_and_not_reassembled() {
    let mut lab = Lab::new(&three("", ""));
    let (mut header, payload) = {
        let probe = udp(TARGET, 7, 64);
        let (header, payload) = etherparse::Ipv4Header::from_slice(&probe).unwrap();
        (header, payload.to_vec())
    };
    header.dont_fragment = false;
    header.more_fragments = true;
    header.header_checksum = header.calc_header_checksum();
    let mut probe = header.to_bytes().to_vec();
    probe.extend(payload);
    assert!(lab.ask(&probe).is_empty());
    assert_eq!(lab.counters("target").dropped(Dropped::Fragment), 1);
}
