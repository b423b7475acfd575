//! What the doctor says of a host with routing rules, several ways out, translation, and a name
//! server that does not answer everything.

use std::path::Path;
use std::time::Duration;

use traceroute_testbed::{Lab, NameAnswer, Node, Record, Result, require_lab};

use crate::program::{Outcome, PROGRAM, finish};

/// A host with two interfaces, and somebody on each.
///
/// ```text
/// 10.1.0.2 near ─── eth0 client eth1 ─── far 10.8.0.2
/// ```
struct Uplinks {
    client: Node,
    _near: Node,
    _far: Node,
}

impl Uplinks {
    fn new(lab: &Lab) -> Result<Self> {
        let (client, near, far) = (lab.node("client")?, lab.node("near")?, lab.node("far")?);
        lab.link(
            &client,
            &["10.1.0.1/24", "fd00:1::1/64"],
            &near,
            &["10.1.0.2/24", "fd00:1::2/64"],
        )?;
        lab.link(
            &client,
            &["10.8.0.1/24", "fd00:8::1/64"],
            &far,
            &["10.8.0.2/24", "fd00:8::2/64"],
        )?;
        Ok(Uplinks {
            client,
            _near: near,
            _far: far,
        })
    }

    /// As root, without any name server.
    fn doctor(&self) -> Outcome {
        finish(self.client.command(PROGRAM).arg("doctor"))
    }
}

/// All of these lines are there, each with its remedy if one is given.
fn assert_says(outcome: &Outcome, expected: &[(&str, &str)]) {
    assert_eq!(
        (outcome.status, outcome.stderr.as_str()),
        (Some(0), ""),
        "{outcome:?}"
    );
    for (text, remedy) in expected {
        let lines = match *remedy {
            "" => format!("  {text}\n"),
            remedy => format!("  {text}\n    -> {remedy}\n"),
        };
        assert!(
            outcome.stdout.contains(&lines),
            "{lines}is not in\n{}",
            outcome.stdout
        );
    }
}

#[test]
fn rules_that_choose_a_way_are_told() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let uplinks = Uplinks::new(&lab)?;
    let client = &uplinks.client;
    client.ip("route add default via 10.1.0.2\n\
         route add default via 10.8.0.2 table 100\n\
         rule add priority 10 from 10.8.0.1 lookup 100\n\
         rule add priority 20 ipproto tcp dport 443 lookup 100\n\
         rule add priority 30 fwmark 0x5/0xff lookup 100\n\
         rule add priority 40 uidrange 1000-1999 lookup 100\n\
         rule add priority 50 oif eth1 lookup 100\n\
         rule add priority 60 iif eth0 prohibit\n\
         rule add priority 70 tos 0x10 lookup 100\n\
         rule add priority 80 to 10.9.0.0/16 lookup 100\n\
         rule add priority 90 not fwmark 0x7 lookup 100\n\
         route add default via fd00:1::2\n")?;
    let mut rule = client.command("ip");
    rule.args("-6 rule add priority 10 from fd00:8::/64 lookup 101".split(' '));
    assert!(rule.status().unwrap().success());
    let outcome = uplinks.doctor();
    let by_far = "take routing table 100 (by default via 10.8.0.2 on eth1)";
    assert_says(
        &outcome,
        &[
            (
                &format!(
                    "IPv4 routing rule [note]: 10: packets from 10.8.0.1 {by_far}; such probes follow it"
                ),
                "to probe that way: --source 10.8.0.1",
            ),
            (
                &format!(
                    "IPv4 routing rule [note]: 20: packets of TCP to port 443 {by_far}; such probes follow it, but TCP \
                     SACK cannot if the main table has no route by its gateway"
                ),
                "to probe that way: -P tcp -p 443",
            ),
            (
                &format!(
                    "IPv4 routing rule [note]: 30: packets with mark 0x5/0xff {by_far}; such probes follow it"
                ),
                "to probe that way: --fwmark 0x5",
            ),
            (
                &format!(
                    "IPv4 routing rule [note]: 40: packets of users 1000 to 1999 {by_far}; probes are of the user who \
                     runs the program, root under sudo"
                ),
                "to probe that way: run as users 1000 to 1999",
            ),
            (
                &format!(
                    "IPv4 routing rule [note]: 50: packets bound to eth1 {by_far}; such probes follow it"
                ),
                "to probe that way: --interface eth1",
            ),
            (
                "IPv4 routing rule [note]: 60: packets that come in by eth0 are refused; probes do not follow it: it is \
                 for packets that this host forwards",
                "",
            ),
            (
                &format!(
                    "IPv4 routing rule [note]: 70: packets with type of service 0x10 {by_far}; probes do not follow it: \
                     their routes are looked up without a type of service, even with --tos or --dscp"
                ),
                "to probe that way: --interface eth1, or a rule for a mark and --fwmark",
            ),
            (
                "IPv6 routing rule [note]: 10: packets from fd00:8::/64 take routing table 101; such probes follow it",
                "to probe that way: --source ADDRESS (in fd00:8::/64)",
            ),
        ],
    );
    // Nothing about the one that is a route like others, nor about those that are always there.
    let rules = outcome
        .stdout
        .lines()
        .filter(|line| line.contains("IPv4 routing rule"))
        .count();
    assert_eq!(rules, 8, "{outcome:?}");
    assert!(
        outcome
            .stdout
            .contains("90: all packets except those with mark 0x7"),
        "{outcome:?}"
    );
    assert!(!outcome.stdout.contains("10.9.0.0"), "{outcome:?}");
    Ok(())
}

#[test]
fn a_host_without_any_of_this_has_nothing_to_note() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let uplinks = Uplinks::new(&lab)?;
    uplinks
        .client
        .ip("route add default via 10.1.0.2\nroute add default via fd00:1::2\n")?;
    let outcome = uplinks.doctor();
    assert_says(
        &outcome,
        &[
            (
                "IPv4 route [ok]: a default route, with source address 10.1.0.1",
                "",
            ),
            (
                "IPv6 route [ok]: a default route, with source address fd00:1::1",
                "",
            ),
            (
                "translation (NAT) [ok]: no rule translates what this host sends",
                "",
            ),
        ],
    );
    assert!(!outcome.stdout.contains("[note]"), "{outcome:?}");
    Ok(())
}

#[test]
fn several_default_routes_are_told() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let uplinks = Uplinks::new(&lab)?;
    uplinks.client.ip("route add default via 10.1.0.2 metric 10\n\
         route add default via 10.8.0.2 metric 5000\n\
         route add ::/0 nexthop via fd00:1::2 nexthop via fd00:8::2\n")?;
    let outcome = uplinks.doctor();
    assert_says(
        &outcome,
        &[
            (
                "IPv4 default routes [note]: via 10.1.0.2 on eth0 (metric 10); via 10.8.0.2 on eth1 (metric 5000); the \
                 lowest metric wins: probes leave via 10.1.0.2 on eth0",
                "probe another way: --interface eth1",
            ),
            (
                "IPv6 default routes [note]: via fd00:1::2 on eth0 or via fd00:8::2 on eth1 (metric 1024); flows are \
                 spread over them by addresses, protocol and flow label (net.ipv6.fib_multipath_hash_policy = 0): runs \
                 to one target take the same one, and another target or source can take another",
                "keep to one: --interface eth0 or --interface eth1",
            ),
        ],
    );
    uplinks.client.sysctl("net.ipv4.fib_multipath_hash_policy", "1")?;
    uplinks
        .client
        .ip("route del default metric 10\nroute del default\n\
         route add default nexthop via 10.1.0.2 nexthop via 10.8.0.2\n")?;
    assert_says(
        &uplinks.doctor(),
        &[(
            "IPv4 default routes [note]: via 10.1.0.2 on eth0 or via 10.8.0.2 on eth1 (metric 0); flows are spread over \
             them by addresses, protocol and ports (net.ipv4.fib_multipath_hash_policy = 1): each flow keeps to one, and \
             two runs can show different paths",
            "keep to one: --interface eth0 or --interface eth1",
        )],
    );
    Ok(())
}

#[test]
fn routes_that_lead_on_without_a_default_route_are_told() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let uplinks = Uplinks::new(&lab)?;
    uplinks.client.ip("route add 10.64.0.0/10 via 10.1.0.2\n")?;
    assert_says(
        &uplinks.doctor(),
        &[
            (
                "IPv4 route [note]: no default route, but routes to 10.64.0.0/10: only these and this host's own \
                 networks can be probed",
                "ip route",
            ),
            (
                "IPv6 route [could be better]: no default route: only this host and its own networks can be probed",
                "ip -6 route",
            ),
        ],
    );
    Ok(())
}

#[test]
fn translation_of_what_this_host_sends_is_told() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let uplinks = Uplinks::new(&lab)?;
    let client = &uplinks.client;
    // Without rules, or for what comes in, they translate nothing that this host sends.
    client.nft(
        "table ip nat { chain out { type nat hook output priority -100; }; \
         chain in { type nat hook prerouting priority -100; redirect; }; }",
    )?;
    assert_says(
        &uplinks.doctor(),
        &[(
            "translation (NAT) [ok]: no rule translates what this host sends",
            "",
        )],
    );
    client.nft(
        "table inet home { chain leave { type nat hook postrouting priority 100; oifname eth0 masquerade; }; }",
    )?;
    let commands = "sudo nft list ruleset; sudo iptables-legacy -t nat -S; sudo ip6tables-legacy -t nat -S";
    assert_says(
        &uplinks.doctor(),
        &[(
            "translation (NAT) [note]: this host may translate what it sends: nftables chain \"inet home leave\" \
             (postrouting, 1 rule). Results show the source address before translation; routers see another. Answers \
             are read before and after translation, so hops are right.",
            commands,
        )],
    );
    let by_nobody = finish(client.command_as_nobody(PROGRAM).arg("doctor"));
    assert_says(
        &by_nobody,
        &[(
            "translation (NAT) [unknown]: cannot be known without CAP_NET_ADMIN: whether this host translates what it \
             sends",
            &format!("sudo {PROGRAM} doctor"),
        )],
    );
    Ok(())
}

/// The doctor with this `resolv.conf`.
fn with_resolv_conf(node: &Node, test: &str, resolv_conf: &str) -> Outcome {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test);
    let files = [("resolv.conf", resolv_conf)];
    let mut command = node.command_with_files(PROGRAM, &files, &folder).unwrap();
    finish(command.arg("doctor"))
}

#[test]
fn name_servers_that_ignore_questions_are_told() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let node = lab.node("host")?;
    if !node.can_have_names() {
        return Ok(());
    }
    let _names = node.answer_names(|_, record| match record {
        Record::A => NameAnswer::Addresses(vec![[198, 41, 0, 4].into()]),
        _ => NameAnswer::Silence,
    })?;
    let doctor = |resolv_conf: &str| with_resolv_conf(&node, "doctor_names", resolv_conf);
    let outcome = doctor("nameserver 127.0.0.53\nnameserver 10.0.0.53\n");
    assert_says(
        &outcome,
        &[
            (
                "name server [could be better]: 127.0.0.53 does not answer AAAA queries: names with IPv6 addresses only \
                 are not found by it, nor any with --ipv6",
                "repair it, or name another server in /etc/resolv.conf; or no longer ask: options no-aaaa there",
            ),
            (
                "name server [could be better]: 10.0.0.53 cannot be reached (Network is unreachable (os error \
                 101)): no name is found by it",
                "repair it, or name another server in /etc/resolv.conf",
            ),
        ],
    );
    // Two seconds, and the program's own start on a busy machine.
    assert!(outcome.elapsed < Duration::from_secs(8), "{outcome:?}");
    assert_says(
        &doctor("nameserver 127.0.0.53\noptions no-aaaa\n"),
        &[(
            "name server [ok]: 127.0.0.53 answers A queries; AAAA queries are switched off (no-aaaa in \
             /etc/resolv.conf)",
            "",
        )],
    );
    assert_says(
        &doctor("search test\n"),
        &[(
            "name server [could be better]: none in /etc/resolv.conf: names are only looked up in /etc/hosts, and asked \
             of a server on this host if there is one",
            "add a nameserver line to /etc/resolv.conf",
        )],
    );
    Ok(())
}
