//! ICMP errors: quotes, extensions, codes, rate limits, late duplicates.

use crate::lab::*;
use traceroute_simnet::Dropped;

fn long_udp(to: &str, ttl: u8, length: usize) -> Vec<u8> {
    udp_from(50_000, to, 33_434, ttl, &vec![0xA5; length])
}

#[test]
fn quotes_are_as_long_as_asked_for() {
    let mut lab = Lab::new(&three("icmp = { quote = 8 }", ""));
    for target in [TARGET, TARGET_V6] {
        let heard = lab.ask_one(&udp(target, 33_434, 2));
        assert_eq!(heard.quote().transport.len(), 8);
        assert_eq!(heard.icmp().rest, [0; 4]);
    }
}

#[test]
fn full_quotes_stay_within_the_minimum_mtu() {
    let mut lab = Lab::new(&three("", ""));
    let probe = long_udp(TARGET, 2, 1200);
    let heard = lab.ask_one(&probe);
    assert_eq!(heard.icmp().body.len(), 576 - 20 - 8);
    // The length fields still say how long the packet was.
    assert_eq!(heard.icmp().body[2..4], probe[2..4]);
    let heard = lab.ask_one(&long_udp(TARGET_V6, 2, 1400));
    assert_eq!(heard.icmp().body.len(), 1280 - 40 - 8);
}

#[test]
fn mpls_labels_follow_a_padded_quote() {
    let middle = "[hop.icmp]\nmpls = [{ label = 16001, traffic_class = 5, ttl = 254 }, { label = 1048575 }]";
    let mut lab = Lab::new(&three(middle, ""));
    for (target, length_at, units) in [(TARGET, 1, 128 / 4), (TARGET_V6, 0, 128 / 8)] {
        let heard = lab.ask_one(&udp(target, 33_434, 2));
        let message = heard.icmp();
        assert!(message.checksum_ok);
        assert_eq!(message.rest[length_at], units);
        let (quote, extension) = message.body.split_at(128);
        assert_eq!(quote[127], 0);
        assert_eq!(extension[0], 0x20);
        assert_eq!(
            etherparse::checksum::u32_16bit_word::ones_complement(
                etherparse::checksum::u32_16bit_word::add_slice(0, extension)
            ),
            0
        );
        assert_eq!(extension[4..8], [0, 12, 1, 1]);
        assert_eq!(
            u32::from_be_bytes(extension[8..12].try_into().unwrap()),
            16_001 << 12 | 5 << 9 | 254
        );
        assert_eq!(
            u32::from_be_bytes(extension[12..16].try_into().unwrap()),
            0xF_FFFF << 12 | 1 << 8 | 1
        );
        assert_eq!(extension.len(), 16);
    }
}

#[test]
fn legacy_extensions_have_no_length() {
    let mut lab = Lab::new(&three(
        "icmp = { extension = \"legacy\", mpls = [{ label = 3 }] }",
        "",
    ));
    let heard = lab.ask_one(&long_udp(TARGET, 2, 500));
    assert_eq!(heard.icmp().rest, [0; 4]);
    assert_eq!(
        heard.icmp().body[128..136],
        [
            0x20,
            0,
            heard.icmp().body[130],
            heard.icmp().body[131],
            0,
            8,
            1,
            1
        ]
    );
}

#[test]
fn other_extensions_carry_interface_information() {
    let mut lab = Lab::new(&three("icmp = { extension = \"rfc4884\" }", ""));
    let heard = lab.ask_one(&udp(TARGET, 33_434, 2));
    assert_eq!(heard.icmp().body[132..140], [0, 8, 2, 8, 0, 0, 0, 1]);
}

#[test]
fn quotes_may_be_odd() {
    let mut lab = Lab::new(&three(
        "icmp = { quote_ttl = 0, quote_length_swapped = true }",
        "",
    ));
    let probe = udp(TARGET, 33_434, 2);
    let heard = lab.ask_one(&probe);
    assert_eq!(heard.icmp().body[8], 0);
    assert_eq!(heard.icmp().body[2..4], [probe[3], probe[2]]);
}

#[test]
fn messages_may_be_cut_short_or_wrong() {
    let mut lab = Lab::new(&three("icmp = { truncate = 16 }", ""));
    let heard = lab.ask_one(&udp(TARGET, 33_434, 2));
    assert_eq!(heard.icmp().body.len(), 8);
    assert!(heard.icmp().checksum_ok);
    let mut lab = Lab::new(&three("icmp = { wrong_checksum = true }", ""));
    assert!(!lab.ask_one(&udp(TARGET, 33_434, 2)).icmp().checksum_ok);
}

#[test]
fn errors_may_come_late_and_again() {
    let mut lab = Lab::new(&three(
        "icmp = { delay = 5, late_duplicates = [300, 1000.5] }",
        "",
    ));
    let heard = lab.ask(&udp(TARGET, 33_434, 2));
    assert_eq!(
        heard.iter().map(|heard| heard.after).collect::<Vec<_>>(),
        [ms(9.0), ms(309.0), ms(1009.5)]
    );
    assert!(heard.iter().all(Heard::is_time_exceeded));
    assert_eq!(lab.counters("r2").answered, 3);
}

#[test]
fn errors_may_get_lost_in_the_router() {
    let mut lab = Lab::new(&three("icmp = { loss = 0.5 }", ""));
    let heard: Vec<_> = (0..400).flat_map(|_| lab.ask(&udp(TARGET, 1, 2))).collect();
    assert!((150..250).contains(&heard.len()), "{}", heard.len());
}

#[test]
fn rate_limits_are_token_buckets() {
    let mut lab = Lab::new(&three(
        "icmp = { time_exceeded_limit = { interval = 100, burst = 3 } }",
        "",
    ));
    let mut burst = |count| {
        for _ in 0..count {
            lab.send(&udp(TARGET, 1, 2));
        }
        lab.wait(ms(100.0)).len()
    };
    assert_eq!(burst(10), 3);
    assert_eq!(burst(10), 1);
    assert_eq!(burst(0), 0);
    assert_eq!(burst(10), 2);
    assert_eq!(lab.counters("r2").dropped(Dropped::RateLimited), 30 - 6);
    // However long it was quiet, the burst stays.
    lab.wait(ms(60_000.0));
    for _ in 0..10 {
        lab.send(&udp(TARGET, 1, 2));
    }
    assert_eq!(lab.wait(ms(100.0)).len(), 3);
    // What passes is not limited, nor is the other family's client address.
    assert!(lab.ask_one(&udp(TARGET, 1, 3)).is_time_exceeded());
    assert!(lab.ask_one(&udp(TARGET_V6, 1, 2)).is_time_exceeded());
}

#[test]
fn the_default_limit_is_that_of_linux() {
    let mut lab = Lab::new(&three("", "icmp = { unreachable_limit = {} }"));
    for _ in 0..20 {
        lab.send(&udp(TARGET, 1, 9));
    }
    assert_eq!(lab.wait(ms(1000.0)).len(), 6);
    lab.send(&udp(TARGET, 1, 9));
    lab.send(&udp(TARGET, 1, 9));
    assert_eq!(lab.wait(ms(1000.0)).len(), 1);
    // Echo replies are no errors.
    assert!((0..20).all(|sequence| lab.ask_one(&echo(TARGET, 1, sequence, 9)).is_echo_reply()));
}

#[test]
fn blocking_routers_say_why() {
    for (answer, v4, v6) in [
        ("net", 0, 0),
        ("host", 1, 3),
        ("port", 3, 4),
        ("net-prohibited", 9, 1),
        ("host-prohibited", 10, 1),
        ("admin-prohibited", 13, 1),
        ("beyond-scope", 1, 2),
        ("source-policy", 13, 5),
        ("reject-route", 13, 6),
    ] {
        let block = format!("block = [{{ protocols = [\"udp\"], answer = \"{answer}\" }}]");
        let mut lab = Lab::new(&three(&block, ""));
        let heard = lab.ask_one(&udp(TARGET, 33_434, 9));
        assert_eq!(
            (heard.from, heard.icmp().kind, heard.icmp().code),
            (ip("10.0.2.1"), 3, v4)
        );
        let heard = lab.ask_one(&udp(TARGET_V6, 33_434, 9));
        assert_eq!(
            (heard.from, heard.icmp().kind, heard.icmp().code),
            (ip("2001:db8:2::1"), 1, v6)
        );
        assert!(lab.ask_one(&echo(TARGET, 1, 1, 9)).is_echo_reply());
        assert_eq!(lab.counters("r2").dropped(Dropped::Blocked), 2);
    }
    let mut lab = Lab::new(&three("block = [{ answer = \"protocol\" }]", ""));
    assert_eq!(lab.ask_one(&udp(TARGET, 1, 9)).icmp().code, 2);
    let heard = lab.ask_one(&udp(TARGET_V6, 1, 9));
    assert_eq!((heard.icmp().kind, heard.icmp().code), (4, 1));
}

#[test]
fn blocks_choose_ports_and_destinations() {
    let mut lab = Lab::new(&three(
        "block = [{ ports = [33434], to = [\"198.51.100.1\"] }]",
        "",
    ));
    assert!(lab.ask(&udp(TARGET, 33_434, 9)).is_empty());
    assert_eq!(lab.ask(&udp(TARGET, 33_435, 9)).len(), 1);
    assert_eq!(lab.ask(&udp(TARGET_V6, 33_434, 9)).len(), 1);
    assert_eq!(lab.ask(&echo(TARGET, 33_434, 33_434, 9)).len(), 1);
    // A packet whose TTL ends here is answered all the same.
    assert!(lab.ask_one(&udp(TARGET, 33_434, 2)).is_time_exceeded());
}

#[test]
fn icmp_errors_are_never_answered_with_errors() {
    let mut lab = Lab::new(&three("", ""));
    let mut packet = Vec::new();
    header(TARGET, 2)
        .icmpv4_raw(3, 3, [0; 4])
        .write(&mut packet, &udp(CLIENT, 1, 1))
        .unwrap();
    assert!(lab.ask(&packet).is_empty());
    assert_eq!(lab.counters("r2").dropped(Dropped::NoAnswerAllowed), 1);
}

#[test]
fn options_and_extension_headers_may_be_anywhere() {
    let mut lab = Lab::new(&three(
        "icmp = { quote = 8, quote_options = true, options = true }",
        "",
    ));
    // The lab's reader checks the outer header and its checksum.
    let heard = lab.ask_one(&udp(TARGET, 33_434, 2));
    let quote = heard.quote();
    assert_eq!(heard.icmp().body[0], 0x47);
    assert!(quote.header_checksum_ok);
    assert_eq!(quote.transport, udp(TARGET, 33_434, 2)[20..28]);
    let heard = lab.ask_one(&udp(TARGET_V6, 33_434, 2));
    assert!(heard.icmp().checksum_ok);
    assert_eq!(heard.icmp().body[6], 60);
    assert_eq!(heard.quote().transport[..8], [17, 0, 1, 4, 0, 0, 0, 0]);
    assert_eq!(heard.quote().transport[8..], udp(TARGET_V6, 33_434, 2)[40..48]);
}
