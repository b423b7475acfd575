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
            // The rest identifies the probe: destination port, echo sequence number, TCP sequence number.
            assert_eq!(
                quote.transport[port_at + 2..4 + port_at],
                sent[port_at + 2..4 + port_at]
            );
        }
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
    // Zero would mean "none", which IPv6 hosts refuse. One of all payloads makes it so, before and after the NAT.
    let mut lab = nat("");
    for payload in 0..=u16::MAX {
        lab.send(&udp_from(50_000, TARGET_V6, 7, 64, &payload.to_be_bytes()));
        assert_eq!(lab.wait(ms(10.0)).len(), 1, "{payload}");
    }
}
