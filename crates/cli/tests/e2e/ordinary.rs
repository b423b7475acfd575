//! Without `CAP_NET_RAW`: the program run by nobody, through ordinary sockets.

use std::fmt::Display;
use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use serde_json::Value;
use traceroute_e2e::Report;
use traceroute_simnet::example;
use traceroute_testbed::{Chain, Lab, Node, Reject, Result, require_lab};

use crate::program::{Outcome, PROGRAM, Path, each_family, finish, hops, paths, trace};
use crate::tun::behind_a_tunnel;

const NOTICE: &str = concat!(
    "no CAP_NET_RAW: probing through ordinary sockets, which cannot do TCP SACK; for raw sockets run with sudo, or \
     `setcap cap_net_raw+ep ",
    env!("CARGO_BIN_EXE_datadog-traceroute"),
    "`"
);
/// What follows where no group may open ICMP sockets.
const NO_ICMP: &str =
    "; ICMP cannot be probed at all: neither CAP_NET_RAW nor a group in net.ipv4.ping_group_range";
const SEE: &str = "; see `datadog-traceroute doctor`\n";
/// A trace that waits for nothing in vain takes far less than a timeout of 20 s, and than the 5 s
/// at most that it looks for its destination.
const PROMPT: Duration = Duration::from_millis(4500);

/// Runs the program as nobody.
fn run(node: &Node, arguments: &str) -> Outcome {
    finish(node.command_as_nobody(PROGRAM).args(arguments.split_whitespace()))
}

/// What a trace as nobody leaves, but for the notice, which is there once.
fn run_trace(node: &Node, target: impl Display, arguments: &str) -> Outcome {
    let outcome = run(node, &format!("{arguments} {target}"));
    let rest = outcome.stderr.strip_prefix(NOTICE);
    let rest = rest.and_then(|rest| rest.strip_prefix(NO_ICMP).unwrap_or(rest).strip_prefix(SEE));
    let stderr = rest.unwrap_or_else(|| panic!("{outcome:?}")).to_owned();
    assert!(!stderr.contains("CAP_NET_RAW: probing"), "{stderr}");
    Outcome { stderr, ..outcome }
}

/// What is said where a hop was silent, and the system repeats probes by itself.
const NOT_REPEATED: &str =
    "silent hops were not probed again: without raw sockets this system cannot tell one attempt from another";

fn trace_as_nobody(node: &Node, target: impl Display, arguments: &str) -> Report {
    let outcome = run_trace(node, target, arguments);
    let (report, warnings) = outcome.report_and_warnings();
    let is_silent = report
        .runs
        .iter()
        .flat_map(|run| &run.hops)
        .any(|hop| hop.answer.is_none());
    let expected: &[&str] = if is_silent && report.protocol == "tcp" {
        &[NOT_REPEATED]
    } else {
        &[]
    };
    assert_eq!(warnings, expected, "{arguments}");
    report
}

/// Lets nobody open ICMP sockets.
fn allow_ping(lab: &Lab, client: &Node) -> Result<()> {
    // In an unprivileged lab there is only one group.
    let groups = if lab.is_unprivileged() { "0 0" } else { "0 65534" };
    client.sysctl("net.ipv4.ping_group_range", groups)
}

fn lab_with_chain(hops: usize) -> Result<Option<(Lab, Chain)>> {
    let Some(lab) = require_lab() else { return Ok(None) };
    let chain = lab.chain(hops)?;
    allow_ping(&lab, &chain.client)?;
    Ok(Some((lab, chain)))
}

/// As root and as nobody, the same path.
fn check_path(client: &Node, path: &Path, arguments: &str) {
    let outcome = run_trace(client, path.target, arguments);
    assert!(outcome.elapsed < PROMPT, "{arguments} took {:?}", outcome.elapsed);
    let report = outcome.report();
    assert_eq!(hops(&report), path.hops, "{arguments}");
    let privileged = trace(client, path.target, arguments);
    assert_eq!(hops(&report), hops(&privileged), "{arguments}");
    let (run, other) = (&report.runs[0], &privileged.runs[0]);
    assert_eq!((run.source, run.destination), (other.source, other.destination));
    assert_eq!(run.destination_port, other.destination_port);
    assert!(run.source_port > 0, "{arguments}");
    assert_eq!((report.e2e.sent, report.e2e.received), (1, 1), "{arguments}");
}

#[test]
fn the_whole_path_is_seen_as_by_root() -> Result<()> {
    let Some((_lab, chain)) = lab_with_chain(11)? else {
        return Ok(());
    };
    let notice = run(&chain.client, "-q 0 -Q 0 127.0.0.1").stderr;
    assert_eq!(notice, format!("{NOTICE}{SEE}"));
    let server = chain.target.listen_tcp(0)?;
    for protocol in ["udp", "icmp", "tcp"] {
        let arguments = format!("-P {protocol} -p {} -q 1 -Q 1 --timeout 20000", server.port());
        each_family(&chain, |path| check_path(&chain.client, path, &arguments));
    }
    Ok(())
}

#[test]
fn several_runs_and_end_to_end_probes_at_once() -> Result<()> {
    let Some((_lab, chain)) = lab_with_chain(3)? else {
        return Ok(());
    };
    for protocol in ["udp", "icmp", "tcp"] {
        let arguments = format!("-P {protocol} -q 4 -Q 20 -m 5 --e2e-interval 50");
        each_family(&chain, |path| {
            let report = trace_as_nobody(&chain.client, path.target, &arguments);
            assert_eq!((report.e2e.sent, report.e2e.received), (20, 20), "{protocol}");
            for run in &report.runs {
                assert_eq!(crate::program::addresses(run), path.hops, "{protocol}");
            }
            let mut ports: Vec<_> = report.runs.iter().map(|run| run.source_port).collect();
            ports.sort_unstable();
            ports.dedup();
            assert_eq!(ports.len(), 4, "{protocol}");
        });
    }
    Ok(())
}

#[test]
fn two_processes_at_once_do_not_take_each_others_answers() -> Result<()> {
    let Some((_lab, chain)) = lab_with_chain(6)? else {
        return Ok(());
    };
    for protocol in ["udp", "icmp", "tcp"] {
        thread::scope(|scope| {
            for path in paths(&chain).into_iter().chain(paths(&chain)) {
                let client = &chain.client;
                scope.spawn(move || {
                    let arguments = format!("-P {protocol} -q 1 -Q 2 --timeout 1000");
                    let report = trace_as_nobody(client, path.target, &arguments);
                    assert_eq!(hops(&report), path.hops, "{protocol}");
                    assert_eq!(report.e2e.received, 2, "{protocol}");
                });
            }
        });
    }
    Ok(())
}

/// What the target does with a SYN or a datagram, or something on the way.
#[test]
fn ports_that_are_open_closed_filtered_and_rejected() -> Result<()> {
    let Some((_lab, chain)) = lab_with_chain(4)? else {
        return Ok(());
    };
    let accepting = chain.target.listen_tcp(0)?;
    let greeting = chain.target.listen_tcp_greeting(0, b"220 hello\r\n")?;
    let answering = chain.target.listen_udp(0)?;
    chain.target.drop_packets("tcp dport 101")?;
    chain.target.drop_packets("udp dport 101")?;
    chain.target.reject("tcp dport 102", Reject::AdminProhibited)?;
    chain.target.reject("udp dport 102", Reject::AdminProhibited)?;
    chain.routers[1].reject("tcp dport 103", Reject::AdminProhibited)?;
    chain.routers[1].reject("udp dport 103", Reject::AdminProhibited)?;
    let hops_to = |path: &Path, protocol: &str, port: u16| {
        let arguments = format!("-P {protocol} -p {port} -q 1 -Q 1 -m 5 --timeout 400");
        hops(&trace_as_nobody(&chain.client, path.target, &arguments))
    };
    each_family(&chain, |path| {
        let complete = [
            ("tcp", accepting.port()),
            ("tcp", greeting.port()),
            ("tcp", 100),
            ("tcp", 102),
            ("udp", answering.port()),
            ("udp", 100),
            ("udp", 102),
        ];
        for (protocol, port) in complete {
            assert_eq!(hops_to(path, protocol, port), path.hops, "{protocol} {port}");
        }
        for protocol in ["tcp", "udp"] {
            let filtered: Vec<Option<IpAddr>> = path.hops[..3].iter().copied().chain([None, None]).collect();
            assert_eq!(hops_to(path, protocol, 101), filtered, "{protocol}");
            // The router that rejects does so for all TTLs beyond its own. Two such answers end the
            // run.
            let second = path.hops[1];
            let rejected = vec![path.hops[0], second, second];
            let found = hops_to(path, protocol, 103);
            let by_root = format!("-P {protocol} -p 103 -q 1 -Q 1 -m 5 --timeout 400");
            let by_root = hops(&trace(&chain.client, path.target, &by_root));
            assert_eq!(found, rejected, "{protocol}; root sees {by_root:?}");
        }
    });
    Ok(())
}

#[test]
fn a_silent_router_is_a_gap() -> Result<()> {
    let Some((_lab, chain)) = lab_with_chain(4)? else {
        return Ok(());
    };
    chain.routers[1].silence()?;
    for protocol in ["udp", "icmp", "tcp"] {
        each_family(&chain, |path| {
            let arguments = format!("-P {protocol} -q 1 -Q 1 --timeout 400");
            let report = trace_as_nobody(&chain.client, path.target, &arguments);
            let mut expected = path.hops.clone();
            expected[1] = None;
            assert_eq!(hops(&report), expected, "{protocol}");
        });
    }
    Ok(())
}

/// The kernel tells this machine itself after some seconds that nobody answers; until then it may
/// be asked. That is lost here, and neither a hop nor an error.
#[test]
fn a_neighbour_that_is_not_there_loses_everything_here() -> Result<()> {
    let Some((_lab, chain)) = lab_with_chain(1)? else {
        return Ok(());
    };
    let neighbours = ["10.0.1.77", "fd00:1::77"];
    thread::scope(|scope| {
        let cases = neighbours
            .into_iter()
            .flat_map(|target| ["udp", "icmp", "tcp"].map(|protocol| (target, protocol)))
            .flat_map(|(target, protocol)| [400, 8000].map(|timeout| (target, protocol, timeout)));
        for (target, protocol, timeout) in cases {
            let client = &chain.client;
            scope.spawn(move || {
                let arguments = format!("-P {protocol} -q 1 -Q 1 -m 1 --timeout {timeout} --details");
                let outcome = run_trace(client, target, &arguments);
                let (report, warnings) = outcome.report_and_warnings();
                assert_eq!(hops(&report), [None], "{protocol} {target}");
                assert_eq!(
                    (report.e2e.sent, report.e2e.received),
                    (1, 0),
                    "{protocol} {target}"
                );
                let details = report.details.unwrap();
                let hop = &details.runs[0].hops[0];
                assert_eq!(hop.lost["local"], hop.attempts, "{protocol} {target}: {hop:?}");
                assert_eq!(details.e2e_lost["local"], 1, "{protocol} {target}");
                assert_eq!(warnings.len(), 2, "{protocol} {target}: {warnings:?}");
            });
        }
    });
    Ok(())
}

#[test]
fn sack_needs_raw_sockets_and_says_so() -> Result<()> {
    let Some((_lab, chain)) = lab_with_chain(2)? else {
        return Ok(());
    };
    let server = chain.target.listen_tcp(0)?;
    each_family(&chain, |path| {
        let arguments = format!("-P tcp --tcp-method sack -p {} -q 1 -Q 0", server.port());
        let outcome = run_trace(&chain.client, path.target, &arguments);
        assert_eq!(
            outcome.failure(),
            format!(
                "SACK not supported for this target/source: cannot connect to {}: ordinary sockets cannot probe with \
                 TCP SACK (needs CAP_NET_RAW: run with sudo, or `setcap cap_net_raw+ep {PROGRAM}`)",
                path.target
            )
        );
        let arguments = format!("-P tcp --tcp-method prefer_sack -p {} -q 1 -Q 1", server.port());
        let report = trace_as_nobody(&chain.client, path.target, &arguments);
        assert_eq!(hops(&report), path.hops, "falls back to SYN");
    });
    Ok(())
}

#[test]
fn icmp_needs_a_group_that_may_and_says_so() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    // Where at first no group may.
    let chain = lab.chain(2)?;
    let notice = |quiet: &str| run(&chain.client, &format!("-q 0 -Q 0 {quiet} 127.0.0.1")).stderr;
    assert_eq!(notice(""), format!("{NOTICE}{NO_ICMP}{SEE}"));
    assert_eq!(notice("--quiet"), "");
    each_family(&chain, |path| {
        let outcome = run_trace(&chain.client, path.target, "-P icmp -q 1 -Q 1");
        assert_eq!(
            outcome.failure(),
            format!(
                "cannot open an ICMP socket to send probes: Permission denied (os error 13) (this user's groups are \
                 not in net.ipv4.ping_group_range: `sudo sysctl -w net.ipv4.ping_group_range=\"0 2147483647\"`; or \
                 give the program CAP_NET_RAW: run with sudo, or `setcap cap_net_raw+ep {PROGRAM}`)"
            )
        );
        let report = trace_as_nobody(&chain.client, path.target, "-P udp -q 1 -Q 1");
        assert_eq!(hops(&report), path.hops, "UDP does not need it");
    });
    Ok(())
}

#[test]
fn no_route_is_an_error() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let node = lab.node("alone")?;
    let outcome = run_trace(&node, "192.0.2.1", "-q 1 -Q 1");
    assert!(
        outcome.failure().contains("this host has no route to it"),
        "{outcome:?}"
    );
    Ok(())
}

/// The lines of the doctor's table.
fn table(doctor: &str) -> Vec<Vec<&str>> {
    doctor
        .lines()
        .take(5)
        .map(|line| {
            line.split("  ")
                .map(str::trim)
                .filter(|cell| !cell.is_empty())
                .collect()
        })
        .collect()
}

#[test]
fn the_doctor_tells_root_from_nobody() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let chain = lab.chain(1)?;
    let rows = |how: [&'static str; 4]| {
        let mut rows = vec![vec!["IPv4", "IPv6"]];
        let names = ["icmp", "udp", "tcp syn", "tcp sack"];
        rows.extend(names.into_iter().zip(how).map(|(name, how)| vec![name, how, how]));
        rows
    };
    let by_root = finish(chain.client.command(PROGRAM).arg("doctor"));
    assert_eq!(
        (by_root.status, by_root.stderr.as_str()),
        (Some(0), ""),
        "{by_root:?}"
    );
    assert_eq!(table(&by_root.stdout), rows(["raw sockets"; 4]));

    let (plain, no) = ("ordinary sockets", "not possible");
    let without_ping = run(&chain.client, "doctor");
    assert_eq!(table(&without_ping.stdout), rows([no, plain, plain, no]));
    assert!(
        without_ping
            .stdout
            .contains("-> sudo sysctl -w net.ipv4.ping_group_range="),
        "{without_ping:?}"
    );

    allow_ping(&lab, &chain.client)?;
    let by_nobody = run(&chain.client, "doctor");
    assert_eq!(
        (by_nobody.status, by_nobody.stderr.as_str()),
        (Some(0), ""),
        "{by_nobody:?}"
    );
    assert_eq!(table(&by_nobody.stdout), rows([plain, plain, plain, no]));
    assert!(by_nobody.stdout.contains("with no capabilities"), "{by_nobody:?}");
    assert!(by_nobody.stdout.contains("up: eth0, lo"), "{by_nobody:?}");
    assert!(
        by_nobody.stdout.contains("with source address 10.0.1.1"),
        "{by_nobody:?}"
    );

    chain.client.sysctl("net.ipv6.conf.all.disable_ipv6", "1")?;
    let without_v6 = run(&chain.client, "doctor");
    assert!(
        without_v6.stdout.contains("IPv6 is switched off"),
        "{without_v6:?}"
    );
    Ok(())
}

/// The hops of the only run in the details.
fn detailed_hops(outcome: &Outcome) -> Vec<Value> {
    let document: Value = serde_json::from_str(&outcome.stdout).unwrap();
    let details = &document["details"];
    let hops = details["runs"][0]["hops"].as_array().unwrap().clone();
    // On a busy machine a hop is asked once more, and may answer both times.
    let matched = details["counters"]["replies"]["matched"].as_u64().unwrap();
    assert!(matched >= hops.len() as u64, "{document}");
    hops
}

/// The program as root and as nobody finds the same details, but for what the kernel keeps to
/// itself: the TTL in a quote, and that of a segment that is no SYN-ACK over IPv6. Which timestamps
/// are whose is another matter. What nobody found.
fn check_details(client: &Node, target: impl Display, arguments: &str, is_syn_ack: bool) -> Vec<Value> {
    let found = detailed_hops(&run_trace(client, &target, arguments));
    let mut expected = detailed_hops(&crate::program::run(client, &target, arguments));
    for hop in &mut expected {
        assert!(
            hop["reply_ttl"].is_u64() && hop["kernel_timestamps"].is_boolean(),
            "{hop}"
        );
        let is_segment = hop["answer"] == "tcp";
        let is_v6 = hop["ip_address"].as_str().unwrap().contains(':');
        let members = hop.as_object_mut().unwrap();
        members.remove("quoted_ttl");
        members.remove("kernel_timestamps");
        if is_segment && !(is_syn_ack && is_v6) {
            members.remove("reply_ttl");
        }
    }
    let mut comparable = found.clone();
    for hop in &mut comparable {
        let stamped = hop.as_object_mut().unwrap().remove("kernel_timestamps");
        assert!(stamped.is_some_and(|stamped| stamped.is_boolean()));
    }
    assert_eq!(comparable, expected, "{arguments}");
    found
}

/// What raw sockets tell, as far as the kernel tells it to others.
#[test]
fn details_have_what_ordinary_sockets_tell() -> Result<()> {
    let Some((_lab, chain)) = lab_with_chain(3)? else {
        return Ok(());
    };
    let server = chain.target.listen_tcp(0)?;
    let service = chain.target.listen_udp(0)?;
    let cases = [
        ("icmp", 0, false),
        ("udp", 100, false),
        ("udp", service.port(), false),
        ("tcp", 100, false),
        ("tcp", server.port(), true),
    ];
    each_family(&chain, |path| {
        for (protocol, port, is_syn_ack) in cases {
            let arguments = format!("-P {protocol} -p {port} -q 1 -Q 0 --details");
            check_details(&chain.client, path.target, &arguments, is_syn_ack);
        }
    });
    Ok(())
}

#[test]
fn details_have_the_labels_that_ordinary_sockets_tell() -> Result<()> {
    let topology = example("mpls").unwrap().topology().unwrap();
    behind_a_tunnel(&topology, |client| {
        for target in ["198.51.100.11", "2001:db8:ffff::11"] {
            for protocol in ["udp", "tcp"] {
                let arguments = format!("-P {protocol} -p 80 -q 1 -Q 0 --hop-retries 0 --details");
                let hops = check_details(client, target, &arguments, protocol == "tcp");
                let labelled = hops.iter().filter(|hop| hop.get("mpls").is_some());
                assert_eq!(labelled.count(), 3, "{hops:?}");
            }
        }
    })
}
