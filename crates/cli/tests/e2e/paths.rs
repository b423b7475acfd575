//! Complete paths: every protocol, method and family through eleven hops.

use std::collections::HashSet;
use std::time::Duration;

use traceroute_testbed::{Chain, Node, Result, not_run, require_lab};

use crate::program::{Path, addresses, each_family, hops, run, trace};

const HOPS: usize = 11;
/// A trace that waits for nothing in vain takes far less than a timeout of 20 s, and than the 5 s
/// at most that it looks for its destination.
const PROMPT: Duration = Duration::from_millis(4500);

/// Traces the whole chain, and looks at everything that the report says.
fn check_path(client: &Node, path: &Path, arguments: &str, port: u16) {
    let protocol = ["udp", "tcp", "icmp"]
        .into_iter()
        .find(|name| arguments.contains(name))
        .unwrap();
    let arguments = &format!("{arguments} -p {port} -q 1 -Q 1 --timeout 20000");
    let outcome = run(client, path.target, arguments);
    let report = outcome.report();
    assert!(outcome.elapsed < PROMPT, "{arguments} took {:?}", outcome.elapsed);
    assert_eq!(report.protocol, protocol);
    assert_eq!(report.public_ip, None);
    assert_eq!(
        (report.hostname.as_str(), report.port),
        (path.target.to_string().as_str(), port)
    );
    assert_eq!(hops(&report), path.hops, "{arguments}");
    report.check_hop_count().unwrap();
    assert_eq!(
        (report.hop_count.min, report.hop_count.max),
        (HOPS as u64, HOPS as u64)
    );
    assert_eq!((report.e2e.sent, report.e2e.received), (1, 1), "{arguments}");
    let traced = &report.runs[0];
    assert_eq!((traced.source, traced.destination), (path.client, path.target));
    assert!(traced.source_port > 0);
    let destination_port = if protocol == "icmp" { 0 } else { port };
    assert_eq!(traced.destination_port, destination_port);
    assert!(traced.names.is_empty() && traced.hops.iter().all(|hop| hop.names.is_empty()));
}

fn check_paths(arguments: &str) -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let chain = lab.chain(HOPS)?;
    let server = chain.target.listen_tcp(0)?;
    each_family(&chain, |path| {
        check_path(&chain.client, path, arguments, server.port());
    });
    Ok(())
}

#[test]
fn udp_sees_the_whole_path() -> Result<()> {
    check_paths("-P udp")
}

#[test]
fn icmp_sees_the_whole_path() -> Result<()> {
    check_paths("-P icmp")
}

#[test]
fn tcp_syn_sees_the_whole_path() -> Result<()> {
    check_paths("-P tcp --tcp-method syn")
}

#[test]
fn tcp_sack_sees_the_whole_path() -> Result<()> {
    check_paths("-P tcp --tcp-method sack")
}

#[test]
fn tcp_prefer_sack_sees_the_whole_path() -> Result<()> {
    check_paths("-P tcp --tcp-method prefer_sack")
}

#[test]
fn several_runs_and_end_to_end_probes() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let chain = lab.chain(3)?;
    for protocol in ["udp", "icmp", "tcp"] {
        let arguments = format!("-P {protocol} -q 4 -Q 20 -m 5 --e2e-interval 50");
        each_family(&chain, |path| {
            let report = trace(&chain.client, path.target, &arguments);
            assert_eq!((report.e2e.sent, report.e2e.received), (20, 20), "{protocol}");
            let ids: HashSet<_> = report.runs.iter().map(|run| &run.id).collect();
            let ports: HashSet<_> = report.runs.iter().map(|run| run.source_port).collect();
            assert_eq!((ids.len(), ports.len()), (4, 4), "{protocol}");
            assert!(
                report.runs.iter().all(|run| addresses(run) == path.hops),
                "{report:?}"
            );
            report.check_hop_count().unwrap();
        });
    }
    Ok(())
}

#[test]
fn only_runs_or_only_end_to_end_probes_or_neither() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let chain = lab.chain(2)?;
    each_family(&chain, |path| {
        let report = trace(&chain.client, path.target, "-q 1 -Q 0");
        assert_eq!((hops(&report), report.e2e.sent), (path.hops.clone(), 0));
        let report = trace(&chain.client, path.target, "-q 0 -Q 1");
        assert_eq!((report.runs.len(), report.e2e.received), (0, 1));
        report.check_hop_count().unwrap();
        let report = trace(&chain.client, path.target, "-q 0 -Q 0");
        assert_eq!((report.runs.len(), report.e2e.sent), (0, 0));
    });
    Ok(())
}

#[test]
fn a_low_max_ttl_ends_before_the_target() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let chain = lab.chain(5)?;
    let server = chain.target.listen_tcp(0)?;
    for protocol in ["udp", "icmp", "tcp", "tcp --tcp-method sack"] {
        let arguments = format!("-P {protocol} -p {} -q 1 -Q 1 -m 3 --timeout 1000", server.port());
        each_family(&chain, |path| {
            let report = trace(&chain.client, path.target, &arguments);
            assert_eq!(hops(&report), path.hops[..3], "{protocol}");
            assert_eq!((report.e2e.sent, report.e2e.received), (1, 0), "{protocol}");
        });
    }
    Ok(())
}

#[test]
fn the_next_hop_can_be_the_target() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let chain = lab.chain(1)?;
    let server = chain.target.listen_tcp(0)?;
    for protocol in ["udp", "icmp", "tcp", "tcp --tcp-method sack"] {
        let arguments = format!("-P {protocol} -p {} -q 1 -Q 1", server.port());
        each_family(&chain, |path| {
            let report = trace(&chain.client, path.target, &arguments);
            assert_eq!(hops(&report), path.hops, "{protocol}");
        });
    }
    Ok(())
}

/// What Debian's traceroute shows; `None` when it is not installed.
fn theirs(chain: &Chain, path: &Path, arguments: &str) -> Option<Vec<String>> {
    let mut command = chain.client.command("traceroute");
    command
        .args(["-n", "-q", "1", "-w", "2", "-N", "1"])
        .args(arguments.split_whitespace());
    let output = command.arg(path.target.to_string()).output().ok()?;
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    // "traceroute to …", then lines such as " 1  10.0.1.2  0.040 ms".
    let hop = |line: &str| line.split_whitespace().nth(1).unwrap().to_owned();
    Some(text.lines().skip(1).map(hop).collect())
}

#[test]
fn another_traceroute_sees_the_same() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let chain = lab.chain(6)?;
    if chain
        .client
        .command("traceroute")
        .arg("--version")
        .output()
        .is_err()
    {
        not_run("the program `traceroute` is missing: install the Debian package traceroute");
        return Ok(());
    }
    let server = chain.target.listen_tcp(80)?;
    let same = [
        ("-U -p 33434", "-P udp"),
        ("-I", "-P icmp"),
        ("-T -p 80", "-P tcp -p 80"),
    ];
    for (their_arguments, our_arguments) in same {
        each_family(&chain, |path| {
            let their_hops = theirs(&chain, path, their_arguments).unwrap();
            let report = trace(&chain.client, path.target, &format!("{our_arguments} -q 1 -Q 0"));
            let our_hops: Vec<String> = hops(&report).iter().map(|hop| hop.unwrap().to_string()).collect();
            assert_eq!(our_hops, their_hops, "{our_arguments}");
        });
    }
    drop(server);
    Ok(())
}
