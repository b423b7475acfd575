//! Several traces at once, by this program and another: each must see its own answers
//! only.

use std::process::Child;
use std::thread;

use traceroute_testbed::{Chain, Result, not_run, require_lab};

use crate::program::{addresses, end, hops, paths, program, start, trace};

const PROTOCOLS: [&str; 3] = ["udp", "icmp", "tcp"];

#[test]
fn twenty_processes_at_once_all_see_the_whole_path() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let chain = lab.chain(5)?;
    let server = chain.target.listen_tcp(80)?;
    let methods = [
        "-P udp",
        "-P icmp",
        "-P tcp -p 80",
        "-P tcp -p 80 --tcp-method sack",
        "-P udp -p 33435",
    ];
    let mut running: Vec<(Child, _)> = Vec::new();
    for path in &paths(&chain) {
        for method in methods.iter().chain(&methods) {
            let arguments = format!("{method} -q 1 -Q 1");
            running.push((
                start(&mut program(&chain.client, path.target, &arguments)),
                path.hops.clone(),
            ));
        }
    }
    assert_eq!(running.len(), 20);
    for (child, expected) in running {
        let report = end(child).report();
        assert_eq!(hops(&report), expected);
        assert_eq!(report.e2e.received, 1);
    }
    drop(server);
    Ok(())
}

/// Has the second router lose the first of two probes with this TTL, and so exactly one trace's of
/// two.
fn lose_one_of_two(chain: &Chain, ttl: u8) -> Result<()> {
    let received = ttl - 1;
    chain.routers[1].nft(&format!(
        "table inet lose {{ chain lose {{ type filter hook prerouting priority 0; iif eth0 jump take_turns; }}; \
         chain take_turns {{ ip ttl {received} numgen inc mod 2 0 drop; ip6 hoplimit {received} numgen inc mod 2 0 drop; }}; }}"
    ))
}

/// One probe with TTL 4 of two is lost, and none is repeated. If traces took each other's answers,
/// both would seem to have got theirs.
#[test]
fn no_process_takes_the_answers_of_another() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    for protocol in PROTOCOLS {
        let chain = lab.chain(6)?;
        lose_one_of_two(&chain, 4)?;
        for path in paths(&chain) {
            let arguments = format!("-P {protocol} -q 1 -Q 0 --hop-retries 0 --timeout 2000");
            let start = || start(&mut program(&chain.client, path.target, &arguments));
            let running = [start(), start()];
            let found = running.map(|child| hops(&end(child).report()));
            assert_exactly_one_gap(&found, &path.hops, protocol);
        }
    }
    Ok(())
}

#[test]
fn no_run_takes_the_answers_of_another() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    for protocol in PROTOCOLS {
        let chain = lab.chain(6)?;
        lose_one_of_two(&chain, 4)?;
        for path in paths(&chain) {
            let report = trace(
                &chain.client,
                path.target,
                &format!("-P {protocol} -q 2 -Q 0 --hop-retries 0 --timeout 2000"),
            );
            let [one, other] = &report.runs[..] else {
                panic!("{report:?}")
            };
            assert_exactly_one_gap(&[addresses(one), addresses(other)], &path.hops, protocol);
        }
    }
    Ok(())
}

fn assert_exactly_one_gap<A: PartialEq + Copy + std::fmt::Debug>(
    found: &[Vec<Option<A>>; 2],
    whole: &[Option<A>],
    protocol: &str,
) {
    let mut with_gap = whole.to_vec();
    with_gap[3] = None;
    let expected = [with_gap, whole.to_vec()];
    assert!(
        found.iter().eq(&expected) || found.iter().rev().eq(&expected),
        "{protocol}: {found:?}"
    );
}

#[test]
fn another_traceroute_and_a_ping_run_beside() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let chain = lab.chain(6)?;
    let mut others = Vec::new();
    for path in paths(&chain) {
        for kind in ["-U", "-I", "-T"] {
            let mut command = chain.client.command("traceroute");
            command
                .args([kind, "-n", "-q", "10", "-w", "1"])
                .arg(path.target.to_string());
            if let Ok(child) = command.stdout(std::process::Stdio::null()).spawn() {
                others.push(child);
            }
        }
        let mut ping = chain.client.command("ping");
        ping.args(["-n", "-c", "50", "-i", "0.02"])
            .arg(path.target.to_string());
        others.extend(ping.stdout(std::process::Stdio::null()).spawn().ok());
    }
    if others.len() < 8 {
        not_run("`traceroute` or `ping` is missing: install the Debian packages traceroute and iputils-ping");
        return Ok(());
    }
    thread::scope(|scope| {
        for path in paths(&chain) {
            for protocol in PROTOCOLS {
                let client = &chain.client;
                let path_hops = path.hops.clone();
                scope.spawn(move || {
                    let report = trace(client, path.target, &format!("-P {protocol} -q 2 -Q 1"));
                    assert!(
                        report.runs.iter().all(|run| addresses(run) == path_hops),
                        "{report:?}"
                    );
                    assert_eq!(report.e2e.received, 1, "{protocol}");
                });
            }
        }
    });
    for mut other in others {
        other.wait().unwrap();
    }
    Ok(())
}
