//! Address and port translation, with quotes translated or not.

use crate::lab::*;

const OUTSIDE: &str = "203.0.113.1";
const OUTSIDE_V6: &str = "2001:db8:aaaa::1";

fn nat(more: &str) -> Lab {
    Lab::new(&three(
        &format!("[hop.nat]\nv4 = \"{OUTSIDE}\"\nv6 = \"{OUTSIDE_V6}\"\n{more}"),
        "[target.udp]\nopen = [7]\n[target.tcp]\nopen = [80]",
    ))
}

fn outside(target: &str) -> std::net::IpAddr {
    ip(if ip(target).is_ipv4() { OUTSIDE } else { OUTSIDE_V6 })
}

#[test]
fn answers_of_all_kinds_find_their_way_back() {
    let mut lab = nat("");
    for target in [TARGET, TARGET_V6] {
        let heard = lab.ask_one(&echo(target, 77, 3, 64));
        assert!(heard.is_echo_reply() && heard.icmp().checksum_ok);
        assert_eq!(heard.icmp().rest, [0, 77, 0, 3]);
        let heard = lab.ask_one(&udp(target, 7, 64));
        assert!(
            matches!(
                heard.what,
                What::Udp {
                    source_port: 7,
                    destination_port: 50_000,
                    ..
                }
            ),
            "{heard:?}"
        );
        let heard = lab.ask(&syn(target, 80, 64)).remove(0);
        assert!(heard.tcp().syn && heard.tcp().destination_port == 50_000);
        assert_eq!(
            heard.to,
            ip(if ip(target).is_ipv4() { CLIENT } else { CLIENT_V6 })
        );
    }
}

#[test]
fn translated_quotes_show_what_was_sent() {
    let mut lab = nat("");
    for target in [TARGET, TARGET_V6] {
        for probe in [udp(target, 33_434, 3), echo(target, 77, 3, 3), syn(target, 80, 3)] {
            let heard = lab.ask_one(&probe);
            assert!(heard.icmp().checksum_ok);
            let quote = heard.quote();
            assert_eq!(quote.source, heard.to);
            assert!(quote.header_checksum_ok);
            let length = quote.transport.len();
            assert_eq!(quote.transport, probe[probe.len() - length..]);
        }
    }
}

#[test]
fn untranslated_quotes_show_the_outside() {
    let mut lab = nat("translate_quotes = false");
    for target in [TARGET, TARGET_V6] {
        for (probe, port_at) in [
            (udp(target, 33_434, 3), 0),
            (echo(target, 77, 3, 3), 4),
            (syn(target, 80, 3), 0),
        ] {
            let heard = lab.ask_one(&probe);
            assert!(heard.icmp().checksum_ok);
            assert_ne!(heard.to, outside(target));
            let quote = heard.quote();
            assert_eq!(quote.source, outside(target));
            assert!(quote.header_checksum_ok);
            let sent = &probe[probe.len() - quote.transport.len()..];
            assert_ne!(quote.transport[port_at..port_at + 2], sent[port_at..port_at + 2]);
            // The rest identifies the probe: destination port, echo sequence number, TCP sequence
            // number.
            assert_eq!(
                quote.transport[port_at + 2..4 + port_at],
                sent[port_at + 2..4 + port_at]
            );
        }
    }
}

/// The checksum field of a transport header.
fn sum_at(probe: &[u8], transport: &[u8]) -> std::ops::Range<usize> {
    let protocol = if probe[0] >> 4 == 4 { probe[9] } else { probe[6] };
    let at = match protocol {
        6 => 16,
        17 => 6,
        _ => 2,
    };
    assert!(transport.len() >= at + 2);
    at..at + 2
}

#[test]
fn checksums_in_quotes_may_stay_as_they_were_outside_or_become_zero() {
    let mut outside = nat("quotes = \"untranslated\"");
    let mut stale = nat("quotes = \"stale-checksum\"");
    let mut zero = nat("quotes = \"zero-checksum\"");
    for target in [TARGET, TARGET_V6] {
        for probe in [udp(target, 33_434, 3), echo(target, 77, 3, 3), syn(target, 80, 3)] {
            let sent = &probe[if ip(target).is_ipv4() { 20 } else { 40 }..];
            let sum = sum_at(&probe, sent);
            let outside = outside.ask_one(&probe).quote().transport;
            assert_ne!(outside[sum.clone()], sent[sum.clone()]);
            let heard = stale.ask_one(&probe);
            assert!(heard.icmp().checksum_ok && heard.quote().header_checksum_ok);
            assert_eq!(heard.quote().source, heard.to);
            let mut expected = sent.to_vec();
            expected[sum.clone()].copy_from_slice(&outside[sum.clone()]);
            assert_eq!(heard.quote().transport, expected);
            if sum == (6..8) {
                expected[sum].fill(0);
            }
            let heard = zero.ask_one(&probe);
            assert!(heard.icmp().checksum_ok);
            assert_eq!(heard.quote().transport, expected);
        }
    }
}

#[test]
fn two_nats_in_series_translate_one_after_the_other() {
    let chain = |home: &str, carrier: &str| {
        let home = format!("nat = {{ v4 = \"100.64.0.2\", v6 = \"2001:db8:cccc::1\", quotes = \"{home}\" }}");
        let carrier =
            format!("nat = {{ v4 = \"{OUTSIDE}\", v6 = \"{OUTSIDE_V6}\", quotes = \"{carrier}\" }}");
        Lab::new(
            &three(&carrier, "[target.udp]\nopen = [7]\n[target.tcp]\nopen = [80]").replacen(
                "delay = 1",
                &format!("delay = 1\n{home}"),
                1,
            ),
        )
    };
    for target in [TARGET, TARGET_V6] {
        let transport = if ip(target).is_ipv4() { 20 } else { 40 };
        let mut lab = chain("translated", "translated");
        assert!(lab.ask_one(&echo(target, 77, 3, 64)).is_echo_reply());
        assert_eq!(
            lab.ask(&syn(target, 80, 64))
                .first()
                .unwrap()
                .tcp()
                .destination_port,
            50_000
        );
        for ttl in [2, 3, 64] {
            let probe = udp(target, 33_434, ttl);
            let quote = lab.ask_one(&probe).quote();
            assert_eq!(quote.transport, probe[transport..]);
        }
        // Each does its part: what the carrier's leaves wrong, the one at home keeps.
        let probe = udp(target, 33_434, 3);
        let mut lab = chain("translated", "stale-checksum");
        let quote = lab.ask_one(&probe).quote();
        assert_eq!(quote.transport[..6], probe[transport..transport + 6]);
        assert_ne!(quote.transport[6..8], probe[transport + 6..transport + 8]);
        let mut lab = chain("untranslated", "translated");
        assert_ne!(
            lab.ask_one(&probe).quote().transport[..2],
            probe[transport..transport + 2]
        );
        // The one at home does not know what the other has left untranslated, and drops it.
        let mut lab = chain("translated", "untranslated");
        assert!(lab.ask(&probe).is_empty());
        assert_eq!(
            lab.counters("r1")
                .dropped(traceroute_simnet::Dropped::NoTranslation),
            1
        );
        assert_eq!(
            lab.ask_one(&udp(target, 33_434, 2)).quote().transport[..2],
            probe[transport..transport + 2]
        );
    }
}

#[test]
fn ports_may_stay() {
    let mut lab = nat("ports = false\ntranslate_quotes = false");
    let quote = lab.ask_one(&udp(TARGET, 33_434, 3)).quote();
    assert_eq!(quote.source, ip(OUTSIDE));
    assert_eq!(quote.transport[..2], 50_000_u16.to_be_bytes());
}

#[test]
fn the_nat_itself_and_those_before_it_quote_the_inside() {
    let mut lab = nat("translate_quotes = false");
    for ttl in [1, 2] {
        assert_eq!(lab.ask_one(&udp(TARGET, 33_434, ttl)).quote().source, ip(CLIENT));
    }
}

#[test]
fn short_quotes_are_translated_too() {
    let topology = three(&format!("[hop.nat]\nv4 = \"{OUTSIDE}\""), "")
        .replace("v4 = \"10.0.3.1\"", "v4 = \"10.0.3.1\"\nicmp = { quote = 8 }");
    let mut lab = Lab::new(&topology);
    for probe in [udp(TARGET, 33_434, 3), echo(TARGET, 77, 3, 3), syn(TARGET, 80, 3)] {
        let heard = lab.ask_one(&probe);
        assert_eq!(heard.quote().source, ip(CLIENT));
        let transport = heard.quote().transport;
        assert_eq!(transport, probe[20..28]);
    }
}

#[test]
fn quotes_with_options_or_extension_headers_are_translated_too() {
    let topology = three(
        &format!("[hop.nat]\nv4 = \"{OUTSIDE}\"\nv6 = \"{OUTSIDE_V6}\""),
        "",
    )
    .replace(
        "v4 = \"10.0.3.1\"",
        "v4 = \"10.0.3.1\"\nicmp = { quote_options = true }",
    );
    let mut lab = Lab::new(&topology);
    for target in [TARGET, TARGET_V6] {
        // An extension header is in front of what the lab takes for the transport.
        let extension = if ip(target).is_ipv4() { 0 } else { 8 };
        for probe in [udp(target, 33_434, 3), echo(target, 77, 3, 3), syn(target, 80, 3)] {
            let quote = lab.ask_one(&probe).quote();
            assert_eq!(
                quote.source,
                ip(if ip(target).is_ipv4() { CLIENT } else { CLIENT_V6 })
            );
            let transport = &quote.transport[extension..];
            assert_eq!(transport, &probe[probe.len() - transport.len()..]);
        }
    }
}

#[test]
fn what_was_wrong_before_stays_wrong() {
    let mut lab = nat("");
    let mut probe = udp(TARGET, 7, 64);
    *probe.last_mut().unwrap() ^= 1;
    assert!(lab.ask(&probe).is_empty());
    assert_eq!(
        lab.counters("target")
            .dropped(traceroute_simnet::Dropped::WrongChecksum),
        1
    );
}

#[test]
fn different_flows_get_different_ports() {
    let mut lab = nat("translate_quotes = false");
    let mut port = |from| {
        let probe = udp_from(from, TARGET, 33_434, 3, b"payload");
        lab.ask_one(&probe).quote().transport[..2].to_vec()
    };
    assert_eq!(port(1000), port(1000));
    assert_ne!(port(1000), port(1001));
}

#[test]
fn a_udp_checksum_never_becomes_zero() {
    // Zero would mean "none", which IPv6 hosts refuse. One of all payloads makes it so, before and
    // after the NAT.
    let mut lab = nat("");
    for payload in 0..=u16::MAX {
        lab.send(&udp_from(50_000, TARGET_V6, 7, 64, &payload.to_be_bytes()));
        assert_eq!(lab.wait(ms(10.0)).len(), 1, "{payload}");
    }
}
