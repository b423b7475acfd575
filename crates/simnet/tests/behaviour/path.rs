//! Routers forward, count hops, and say where packets end.

use std::collections::BTreeSet;

use crate::lab::*;
use traceroute_simnet::Dropped;

fn names(heard: &[Heard]) -> Vec<String> {
    heard.iter().map(|heard| heard.from.to_string()).collect()
}

fn trace(lab: &mut Lab, to: &str, max: u8) -> Vec<Heard> {
    (1..=max).flat_map(|ttl| lab.ask(&udp(to, 33_434, ttl))).collect()
}

#[test]
fn each_ttl_reaches_one_router_further_at_its_delay() {
    let mut lab = Lab::new(&three("", ""));
    for (target, hops) in [
        (TARGET, ["10.0.1.1", "10.0.2.1", "10.0.3.1", TARGET]),
        (
            TARGET_V6,
            ["2001:db8:1::1", "2001:db8:2::1", "2001:db8:3::1", TARGET_V6],
        ),
    ] {
        let heard = trace(&mut lab, target, 4);
        assert_eq!(names(&heard), hops);
        for (index, heard) in heard.iter().enumerate() {
            let hop = index as u8 + 1;
            assert_eq!(heard.after, ms(2.0 * f64::from(hop)));
            assert_eq!(
                heard.to,
                ip(if ip(target).is_ipv4() { CLIENT } else { CLIENT_V6 })
            );
            let initial = if hop == 4 { 64 } else { 255 };
            assert_eq!(heard.ttl, initial - (hop - 1));
            assert!(heard.icmp().checksum_ok);
            let quote = heard.quote();
            assert_eq!(quote.ttl, 1);
            assert_eq!(quote.source, heard.to);
            assert!(quote.header_checksum_ok);
            let probe = udp(target, 33_434, hop);
            assert_eq!(quote.transport, probe[probe.len() - quote.transport.len()..]);
        }
        assert!(heard[..3].iter().all(Heard::is_time_exceeded));
        let (kind, code) = if ip(target).is_ipv4() { (3, 3) } else { (1, 4) };
        assert_eq!((heard[3].icmp().kind, heard[3].icmp().code), (kind, code));
    }
    assert_eq!(lab.counters("r1").seen, 8);
    assert_eq!(lab.counters("r1").forwarded, 6);
    assert_eq!(lab.counters("r1").answered, 2);
    assert_eq!(lab.counters("target").seen, 2);
}

#[test]
fn every_protocol_is_traced_alike() {
    let mut lab = Lab::new(&three("", "[target.tcp]\nopen = [80]"));
    for target in [TARGET, TARGET_V6] {
        for probe in [udp(target, 33_434, 2), echo(target, 7, 2, 2), syn(target, 80, 2)] {
            let heard = lab.ask_one(&probe);
            assert!(heard.is_time_exceeded());
            assert!(heard.from == ip("10.0.2.1") || heard.from == ip("2001:db8:2::1"));
        }
    }
}

#[test]
fn delays_of_the_two_directions_add_up() {
    let middle = "forward = { delay = 10.5 }\nback = { delay = 0.25 }";
    let mut lab = Lab::new(&three(middle, ""));
    assert_eq!(lab.ask_one(&udp(TARGET, 1, 1)).after, ms(2.0));
    assert_eq!(lab.ask_one(&udp(TARGET, 1, 2)).after, ms(2.0 + 10.75));
    assert_eq!(lab.ask_one(&udp(TARGET, 1, 3)).after, ms(4.0 + 10.75));
}

#[test]
fn silent_routers_forward_and_say_nothing() {
    let mut lab = Lab::new(&three("silent = true", ""));
    assert_eq!(
        names(&trace(&mut lab, TARGET, 4)),
        ["10.0.1.1", "10.0.3.1", TARGET]
    );
    assert_eq!(lab.counters("r2").dropped(Dropped::Silent), 1);
    assert_eq!(lab.counters("r2").forwarded, 2);
}

#[test]
fn routers_may_answer_for_some_protocols_only() {
    let mut lab = Lab::new(&three("icmp = { answers = [\"icmp\", \"tcp\"] }", ""));
    assert!(lab.ask(&udp(TARGET, 1, 2)).is_empty());
    assert!(lab.ask_one(&echo(TARGET, 1, 1, 2)).is_time_exceeded());
    assert!(lab.ask_one(&syn(TARGET, 80, 2)).is_time_exceeded());
}

#[test]
fn a_router_that_keeps_the_ttl_is_invisible() {
    let mut lab = Lab::new(&three("ttl_decrement = 0", ""));
    let heard = trace(&mut lab, TARGET, 3);
    assert_eq!(names(&heard), ["10.0.1.1", "10.0.3.1", TARGET]);
    // Nor does it lower the reply's TTL.
    assert_eq!(heard[1].ttl, 254);
}

#[test]
fn a_router_that_counts_twice_appears_twice() {
    let mut lab = Lab::new(&three("ttl_decrement = 2", ""));
    assert_eq!(
        names(&trace(&mut lab, TARGET, 5)),
        ["10.0.1.1", "10.0.2.1", "10.0.2.1", "10.0.3.1", TARGET]
    );
}

#[test]
fn a_router_that_resets_the_ttl_hides_what_is_behind() {
    let mut lab = Lab::new(&three("ttl_reset = 64", ""));
    assert_eq!(
        names(&trace(&mut lab, TARGET, 3)),
        ["10.0.1.1", "10.0.2.1", TARGET]
    );
}

#[test]
fn zero_ttl_forwarding_shows_the_next_router_twice() {
    let mut lab = Lab::new(&three("zero_ttl_forwarding = true", ""));
    let heard = trace(&mut lab, TARGET, 4);
    assert_eq!(names(&heard), ["10.0.1.1", "10.0.3.1", "10.0.3.1", TARGET]);
    assert_eq!(
        heard.iter().map(|heard| heard.quote().ttl).collect::<Vec<_>>(),
        [1, 0, 1, 1]
    );
}

#[test]
fn a_reply_with_a_copied_ttl_dies_on_its_way_back() {
    let mut lab = Lab::new(&three("icmp = { ttl_copied = true }", ""));
    assert!(lab.ask(&udp(TARGET, 1, 2)).is_empty());
    assert_eq!(lab.counters("r1").dropped(Dropped::TtlExpiredBack), 1);
}

#[test]
fn longer_ways_back_show_in_the_ttl() {
    let mut lab = Lab::new(&three(
        "icmp = { extra_hops_back = 5, ttl = 64 }",
        "icmp = { extra_hops_back = 2 }",
    ));
    assert_eq!(lab.ask_one(&udp(TARGET, 1, 2)).ttl, 64 - 5 - 1);
    assert_eq!(lab.ask_one(&echo(TARGET, 1, 1, 9)).ttl, 64 - 2 - 3);
}

#[test]
fn replies_may_come_from_another_interface() {
    let middle = "icmp = { from_v4 = \"10.9.9.9\", from_v6 = \"2001:db8:9::9\" }";
    let mut lab = Lab::new(&three(middle, ""));
    assert_eq!(lab.ask_one(&udp(TARGET, 1, 2)).from, ip("10.9.9.9"));
    assert_eq!(lab.ask_one(&udp(TARGET_V6, 1, 2)).from, ip("2001:db8:9::9"));
}

#[test]
fn routers_can_be_targets_themselves() {
    let mut lab = Lab::new(&three("", ""));
    assert!(lab.ask_one(&echo("10.0.2.1", 1, 1, 9)).is_echo_reply());
    assert_eq!(lab.ask_one(&udp("10.0.2.1", 1, 9)).icmp().code, 3);
    assert!(lab.ask_one(&syn("2001:db8:2::1", 80, 9)).tcp().rst);
}

#[test]
fn targets_may_be_near() {
    let mut lab = Lab::new(&three("", "behind = \"r1\""));
    assert_eq!(names(&trace(&mut lab, TARGET, 2)), ["10.0.1.1", TARGET]);
    let mut lab = Lab::new("[[target]]\nv4 = \"198.51.100.1\"\ndelay = 3");
    assert_eq!(lab.ask_one(&echo(TARGET, 1, 1, 1)).after, ms(6.0));
}

#[test]
fn unknown_destinations_vanish_or_are_unreachable() {
    let mut lab = Lab::new(&three("", ""));
    assert!(lab.ask(&udp("198.51.100.99", 1, 9)).is_empty());
    assert_eq!(lab.counters("r3").dropped(Dropped::NoRoute), 1);
    let mut lab = Lab::new(&format!("no_route = \"host\"\n{}", three("", "")));
    let heard = lab.ask_one(&udp("198.51.100.99", 1, 9));
    assert_eq!(
        (heard.from, heard.icmp().kind, heard.icmp().code),
        (ip("10.0.3.1"), 3, 1)
    );
    let heard = lab.ask_one(&udp("2001:db8:ffff::99", 1, 9));
    assert_eq!(
        (heard.from, heard.icmp().kind, heard.icmp().code),
        (ip("2001:db8:3::1"), 1, 3)
    );
}

#[test]
fn a_router_without_an_address_of_the_family_is_silent() {
    let mut lab =
        Lab::new("[[hop]]\nname = \"r\"\nv6 = \"2001:db8:1::1\"\n[[target]]\nv4 = \"198.51.100.1\"");
    assert!(lab.ask(&udp(TARGET, 1, 1)).is_empty());
    assert_eq!(lab.counters("r").dropped(Dropped::Silent), 1);
    assert!(lab.ask_one(&echo(TARGET, 1, 1, 2)).is_echo_reply());
}

#[test]
fn the_traffic_class_can_be_rewritten() {
    let topology = three("traffic_class = 184", "");
    let mut lab = Lab::new(&topology);
    let heard = lab.ask_one(&udp(TARGET, 1, 3));
    assert_eq!(heard.icmp().body[1], 184);
    assert!(heard.quote().header_checksum_ok);
    let heard = lab.ask_one(&udp(TARGET_V6, 1, 3));
    assert_eq!(&heard.icmp().body[..2], [0x6B, 0x80]);
}

/// The first word and the identification of the quoted header, as the third router saw them.
fn seen(lab: &mut Lab, probe: &[u8]) -> (u32, u16) {
    let heard = lab.ask_one(probe);
    assert!(heard.quote().header_checksum_ok);
    let body = &heard.icmp().body;
    let first = u32::from_be_bytes(body[..4].try_into().unwrap());
    (first, u16::from_be_bytes([body[4], body[5]]))
}

#[test]
fn the_identification_of_atomic_packets_can_be_random() {
    let probe = udp(TARGET, 1, 3);
    let sent = u16::from_be_bytes([probe[4], probe[5]]);
    let mut fragmentable = probe.clone();
    let (mut header, _) = etherparse::Ipv4Header::from_slice(&probe).unwrap();
    assert!(header.dont_fragment);
    header.dont_fragment = false;
    header.header_checksum = header.calc_header_checksum();
    fragmentable[..20].copy_from_slice(&header.to_bytes());
    for (which, may_change) in [("atomic", false), ("unfragmented", true)] {
        let mut lab = Lab::new(&three(&format!("random_identification = \"{which}\""), ""));
        let mut drawn = |probe: &[u8]| {
            let all: BTreeSet<u16> = (0..20).map(|_| seen(&mut lab, probe).1).collect();
            all
        };
        assert!(drawn(&probe).len() > 15, "{which}");
        if may_change {
            assert!(drawn(&fragmentable).len() > 15);
        } else {
            assert_eq!(drawn(&fragmentable), [sent].into());
        }
        // The length is there in IPv6; nothing changes.
        let probe = udp(TARGET_V6, 1, 3);
        assert_eq!(seen(&mut lab, &probe).1, u16::from_be_bytes([probe[4], probe[5]]));
    }
}

#[test]
fn the_flow_label_can_be_rewritten() {
    let mut probe = udp(TARGET_V6, 1, 3);
    probe[..4].copy_from_slice(&0x6B8A_BCDE_u32.to_be_bytes());
    let mut lab = Lab::new(&three("flow_label = 74565", ""));
    assert_eq!(seen(&mut lab, &probe).0, 0x6B81_2345);
    assert_eq!(seen(&mut lab, &udp(TARGET, 1, 3)).0 >> 16, 0x4500);
    let mut lab = Lab::new(&three("flow_label = \"random\"", ""));
    let labels: BTreeSet<u32> = (0..20).map(|_| seen(&mut lab, &probe).0).collect();
    assert!(labels.len() > 15 && labels.iter().all(|word| word >> 20 == 0x6B8));
}

#[test]
fn a_forger_answers_chosen_datagrams_in_the_targets_name() {
    let mut lab = Lab::new(&three("forge_udp = [2]", "udp = { silent = [53] }"));
    for target in [TARGET, TARGET_V6] {
        let mut lab = Lab::new(&three("forge_udp = [2]", "udp = { silent = [53] }"));
        assert!(lab.ask(&udp(target, 53, 9)).is_empty());
        assert!(lab.ask_one(&udp(target, 53, 1)).is_time_exceeded());
        // It is there before the error about the same probe.
        let heard = lab.ask(&udp(target, 53, 3));
        assert_eq!(heard.len(), 2);
        assert!(heard[1].is_time_exceeded());
        assert_eq!((heard[0].from, heard[0].ttl), (ip(target), 63));
        assert!(
            matches!(
                &heard[0].what,
                What::Udp {
                    source_port: 53,
                    destination_port: 50_000,
                    payload
                } if payload == b"forged"
            ),
            "{heard:?}"
        );
        assert!(lab.ask(&udp(target, 53, 9)).is_empty());
    }
    assert!(lab.ask_one(&echo(TARGET, 53, 53, 9)).is_echo_reply());
}

#[test]
fn a_forger_answers_echo_requests_in_a_strangers_name() {
    let mut lab = Lab::new(&three("forge_echo_from = \"203.0.113.66\"", ""));
    let heard = lab.ask(&echo(TARGET, 5, 3, 3));
    assert_eq!(names(&heard), ["203.0.113.66", "10.0.3.1"]);
    assert!(heard[0].is_echo_reply());
    assert_eq!(heard[0].icmp().rest, [0, 5, 0, 3]);
    assert_eq!(lab.ask(&echo(TARGET_V6, 5, 3, 3)).len(), 1);
}
