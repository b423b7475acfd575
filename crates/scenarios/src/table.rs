//! The scenarios.

use crate::scenario::Aspect::{Icmp as IcmpCode, Mpls, QuotedTtl, ReplyTtl};
use crate::scenario::Family::{V4, V6};
use crate::scenario::Method::{Icmp, PreferSack, Sack, Syn, Udp};
use crate::scenario::{Expect, Family, Method, Scenario};

/// A scenario on four routers and a target that has nothing special but these lines.
fn four(
    name: &'static str,
    what: &'static str,
    special: &'static [(usize, &'static str)],
    expect: Vec<Expect>,
) -> Scenario {
    Scenario {
        name,
        what,
        routers: 4,
        special,
        head: "",
        example: None,
        target: 11,
        udp_port: 33434,
        tcp_port: 80,
        timeout_ms: 300,
        max_ttl: 8,
        expect,
    }
}

const OPEN: (usize, &str) = (0, "tcp = { open = [80] }");
const PARALLEL: [Method; 2] = [Icmp, Udp];
const TCP: [Method; 3] = [Syn, Sack, PreferSack];
const NOT_UDP: [Method; 4] = [Icmp, Syn, Sack, PreferSack];
const SACKS: [Method; 2] = [Sack, PreferSack];
const NOT_SACK: [Method; 4] = [Icmp, Udp, Syn, PreferSack];
const PLAIN: &str = "r1 r2 r3 r4 T!";

const NO_TCP: &str = "what the TCP server does concerns no other probes";
const NO_UDP: &str = "what the UDP service does concerns no other probes";

const NO_CONNECTION: &str =
    "SACK not supported for this target/source: no connection to {target} port {port} within 300 ms";
const NO_SACK: &str = "SACK not supported for this target/source: the target's SYN-ACK does not permit SACK";
const REFUSED: &str = "SACK not supported for this target/source: cannot connect to {target}: Connection refused (os error 111)";
const HOST: &str = "SACK not supported for this target/source: cannot connect to {target}: No route to host (os error 113) (the next hop does not answer, or a router on the way refuses)";
const NET: &str = "SACK not supported for this target/source: cannot connect to {target}: Network is unreachable (os error 101) (the next hop does not answer, or a router on the way refuses)";
const PROTOCOL: &str = "SACK not supported for this target/source: cannot connect to {target}: Protocol not available (os error 92)";
const PARAMETER: &str =
    "SACK not supported for this target/source: cannot connect to {target}: Protocol error (os error 71)";
const DENIED: &str = "SACK not supported for this target/source: cannot connect to {target}: Permission denied (os error 13) (a firewall on this host or on the way forbids it)";

/// All scenarios.
pub fn scenarios() -> Vec<Scenario> {
    [
        links(),
        routers(),
        quotes(),
        balancing(),
        translation(),
        refusals(),
        tricks(),
        hosts(),
        sack(),
        strangers(),
    ]
    .concat()
}

fn links() -> Vec<Scenario> {
    vec![
        four("straight", "nothing", &[OPEN], vec![Expect::all(PLAIN)]),
        Scenario {
            example: Some("straight"),
            max_ttl: 14,
            timeout_ms: 200,
            ..four(
                "eleven-hops",
                "nothing, eleven hops",
                &[],
                vec![Expect::all("r1 r2 r3 r4 r5 r6 r7 r8 r9 r10 T!")],
            )
        },
        Scenario {
            routers: 0,
            ..four(
                "next-door",
                "the target is the next hop",
                &[OPEN],
                vec![Expect::all("T!")],
            )
        },
        four(
            "slow-link",
            "r3 is behind a link of 60 ms, longer than the time between probes",
            &[OPEN, (3, "forward = { delay = 60 }\nback = { delay = 60 }")],
            vec![Expect::all(PLAIN)],
        ),
        four(
            "jitter",
            "links with up to 5 ms of jitter, and r3 takes 10 to 50 ms to answer",
            &[
                OPEN,
                (2, "forward = { jitter = 5 }\nback = { jitter = 5 }"),
                (3, "icmp = { delay = 10, jitter = 40 }"),
            ],
            vec![Expect::all(PLAIN)],
        ),
        four(
            "asymmetric",
            "the way back is 40 ms slower from r2 on, and 6 hops longer from r3 and r4",
            &[
                OPEN,
                (2, "back = { delay = 41 }"),
                (3, "icmp = { extra_hops_back = 6 }"),
                (4, "icmp = { extra_hops_back = 6, ttl = 64 }"),
            ],
            vec![Expect::all(PLAIN).with(ReplyTtl, "255 254 247 55 60")],
        ),
        four(
            "probe-lost",
            "the first packet on the link to r3 is lost; the second attempt is not",
            &[OPEN, (3, "forward = { lose = [1] }")],
            vec![
                Expect::on(&NOT_SACK, PLAIN).received(9..=9),
                Expect::fails(&[Sack], NO_CONNECTION).received(9..=9),
            ],
        ),
        four(
            "answer-lost",
            "the first packet back from r3 is lost; the second attempt is answered",
            &[OPEN, (3, "icmp = {}\nback = { lose = [1] }")],
            vec![
                Expect::on(&NOT_SACK, PLAIN).received(9..=9),
                Expect::fails(&[Sack], NO_CONNECTION).received(9..=9),
            ],
        ),
        four(
            "last-probe-lost",
            "the first packet on the link to the target is lost; the distance is asked again",
            &[OPEN, (0, "forward = { lose = [1] }")],
            vec![
                Expect::on(&NOT_SACK, PLAIN).received(9..=9),
                Expect::fails(&[Sack], NO_CONNECTION).received(9..=9),
            ],
        ),
        // Of the TCP probes, more end-to-end ones are answered: the refusals of the client's kernel
        // are among the packets that get lost. The server repeats a SYN-ACK after a second, which
        // should be midway between two of these probes.
        Scenario {
            timeout_ms: 360,
            ..four(
                "lossy",
                "every second of the first packets to and from the target is lost: probes, acknowledgments, RSTs, answers",
                &[
                    OPEN,
                    (0, "forward = { lose = [2, 4, 6, 8] }\nback = { lose = [2, 4] }"),
                ],
                vec![
                    Expect::on(&PARALLEL, PLAIN).received(4..=4),
                    Expect::on(&TCP, PLAIN).received(8..=8),
                ],
            )
        },
        four(
            "duplicates",
            "the network doubles every packet to r3 and back from r2 and the target",
            &[
                OPEN,
                (3, "forward = { duplicate = 1 }"),
                (2, "back = { duplicate = 1 }"),
                (0, "back = { duplicate = 1 }"),
            ],
            vec![Expect::all(PLAIN)],
        ),
        four(
            "late-duplicates",
            "routers repeat their answers 100 and 300 ms later; r3 is silent, which takes time",
            &[
                OPEN,
                (1, "icmp = { late_duplicates = [100, 300] }"),
                (2, "icmp = { late_duplicates = [100, 300] }"),
                (3, "silent = true"),
                (4, "icmp = { late_duplicates = [100, 300] }"),
            ],
            vec![Expect::all("r1 r2 * r4 T!")],
        ),
        four(
            "reordering",
            "a third of the packets to r2 and to the target are overtaken by later ones",
            &[
                OPEN,
                (2, "forward = { reorder = 0.3, reorder_delay = 70 }"),
                (0, "forward = { reorder = 0.3, reorder_delay = 70 }"),
            ],
            vec![Expect::all(PLAIN)],
        ),
        four(
            "later-than-timeout",
            "r3 answers after 320 ms, the timeout is 300 ms: credited to its own probe, or to none",
            &[OPEN, (3, "icmp = { delay = 320 }")],
            vec![Expect::all("r1 r2 r3|* r4 T!")],
        ),
        four(
            "long-after-timeout",
            "r3 answers after 500 ms, the timeout is 300 ms: too late for its own probe, and credited to no other",
            &[OPEN, (3, "icmp = { delay = 500 }")],
            vec![Expect::all("r1 r2 * r4 T!")],
        ),
    ]
}

fn routers() -> Vec<Scenario> {
    vec![
        four(
            "silent-router",
            "r3 sends no errors",
            &[OPEN, (3, "silent = true")],
            vec![Expect::all("r1 r2 * r4 T!")],
        ),
        four(
            "silent-routers",
            "only r4 sends errors",
            &[
                OPEN,
                (1, "silent = true"),
                (2, "silent = true"),
                (3, "silent = true"),
            ],
            vec![Expect::all("* * * r4 T!")],
        ),
        four(
            "icmp-only",
            "r2 answers ICMP probes only, r3 UDP probes only",
            &[
                OPEN,
                (2, "icmp = { answers = [\"icmp\"] }"),
                (3, "icmp = { answers = [\"udp\"] }"),
            ],
            vec![
                Expect::on(&[Icmp], "r1 r2 * r4 T!"),
                Expect::on(&[Udp], "r1 * r3 r4 T!"),
                Expect::on(&TCP, "r1 * * r4 T!"),
            ],
        ),
        four(
            "limited-router",
            "r2 counts twice and sends one error in 10 seconds",
            &[
                OPEN,
                (
                    2,
                    "ttl_decrement = 2\nicmp = { time_exceeded_limit = { interval = 10000, burst = 1 } }",
                ),
            ],
            vec![Expect::all("r1 r2 * r3 r4 T!")],
        ),
        four(
            "limited-target",
            "the target limits port unreachables as Linux does: one a second, six at once",
            &[OPEN, (0, "icmp = { unreachable_limit = {} }")],
            vec![
                Expect::on(&[Udp], PLAIN).received(8..=8).varying(),
                Expect::all(PLAIN),
            ],
        ),
        four(
            "linux-limits",
            "all routers and the target limit errors as Linux does",
            &[
                OPEN,
                (1, "icmp = { limit = \"linux\" }"),
                (2, "icmp = { limit = \"linux\" }"),
                (3, "icmp = { limit = \"linux\" }"),
                (4, "icmp = { limit = \"linux\" }"),
                (0, "icmp = { limit = \"linux\" }"),
            ],
            vec![
                Expect::on(&[Udp], PLAIN).received(8..=8).varying().only(V4),
                Expect::all(PLAIN),
            ],
        ),
        four(
            "slow-router",
            "r2 takes 200 ms to send an error",
            &[OPEN, (2, "icmp = { delay = 200 }")],
            vec![Expect::all(PLAIN)],
        ),
    ]
}

fn quotes() -> Vec<Scenario> {
    vec![
        four(
            "quotes",
            "r1 quotes 8 bytes, r2 all, r3 pads as before RFC 4884, r4 as RFC 4884 says; the target quotes 8",
            &[
                OPEN,
                (1, "icmp = { quote = 8 }"),
                (3, "icmp = { extension = \"legacy\" }"),
                (4, "icmp = { extension = \"rfc4884\" }"),
                (0, "icmp = { quote = 8 }"),
            ],
            vec![Expect::all(PLAIN)],
        ),
        four(
            "mpls",
            "r2, r3 and r4 report MPLS labels, in each layout",
            &[
                OPEN,
                (2, "icmp = { mpls = [{ label = 16001 }] }"),
                (
                    3,
                    "icmp = { extension = \"legacy\", mpls = [{ label = 24001, traffic_class = 5 }] }",
                ),
                (
                    4,
                    "icmp = { quote = 8, mpls = [{ label = 1 }, { label = 2, ttl = 254 }] }",
                ),
            ],
            vec![Expect::all(PLAIN).with(
                Mpls,
                "- L=16001,E=0,S=1,T=1 L=24001,E=5,S=1,T=1 L=1,E=0,S=0,T=1/L=2,E=0,S=1,T=254 -",
            )],
        ),
        four(
            "odd-quotes",
            "quotes with TTL 0 (r1), length in the wrong byte order (r2), options or extension headers (r3), another traffic class (r4)",
            &[
                OPEN,
                (1, "icmp = { quote_ttl = 0 }"),
                (2, "icmp = { quote_length_swapped = true }"),
                (3, "icmp = { quote_options = true }\ntraffic_class = 184"),
            ],
            vec![
                Expect::on(&[Udp], PLAIN).with(QuotedTtl, "0 1 1 1 1"),
                Expect::all(PLAIN).with(QuotedTtl, "0 1 1 1 -"),
            ],
        ),
        four(
            "cut-quotes",
            "errors of 4 bytes (r1), cut within the quote (r2), without a transport header (r3), of 8 bytes (r4)",
            &[
                OPEN,
                (1, "icmp = { truncate = 4 }"),
                (2, "icmp = { truncate = 16 }"),
                (3, "icmp = { quote = 0 }"),
                (4, "icmp = { truncate = 8 }"),
            ],
            vec![Expect::all("* * * * T!")],
        ),
        four(
            "wrong-checksum",
            "errors of r2 have a wrong ICMP checksum",
            &[OPEN, (2, "icmp = { wrong_checksum = true }")],
            vec![Expect::all("r1 * r3 r4 T!")],
        ),
        four(
            "options",
            "errors of r2 and r3, and the target's echo replies and datagrams, carry IP options or extension headers",
            &[
                OPEN,
                (2, "icmp = { options = true }"),
                (3, "icmp = { options = true, quote_options = true }"),
                (0, "icmp = { options = true }"),
            ],
            vec![Expect::all(PLAIN)],
        ),
    ]
}

// Branches behind r2; A2 makes the first as long as the second.
const WAY_A: &str = "\
[[hop.branch]]
[[hop.branch.hop]]
name = \"a1\"
v4 = \"10.1.1.1\"
v6 = \"2001:db8:101::1\"
delay = 1
";
const A2: &str = "\
[[hop.branch.hop]]
name = \"a2\"
v4 = \"10.1.1.2\"
v6 = \"2001:db8:101::2\"
delay = 1
";
const WAY_B: &str = "\
[[hop.branch]]
[[hop.branch.hop]]
name = \"b1\"
v4 = \"10.1.2.1\"
v6 = \"2001:db8:102::1\"
delay = 1
[[hop.branch.hop]]
name = \"b2\"
v4 = \"10.1.2.2\"
v6 = \"2001:db8:102::2\"
delay = 1
";

/// Two ways between r2 and r3, of two hops each.
fn two_ways(name: &'static str, what: &'static str, balance: &'static str, expect: Expect) -> Scenario {
    let special: &'static [(usize, &'static str)] = match balance {
        "ports" => &[OPEN, (2, "balance = \"ports\""), (2, WAY_A), (2, A2), (2, WAY_B)],
        "addresses" => &[
            OPEN,
            (2, "balance = \"addresses\""),
            (2, WAY_A),
            (2, A2),
            (2, WAY_B),
        ],
        "first-four-bytes" => &[
            OPEN,
            (2, "balance = \"first-four-bytes\""),
            (2, WAY_A),
            (2, A2),
            (2, WAY_B),
        ],
        "flow-label" => &[
            OPEN,
            (2, "balance = \"flow-label\""),
            (2, WAY_A),
            (2, A2),
            (2, WAY_B),
        ],
        "packet" => &[OPEN, (2, "balance = \"packet\""), (2, WAY_A), (2, A2), (2, WAY_B)],
        _ => &[
            OPEN,
            (2, "balance = \"round-robin\""),
            (2, WAY_A),
            (2, A2),
            (2, WAY_B),
        ],
    };
    Scenario {
        routers: 3,
        ..four(name, what, special, vec![expect])
    }
}

fn balancing() -> Vec<Scenario> {
    let one_way = || Expect::all("r1 r2 a1 a2 r3 T! || r1 r2 b1 b2 r3 T!");
    let any_way = || Expect::all("r1 r2 a1|b1 a2|b2 r3 T!");
    vec![
        two_ways(
            "balance-addresses",
            "r2 balances by addresses",
            "addresses",
            one_way().repeatable(),
        ),
        two_ways(
            "balance-ports",
            "r2 balances by addresses and ports",
            "ports",
            one_way(),
        ),
        two_ways(
            "balance-checksum",
            "r2 balances by the first four transport bytes, for ICMP the checksum",
            "first-four-bytes",
            one_way(),
        ),
        two_ways(
            "balance-flow-label",
            "r2 balances by the IPv6 flow label",
            "flow-label",
            one_way(),
        ),
        two_ways(
            "balance-packet",
            "r2 sends each packet either way",
            "packet",
            any_way(),
        ),
        two_ways(
            "balance-round-robin",
            "r2 sends packets in turns",
            "round-robin",
            any_way().repeatable(),
        ),
        unequal_ways(),
    ]
}

/// Two ways between r2 and r3, of one and of two hops, in turns.
fn unequal_ways() -> Scenario {
    Scenario {
        routers: 3,
        ..four(
            "balance-unequal",
            "r2 sends packets in turns, one way is a hop longer",
            &[OPEN, (2, "balance = \"round-robin\""), (2, WAY_A), (2, WAY_B)],
            vec![Expect::all("r1 r2 a1|b1 r3|b2 T! || r1 r2 a1|b1 r3|b2 r3 T!").repeatable()],
        )
    }
}

fn translation() -> Vec<Scenario> {
    vec![
        four(
            "nat",
            "r2 translates addresses and ports, also in quotes",
            &[
                OPEN,
                (2, "nat = { v4 = \"203.0.113.1\", v6 = \"2001:db8:aaaa::1\" }"),
            ],
            vec![Expect::all(PLAIN)],
        ),
        four(
            "nat-stale",
            "r2 translates addresses and ports, in quotes, too, where it leaves the checksum as it was outside",
            &[
                OPEN,
                (
                    2,
                    "nat = { v4 = \"203.0.113.1\", v6 = \"2001:db8:aaaa::1\", quotes = \"stale-checksum\" }",
                ),
            ],
            vec![Expect::all(PLAIN)],
        ),
        four(
            "nat-zero",
            "the same, and sets the UDP checksum in quotes to 0",
            &[
                OPEN,
                (
                    2,
                    "nat = { v4 = \"203.0.113.1\", v6 = \"2001:db8:aaaa::1\", quotes = \"zero-checksum\" }",
                ),
            ],
            vec![Expect::all(PLAIN)],
        ),
        four(
            "cgnat",
            "r1 and r3 both translate, and r1 leaves checksums in quotes as they were outside",
            &[
                OPEN,
                (
                    1,
                    "nat = { v4 = \"100.64.0.2\", v6 = \"2001:db8:cccc::1\", quotes = \"stale-checksum\" }",
                ),
                (3, "nat = { v4 = \"203.0.113.1\", v6 = \"2001:db8:aaaa::1\" }"),
            ],
            vec![Expect::all(PLAIN)],
        ),
        four(
            "cgnat-stale",
            "r1 and r3 both translate and leave checksums in quotes as they were outside; r4 quotes 8 bytes",
            &[
                OPEN,
                (
                    1,
                    "nat = { v4 = \"100.64.0.2\", v6 = \"2001:db8:cccc::1\", quotes = \"stale-checksum\" }",
                ),
                (
                    3,
                    "nat = { v4 = \"203.0.113.1\", v6 = \"2001:db8:aaaa::1\", quotes = \"stale-checksum\" }",
                ),
                (4, "icmp = { quote = 8 }"),
            ],
            vec![Expect::all(PLAIN)],
        ),
        four(
            "identification-rewritten",
            "r2 gives atomic IPv4 packets a random identification (RFC 6864)",
            &[OPEN, (2, "random_identification = \"atomic\"")],
            vec![Expect::all(PLAIN)],
        ),
        four(
            "identification-scrubbed",
            "r2 gives all IPv4 packets a random identification, as pf's \"scrub random-id\" does",
            &[OPEN, (2, "random_identification = \"unfragmented\"")],
            vec![Expect::all(PLAIN)],
        ),
        four(
            "class-rewritten",
            "r2 rewrites the type of service or traffic class, and r3 the IPv6 flow label of each packet",
            &[OPEN, (2, "traffic_class = 40"), (3, "flow_label = \"random\"")],
            vec![Expect::all(PLAIN)],
        ),
        four(
            "nat-and-scrub",
            "r2 translates and leaves checksums in quotes as they were outside, and r3 gives IPv4 packets a random identification: of an ICMP or UDP probe one mark is left",
            &[
                OPEN,
                (
                    2,
                    "nat = { v4 = \"203.0.113.1\", v6 = \"2001:db8:aaaa::1\", quotes = \"stale-checksum\" }",
                ),
                (3, "random_identification = \"unfragmented\""),
            ],
            vec![
                Expect::on(&[Icmp], "r1 r2 r3 * T!").only(V4),
                Expect::on(&[Udp], "r1 r2 r3 * * * * *").received(0..=0).only(V4),
                Expect::all(PLAIN),
            ],
        ),
        four(
            "nat-untranslated",
            "r2 translates addresses and ports, but leaves quotes alone; r4 quotes 8 bytes",
            &[
                OPEN,
                (
                    2,
                    "nat = { v4 = \"203.0.113.1\", v6 = \"2001:db8:aaaa::1\", translate_quotes = false }",
                ),
                (4, "icmp = { quote = 8 }"),
            ],
            vec![Expect::all(PLAIN)],
        ),
        four(
            "nat-addresses",
            "r2 translates addresses only, and leaves quotes alone",
            &[
                OPEN,
                (
                    2,
                    "nat = { v4 = \"203.0.113.1\", v6 = \"2001:db8:aaaa::1\", ports = false, translate_quotes = false }",
                ),
            ],
            vec![Expect::all(PLAIN)],
        ),
        four(
            "nat-twice",
            "r1 and r3 both translate; r3 leaves quotes alone, so r1 takes them for somebody else's and drops the errors",
            &[
                OPEN,
                (1, "nat = { v4 = \"203.0.113.1\", v6 = \"2001:db8:aaaa::1\" }"),
                (
                    3,
                    "nat = { v4 = \"203.0.113.2\", v6 = \"2001:db8:bbbb::1\", translate_quotes = false }",
                ),
            ],
            vec![
                Expect::on(&[Udp], "r1 r2 r3 * * * * *").received(0..=0),
                Expect::all("r1 r2 r3 * T!"),
            ],
        ),
    ]
}

/// r3 refuses to forward.
fn refused(
    name: &'static str,
    what: &'static str,
    special: &'static [(usize, &'static str)],
    v4: (u8, &'static str),
    v6: (u8, &'static str),
) -> Scenario {
    let refusals = |(code, error), family| {
        [
            Expect::on(&NOT_SACK, "r1 r2 r3 r3")
                .received(0..=0)
                .unreachable(3, code, 1, family),
            Expect::fails(&[Sack], error).received(0..=0).only(family),
        ]
    };
    four(name, what, special, [refusals(v4, V4), refusals(v6, V6)].concat())
}

/// r3 refuses to forward, for a reason that only `ICMPv6` knows.
fn refused_v6(
    name: &'static str,
    what: &'static str,
    special: &'static [(usize, &'static str)],
    v6: (u8, &'static str),
) -> Scenario {
    let mut scenario = refused(name, what, special, (0, ""), v6);
    let left_out = Expect::left_out(&Method::ALL, "ICMPv6 alone has this code").only(V4);
    scenario.expect.insert(0, left_out);
    scenario
}

fn refusals() -> Vec<Scenario> {
    vec![
        refused(
            "net-unreachable",
            "r3 answers network unreachable",
            &[(3, "block = [{ answer = \"net\" }]")],
            (0, NET),
            (0, NET),
        ),
        refused(
            "host-unreachable",
            "r3 answers host unreachable",
            &[(3, "block = [{ answer = \"host\" }]")],
            (1, HOST),
            (3, HOST),
        ),
        four(
            "protocol-unreachable",
            "r3 answers protocol unreachable, which in IPv6 is a parameter problem: no answer to a probe",
            &[(3, "block = [{ answer = \"protocol\" }]")],
            vec![
                Expect::on(&NOT_SACK, "r1 r2 r3 r3")
                    .received(0..=0)
                    .unreachable(3, 2, 1, V4),
                Expect::on(&NOT_SACK, "r1 r2 r3 * * * * *")
                    .only(V6)
                    .received(0..=0),
                Expect::fails(&[Sack], PROTOCOL).only(V4).received(0..=0),
                Expect::fails(&[Sack], PARAMETER).only(V6).received(0..=0),
            ],
        ),
        refused(
            "port-unreachable",
            "r3 answers port unreachable, as if it were the target",
            &[(3, "block = [{ answer = \"port\" }]")],
            (3, REFUSED),
            (4, REFUSED),
        ),
        refused(
            "net-prohibited",
            "r3 answers network prohibited",
            &[(3, "block = [{ answer = \"net-prohibited\" }]")],
            (9, NET),
            (1, DENIED),
        ),
        refused(
            "host-prohibited",
            "r3 answers host prohibited",
            &[(3, "block = [{ answer = \"host-prohibited\" }]")],
            (10, HOST),
            (1, DENIED),
        ),
        refused(
            "admin-prohibited",
            "r3 answers administratively prohibited",
            &[(3, "block = [{ answer = \"admin-prohibited\" }]")],
            (13, HOST),
            (1, DENIED),
        ),
        refused_v6(
            "beyond-scope",
            "r3 answers beyond scope of the source address",
            &[(3, "block = [{ answer = \"beyond-scope\" }]")],
            (2, HOST),
        ),
        refused_v6(
            "source-policy",
            "r3 answers that the source address failed a policy",
            &[(3, "block = [{ answer = \"source-policy\" }]")],
            (5, DENIED),
        ),
        refused_v6(
            "reject-route",
            "r3 answers reject route to destination",
            &[(3, "block = [{ answer = \"reject-route\" }]")],
            (6, DENIED),
        ),
        four(
            "filtered-silently",
            "r3 drops everything without a word",
            &[(3, "block = [{}]")],
            vec![
                Expect::on(&NOT_SACK, "r1 r2 r3 * * * * *").received(0..=0),
                Expect::fails(&[Sack], NO_CONNECTION).received(0..=0),
            ],
        ),
        four(
            "udp-filtered",
            "r3 answers UDP with administratively prohibited and forwards the rest",
            &[
                OPEN,
                (
                    3,
                    "block = [{ protocols = [\"udp\"], answer = \"admin-prohibited\" }]",
                ),
            ],
            {
                let refused = |code, family| {
                    Expect::on(&[Udp], "r1 r2 r3 r3")
                        .received(0..=0)
                        .unreachable(3, code, 1, family)
                };
                vec![refused(13, V4), refused(1, V6), Expect::all(PLAIN)]
            },
        ),
        four(
            "target-prohibits",
            "the target answers everything with administratively prohibited",
            &[(0, "block = [{ answer = \"admin-prohibited\" }]")],
            vec![
                Expect::on(&NOT_SACK, PLAIN).unreachable(4, 13, 1, V4),
                Expect::on(&NOT_SACK, PLAIN).unreachable(4, 1, 1, V6),
                Expect::fails(&[Sack], HOST).only(V4),
                Expect::fails(&[Sack], DENIED).only(V6),
            ],
        ),
        Scenario {
            example: Some("dead-host"),
            timeout_ms: 3500,
            ..four(
                "dead-host",
                "r3 waits 3 seconds for a neighbour that does not exist, and then answers host unreachable, as Linux does",
                &[],
                vec![
                    // How many fit between answers that come after seconds is a matter of
                    // milliseconds.
                    Expect::on(&[Udp], "r1 r2 r3 r3").received(0..=0).varying(),
                    Expect::on(&NOT_SACK, "r1 r2 r3 r3").received(0..=0),
                    Expect::fails(&[Sack], HOST).received(0..=0),
                ],
            )
        },
        Scenario {
            head: "no_route = \"host\"",
            target: 99,
            ..four(
                "no-such-host",
                "r4 knows no way to the address",
                &[],
                vec![
                    Expect::on(&NOT_SACK, "r1 r2 r3 r4 r4")
                        .received(0..=0)
                        .unreachable(4, 1, 1, V4),
                    Expect::on(&NOT_SACK, "r1 r2 r3 r4 r4")
                        .received(0..=0)
                        .unreachable(4, 3, 1, V6),
                    Expect::fails(&[Sack], HOST).received(0..=0),
                ],
            )
        },
    ]
}

fn tricks() -> Vec<Scenario> {
    vec![
        four(
            "invisible-router",
            "r2 does not lower the TTL",
            &[OPEN, (2, "ttl_decrement = 0")],
            vec![Expect::all("r1 r3 r4 T!")],
        ),
        four(
            "counted-twice",
            "r2 lowers the TTL by 2",
            &[OPEN, (2, "ttl_decrement = 2")],
            vec![
                Expect::on(&[Udp], "r1 r2 r2 r3 r4 T!").with(QuotedTtl, "1 1 2 1 1 1"),
                Expect::all("r1 r2 r2 r3 r4 T!").with(QuotedTtl, "1 1 2 1 1 -"),
            ],
        ),
        four(
            "zero-ttl",
            "r2 forwards with TTL 0, so r3 answers for it",
            &[OPEN, (2, "zero_ttl_forwarding = true")],
            vec![
                Expect::on(&[Udp], "r1 r3 r3 r4 T!").with(QuotedTtl, "1 0 1 1 1"),
                Expect::all("r1 r3 r3 r4 T!").with(QuotedTtl, "1 0 1 1 -"),
            ],
        ),
        four(
            "ttl-reset",
            "r2 sets the TTL to 64: what is behind it is hidden",
            &[OPEN, (2, "ttl_reset = 64")],
            vec![
                Expect::on(&[Udp], "r1 r2 T!").with(QuotedTtl, "1 1 62"),
                Expect::all("r1 r2 T!").with(QuotedTtl, "1 1 -"),
            ],
        ),
        Scenario {
            max_ttl: 10,
            ..four(
                "ttl-copied",
                "r3 and the target answer with the TTL that the probe has left, which must last for the way back; a selective acknowledgment that does covers the earlier probes",
                &[
                    OPEN,
                    (3, "icmp = { ttl_copied = true }"),
                    (0, "icmp = { ttl_copied = true }"),
                ],
                vec![
                    Expect::on(&SACKS, "r1 r2 * r4 T!").with(ReplyTtl, "255 254 * 252 1"),
                    Expect::all("r1 r2 * r4 * * * * T!").with(ReplyTtl, "255 254 * 252 * * * * 1"),
                ],
            )
        },
    ]
}

fn hosts() -> Vec<Scenario> {
    const UNANSWERED: &str = "r1 r2 r3 r4 * * * *";
    vec![
        four(
            "silent-target",
            "the target answers nothing",
            &[(
                0,
                "echo = false\nudp = { default = \"silent\" }\ntcp = { default = \"silent\" }",
            )],
            vec![
                Expect::on(&NOT_SACK, UNANSWERED).received(0..=0),
                Expect::fails(&[Sack], NO_CONNECTION).received(0..=0),
            ],
        ),
        four(
            "web-server",
            "the target answers at TCP port 80 only",
            &[(
                0,
                "echo = false\nudp = { default = \"silent\" }\ntcp = { default = \"silent\", open = [80] }",
            )],
            vec![
                Expect::on(&PARALLEL, UNANSWERED).received(0..=0),
                Expect::on(&TCP, PLAIN),
            ],
        ),
        four(
            "udp-service",
            "a service returns each datagram",
            &[(0, "udp = { open = [33434] }")],
            vec![Expect::on(&[Udp], PLAIN), Expect::left_out(&NOT_UDP, NO_UDP)],
        ),
        four(
            "udp-service-fixed",
            "a service answers each datagram with the same",
            &[(0, "udp = { open = [33434], reply = \"hello\" }")],
            vec![Expect::on(&[Udp], PLAIN), Expect::left_out(&NOT_UDP, NO_UDP)],
        ),
        four(
            "udp-service-slow",
            "a service answers each datagram with the same, 60 ms away: several probes are under way",
            &[(0, "delay = 60\nudp = { open = [33434], reply = \"hello\" }")],
            vec![Expect::on(&[Udp], PLAIN), Expect::left_out(&NOT_UDP, NO_UDP)],
        ),
        four(
            "udp-service-doubled",
            "a service answers each datagram with the same, twice, and r4 is silent",
            &[
                (4, "silent = true"),
                (
                    0,
                    "udp = { open = [33434], reply = \"hello\" }\nback = { duplicate = 1 }",
                ),
            ],
            vec![
                Expect::on(&[Udp], "r1 r2 r3 * T!"),
                Expect::left_out(&NOT_UDP, NO_UDP),
            ],
        ),
        four(
            "tcp-closed",
            "the port is closed",
            &[],
            vec![
                Expect::left_out(&PARALLEL, NO_TCP),
                Expect::on(&[Syn, PreferSack], PLAIN),
                Expect::fails(&[Sack], REFUSED),
            ],
        ),
        four(
            "tcp-closed-bare",
            "the port is closed, and the RST acknowledges nothing",
            &[(0, "tcp = { bare_reset = true }")],
            vec![
                Expect::left_out(&PARALLEL, NO_TCP),
                Expect::on(&[Syn, PreferSack], PLAIN),
                Expect::fails(&[Sack], NO_CONNECTION),
            ],
        ),
        four(
            "tcp-closed-bare-gap",
            "the port is closed, the RST acknowledges nothing, and r3 is silent",
            &[(3, "silent = true"), (0, "tcp = { bare_reset = true }")],
            vec![
                Expect::left_out(&PARALLEL, NO_TCP),
                Expect::on(&[Syn, PreferSack], "r1 r2 * r4 T!"),
                Expect::fails(&[Sack], NO_CONNECTION),
            ],
        ),
        four(
            "tcp-filtered",
            "the target drops TCP without a word",
            &[(0, "tcp = { default = \"silent\" }")],
            vec![
                Expect::on(&PARALLEL, PLAIN),
                Expect::on(&[Syn, PreferSack], UNANSWERED).received(0..=0),
                Expect::fails(&[Sack], NO_CONNECTION).received(0..=0),
            ],
        ),
        four(
            "tcp-rejected",
            "a firewall in front of the target, r4, answers for it with port unreachable",
            &[(4, "block = [{ protocols = [\"tcp\"], answer = \"port\" }]")],
            vec![
                Expect::on(&PARALLEL, PLAIN),
                Expect::on(&[Syn, PreferSack], "r1 r2 r3 r4 r4")
                    .received(0..=0)
                    .unreachable(4, 3, 1, V4),
                Expect::on(&[Syn, PreferSack], "r1 r2 r3 r4 r4")
                    .received(0..=0)
                    .unreachable(4, 4, 1, V6),
                Expect::fails(&[Sack], REFUSED).received(0..=0),
            ],
        ),
        four(
            "syn-acks-repeated",
            "the server repeats unanswered SYN-ACKs, and the first is late",
            &[(0, "tcp = { open = [80], syn_ack_delay = 120 }")],
            vec![Expect::left_out(&PARALLEL, NO_TCP), Expect::on(&TCP, PLAIN)],
        ),
    ]
}

fn sack() -> Vec<Scenario> {
    vec![
        four(
            "sack-refused",
            "the server does not permit SACK",
            &[(0, "tcp = { open = [80], sack = false }")],
            vec![
                Expect::left_out(&PARALLEL, NO_TCP),
                Expect::on(&[Syn, PreferSack], PLAIN),
                Expect::fails(&[Sack], NO_SACK),
            ],
        ),
        four(
            "sack-stripped",
            "r2 strips SACK-permitted and timestamps from SYNs",
            &[OPEN, (2, "strip_tcp_options = true")],
            vec![
                Expect::on(&PARALLEL, PLAIN),
                Expect::on(&[Syn, PreferSack], PLAIN),
                Expect::fails(&[Sack], NO_SACK),
            ],
        ),
        four(
            "no-timestamps",
            "the server does not use timestamps",
            &[(0, "tcp = { open = [80], timestamps = false }")],
            vec![Expect::left_out(&PARALLEL, NO_TCP), Expect::on(&TCP, PLAIN)],
        ),
        four(
            "no-blocks",
            "the server permits SACK, and then acknowledges without blocks",
            &[(0, "tcp = { open = [80], sack_blocks = false }")],
            vec![
                Expect::left_out(&PARALLEL, NO_TCP),
                Expect::on(&[Syn, PreferSack], PLAIN),
                Expect::fails(
                    &[Sack],
                    "SACK not supported for this target/source: the target acknowledges without SACK blocks",
                ),
            ],
        ),
        four(
            "speaks-first",
            "the server greets at once",
            &[(
                0,
                "tcp = { open = [80], greeting = \"220 mail.example ESMTP\\r\\n\" }",
            )],
            vec![Expect::left_out(&PARALLEL, NO_TCP), Expect::on(&TCP, PLAIN)],
        ),
        four(
            "speaks-later",
            "the server greets after 40 ms, between probes",
            &[(
                0,
                "tcp = { open = [80], greeting = \"220 mail.example ESMTP\\r\\n\", greeting_delay = 40 }",
            )],
            vec![Expect::left_out(&PARALLEL, NO_TCP), Expect::on(&TCP, PLAIN)],
        ),
        four(
            "speaks-without-blocks",
            "the server greets, and acknowledges without blocks",
            &[(
                0,
                "tcp = { open = [80], greeting = \"hello\", sack_blocks = false }",
            )],
            vec![
                Expect::left_out(&PARALLEL, NO_TCP),
                Expect::on(&[Syn, PreferSack], PLAIN),
                Expect::fails(
                    &[Sack],
                    "SACK not supported for this target/source: the target acknowledges without SACK blocks",
                ),
            ],
        ),
        four(
            "late-syn-ack",
            "the SYN-ACK takes 700 ms, the timeout is 300 ms; the second SYN draws a RST at once",
            &[(0, "tcp = { open = [80], syn_ack_delay = 700 }")],
            vec![
                Expect::left_out(&PARALLEL, NO_TCP),
                Expect::on(&[Syn, PreferSack], "r1 r2 r3 r4 * T!").received(0..=0),
                Expect::fails(&[Sack], NO_CONNECTION).received(0..=0),
            ],
        ),
        Scenario {
            timeout_ms: 1500,
            ..four(
                "lost-syn-ack",
                "the first SYN-ACK of each connection is lost, the timeout is 1500 ms",
                &[(0, "tcp = { open = [80], lose_syn_acks = 1 }")],
                vec![Expect::left_out(&PARALLEL, NO_TCP), Expect::on(&TCP, PLAIN)],
            )
        },
        four(
            "no-duplicate-sack",
            "the server does not report duplicates and resets on close",
            &[(
                0,
                "tcp = { open = [80], duplicate_sack = false, reset_on_close = true }",
            )],
            vec![Expect::left_out(&PARALLEL, NO_TCP), Expect::on(&TCP, PLAIN)],
        ),
        four(
            "ignores-beyond-gap",
            "the server ignores data beyond a gap: to a SACK probe it says nothing",
            &[(0, "tcp = { open = [80], ignore_out_of_order = true }")],
            vec![
                Expect::left_out(&PARALLEL, NO_TCP),
                Expect::on(&[Syn], PLAIN),
                Expect::on(&SACKS, "r1 r2 r3 r4 * * * *"),
            ],
        ),
        four(
            "small-window",
            "the server's window is 6 bytes: probes with higher TTLs are outside",
            &[(0, "tcp = { open = [80], window = 6, window_scale = 0 }")],
            vec![Expect::left_out(&PARALLEL, NO_TCP), Expect::on(&TCP, PLAIN)],
        ),
    ]
}

fn strangers() -> Vec<Scenario> {
    vec![
        four(
            "other-interface",
            "r2 and r3 answer from the same foreign address",
            &[
                OPEN,
                (
                    2,
                    "icmp = { from_v4 = \"10.9.3.1\", from_v6 = \"2001:db8:903::1\" }",
                ),
                (
                    3,
                    "icmp = { from_v4 = \"10.9.3.1\", from_v6 = \"2001:db8:903::1\" }",
                ),
            ],
            vec![Expect::all("r1 10.9.3.1 10.9.3.1 r4 T!")],
        ),
        four(
            "target-before-itself",
            "r4 sends errors from the target's address: time exceeded shows no destination, except to SACK probes",
            &[
                OPEN,
                (
                    4,
                    "icmp = { from_v4 = \"198.51.100.11\", from_v6 = \"2001:db8:ffff::11\" }",
                ),
            ],
            vec![Expect::on(&SACKS, "r1 r2 r3 T!"), Expect::all("r1 r2 r3 T T!")],
        ),
        four(
            "target-other-interface",
            "the target sends errors from another address: nothing shows that it is the destination",
            &[
                OPEN,
                (
                    0,
                    "icmp = { from_v4 = \"10.9.5.1\", from_v6 = \"2001:db8:905::1\" }",
                ),
            ],
            vec![
                Expect::on(&[Udp], "r1 r2 r3 r4 10.9.5.1").received(0..=0),
                Expect::all(PLAIN),
            ],
        ),
        four(
            "forged-datagram",
            "somebody answers the first datagram after r2 in the name of the target and its port",
            &[(2, "forge_udp = [1]")],
            vec![Expect::on(&[Udp], PLAIN), Expect::left_out(&NOT_UDP, NO_UDP)],
        ),
        four(
            "forged-echo",
            "r1 and r2 answer echo requests in the name of strangers",
            &[
                OPEN,
                (1, "forge_echo_from = \"203.0.113.66\""),
                (2, "forge_echo_from = \"2001:db8:bad::66\""),
            ],
            vec![Expect::all(PLAIN)],
        ),
    ]
}

impl Expect {
    /// In this family, `exceeded` times exceeded, and then `times` destination unreachable with
    /// this code.
    fn unreachable(self, exceeded: usize, code: u8, times: usize, family: Family) -> Self {
        let (time_exceeded, unreachable) = match family {
            V4 => ("11/0", format!("3/{code}")),
            V6 => ("3/0", format!("1/{code}")),
        };
        let words = [vec![time_exceeded; exceeded], vec![&unreachable; times]].concat();
        self.only(family).with(IcmpCode, words.join(" "))
    }
}
