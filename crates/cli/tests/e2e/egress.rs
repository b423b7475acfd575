//! Which way probes leave when the user chooses: source, interface, mark, and the zone of a
//! link-local target.

use std::net::IpAddr;

use traceroute_e2e::Report;
use traceroute_testbed::{Lab, Node, Result, require_lab};

use crate::program::{Outcome, PROGRAM, finish, hops, run, trace};

/// Where the server listens.
const PORT: u16 = 80;
const METHODS: [&str; 4] = [
    "-P udp",
    "-P icmp",
    "-P tcp -p 80",
    "-P tcp -p 80 --tcp-method sack",
];

/// A client with two uplinks, each with a router, to one server. The main table has the near router
/// for default.
///
/// ```text
///             10.1 ┌─ near ─┐ 10.2
/// client ──────────┤        ├─────── server
///             10.8 └─ far ──┘ 10.9
/// ```
struct Uplinks {
    client: Node,
    near: Node,
    far: Node,
    server: Node,
}

fn address(is_v6: bool, link: u8, host: u8) -> IpAddr {
    let text = if is_v6 {
        format!("fd00:{link}::{host}")
    } else {
        format!("10.{link}.0.{host}")
    };
    text.parse().unwrap()
}

fn link(lab: &Lab, a: &Node, b: &Node, number: u8) -> Result<()> {
    let both =
        |host| [false, true].map(|v6| format!("{}/{}", address(v6, number, host), if v6 { 64 } else { 24 }));
    let (a_side, b_side) = (both(1), both(2));
    lab.link(a, &[&a_side[0], &a_side[1]], b, &[&b_side[0], &b_side[1]])?;
    Ok(())
}

impl Uplinks {
    fn new(lab: &Lab) -> Result<Self> {
        let uplinks = Uplinks {
            client: lab.node("client")?,
            near: lab.router("near")?,
            far: lab.router("far")?,
            server: lab.router("server")?,
        };
        let Uplinks {
            client,
            near,
            far,
            server,
        } = &uplinks;
        link(lab, client, near, 1)?;
        link(lab, client, far, 8)?;
        link(lab, near, server, 2)?;
        link(lab, far, server, 9)?;
        for v6 in [false, true] {
            let network = |number| format!("{}/{}", address(v6, number, 0), if v6 { 64 } else { 24 });
            let route = |to: &str, via: IpAddr, more: &str| format!("route add {to} via {via} {more}\n");
            client.ip(&route("default", address(v6, 1, 2), "metric 10"))?;
            client.ip(&route("default", address(v6, 8, 2), "metric 5000"))?;
            client.ip(&route("default", address(v6, 8, 2), "table 100"))?;
            far.ip(&route(&network(2), address(v6, 9, 2), ""))?;
            server.ip(&route(&network(1), address(v6, 2, 1), ""))?;
            server.ip(&route(&network(8), address(v6, 9, 1), ""))?;
        }
        client.sysctl(
            "net.ipv4.ping_group_range",
            if lab.is_unprivileged() { "0 0" } else { "0 65534" },
        )?;
        Ok(uplinks)
    }

    /// `ip rule add …`, or `del`.
    fn rule(&self, v6: bool, what: &str) {
        let family = if v6 { "-6" } else { "-4" };
        let mut command = self.client.command("ip");
        command.args([family, "rule"]).args(what.split_whitespace());
        assert!(command.status().unwrap().success(), "{what}");
    }
}

/// As nobody, without the notice that there are only ordinary sockets.
fn run_as_nobody(node: &Node, target: IpAddr, arguments: &str) -> Outcome {
    let mut command = node.command_as_nobody(PROGRAM);
    command.args(arguments.split_whitespace()).arg(target.to_string());
    let outcome = finish(&mut command);
    let (notice, rest) = outcome.stderr.split_once('\n').unwrap_or_default();
    assert!(notice.contains("ordinary sockets"), "{outcome:?}");
    Outcome {
        stderr: rest.to_owned(),
        ..outcome
    }
}

/// All of it went by the far router: the near one lets nothing through.
fn assert_far(report: &Report, v6: bool, what: &str) {
    let expected = [Some(address(v6, 8, 2)), Some(address(v6, 2, 2))];
    assert_eq!(hops(report), expected, "{what}");
    assert_eq!(report.runs[0].source, address(v6, 8, 1), "{what}");
    assert_eq!((report.e2e.sent, report.e2e.received), (2, 2), "{what}");
}

#[test]
fn source_interface_and_mark_choose_the_uplink() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let uplinks = Uplinks::new(&lab)?;
    let _service = uplinks.server.listen_tcp(PORT)?;
    let client = &uplinks.client;
    for v6 in [false, true] {
        let report = trace(client, address(v6, 2, 2), "-P udp -q 1 -Q 0");
        assert_eq!(hops(&report)[0], Some(address(v6, 1, 2)), "by default");
    }
    uplinks
        .near
        .nft("table inet stop { chain stop { type filter hook forward priority 0; policy drop; }; }")?;
    for v6 in [false, true] {
        let target = address(v6, 2, 2);
        let far = address(v6, 8, 1);
        let source = format!("--source {far}");
        for (choice, rule) in [
            (source.as_str(), format!("from {far} lookup 100")),
            ("--interface eth1", String::new()),
            ("--fwmark 0x5", "fwmark 5 lookup 100".to_owned()),
        ] {
            if !rule.is_empty() {
                uplinks.rule(v6, &format!("add {rule}"));
            }
            for method in METHODS {
                let arguments = format!("{choice} {method} -q 1 -Q 2 --e2e-interval 50 --timeout 1000");
                assert_far(&trace(client, target, &arguments), v6, &arguments);
                if method.contains("sack") {
                    continue;
                }
                let outcome = run_as_nobody(client, target, &arguments);
                if choice.contains("fwmark") {
                    let text = outcome.failure();
                    assert!(text.contains("CAP_NET_ADMIN") && text.contains("sudo"), "{text}");
                } else {
                    assert_far(&outcome.report(), v6, &format!("nobody: {arguments}"));
                }
            }
            if !rule.is_empty() {
                uplinks.rule(v6, &format!("del {rule}"));
            }
        }
    }
    Ok(())
}

#[test]
fn choices_that_cannot_be_made_are_explained_before_anything_is_sent() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let uplinks = Uplinks::new(&lab)?;
    uplinks
        .near
        .nft("table inet see { chain see { type filter hook input priority 0; meta l4proto { udp, tcp } counter; }; }")?;
    let target = address(false, 2, 2).to_string();
    for (arguments, target, expected) in [
        (
            "--source 192.0.2.7",
            target.as_str(),
            "the source 192.0.2.7 is not an address of this host",
        ),
        ("--interface eth7", &target, "this host has no interface \"eth7\""),
        ("", "fe80::1", "say which, as in fe80::1%eth0"),
        ("", "fe80::1%eth7", "this host has no interface \"eth7\""),
        (
            "--interface eth1",
            "fe80::1%eth0",
            "the target is in the zone \"eth0\", which is not the interface \"eth1\"",
        ),
    ] {
        let outcome = run(&uplinks.client, target, arguments);
        let text = outcome.failure();
        assert!(text.contains(expected), "{arguments} {target}: {text}");
    }
    let mut counters = uplinks.near.command("nft");
    let counters = counters.args(["list", "ruleset"]).output().unwrap();
    let counters = String::from_utf8(counters.stdout).unwrap();
    assert!(counters.contains("packets 0 "), "{counters}");
    Ok(())
}

/// The gateways of IPv6 hosts have link-local addresses, often the same on each link.
#[test]
fn a_link_local_router_is_traced_in_its_zone() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let uplinks = Uplinks::new(&lab)?;
    let client = &uplinks.client;
    client.ip("addr add fe80::1/64 dev eth0 nodad\naddr add fe80::1/64 dev eth1 nodad\n")?;
    uplinks.near.ip("addr add fe80::99/64 dev eth0 nodad\n")?;
    uplinks.far.ip("addr add fe80::99/64 dev eth0 nodad\n")?;
    let _services = [&uplinks.near, &uplinks.far, client].map(|node| node.listen_tcp(PORT));
    uplinks.far.ip("addr add fe80::77/64 dev eth0 nodad\n")?;
    let index = client
        .command("ip")
        .args(["-o", "link", "show", "eth1"])
        .output()
        .unwrap();
    let index = String::from_utf8(index.stdout).unwrap();
    let by_index = format!("fe80::77%{}", index.split(':').next().unwrap());
    // The last one is this host's own.
    for target in [
        "fe80::99%eth0",
        "fe80::77%eth1",
        &by_index,
        "fe80::99%eth1",
        "fe80::1%eth1",
    ] {
        let (address, _) = target.split_once('%').unwrap();
        let address: IpAddr = address.parse().unwrap();
        for method in METHODS {
            let arguments = format!("{method} -q 1 -Q 2 --e2e-interval 50 --timeout 1000");
            let report = trace(client, target, &arguments);
            assert_eq!(report.hostname, target);
            assert_eq!(hops(&report), [Some(address)], "{target} {arguments}");
            assert_eq!(report.e2e.received, 2, "{target} {arguments}");
            if !method.contains("sack") {
                let mut command = client.command_as_nobody(PROGRAM);
                command.args(arguments.split_whitespace()).arg(target);
                let outcome = finish(&mut command);
                let report = Report::read(&outcome.stdout, traceroute_e2e::Layout::Indented).unwrap();
                assert_eq!(hops(&report), [Some(address)], "nobody: {target} {arguments}");
            }
        }
    }
    // It is not there.
    let report = run(client, "fe80::77%eth0", "-P icmp -q 1 -Q 0 -m 2 --timeout 300");
    let (report, _) = report.report_and_warnings();
    assert!(hops(&report).iter().all(Option::is_none), "{report:?}");
    Ok(())
}
