//! TCP SACK against real listeners of the kernel, and what stands in its way.

use std::time::{Duration, Instant};

use traceroute_testbed::{Chain, Node, Reject, Result, require_lab};

use crate::program::{each_family, hops, run, trace};

const SACK: &str = "-P tcp --tcp-method sack -q 1 -Q 0 -m 6 --timeout 500";
const PREFER_SACK: &str = "-P tcp --tcp-method prefer_sack -q 1 -Q 0 -m 6 --timeout 500";

#[test]
fn a_target_that_speaks_first_is_the_destination() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let chain = lab.chain(4)?;
    let server = chain
        .target
        .listen_tcp_greeting(0, b"220 ready when you are\r\n")?;
    each_family(&chain, |path| {
        let report = trace(
            &chain.client,
            path.target,
            &format!("{SACK} -p {}", server.port()),
        );
        assert_eq!(hops(&report), path.hops);
    });
    Ok(())
}

/// The cause that SACK gives, and that SYN takes over where SACK is only preferred.
fn assert_falls_back(chain: &Chain, port: u16, cause: &str) {
    each_family(chain, |path| {
        let outcome = run(&chain.client, path.target, &format!("{SACK} -p {port}"));
        let failure = outcome.failure();
        let found = failure.strip_prefix("SACK not supported for this target/source: ");
        assert!(found.is_some_and(|found| found.contains(cause)), "{failure}");
        let report = trace(&chain.client, path.target, &format!("{PREFER_SACK} -p {port}"));
        assert_eq!(hops(&report), path.hops);
    });
}

#[test]
fn without_sack_at_either_end_syn_takes_over() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let chain = lab.chain(3)?;
    let server = chain.target.listen_tcp(0)?;
    let set = |node: &Node, value| node.sysctl("net.ipv4.tcp_sack", value);
    set(&chain.target, "0")?;
    assert_falls_back(&chain, server.port(), "SYN-ACK does not permit SACK");
    set(&chain.target, "1")?;
    set(&chain.client, "0")?;
    assert_falls_back(&chain, server.port(), "SYN-ACK does not permit SACK");
    set(&chain.client, "1")?;
    let report = trace(
        &chain.client,
        chain.target_v4(),
        &format!("{SACK} -p {}", server.port()),
    );
    assert_eq!(report.hop_count.max, 3);
    Ok(())
}

#[test]
fn without_timestamps_sack_works() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let chain = lab.chain(3)?;
    let server = chain.target.listen_tcp(0)?;
    chain.target.sysctl("net.ipv4.tcp_timestamps", "0")?;
    each_family(&chain, |path| {
        let report = trace(
            &chain.client,
            path.target,
            &format!("{SACK} -p {}", server.port()),
        );
        assert_eq!(hops(&report), path.hops);
    });
    Ok(())
}

#[test]
fn a_closed_port_has_no_sack() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let chain = lab.chain(3)?;
    assert_falls_back(&chain, 81, "Connection refused");
    Ok(())
}

#[test]
fn a_port_that_a_router_resets_has_no_sack() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let chain = lab.chain(3)?;
    chain.target.reject("tcp dport 81", Reject::TcpReset)?;
    assert_falls_back(&chain, 81, "Connection refused");
    Ok(())
}

#[test]
fn a_filtered_port_has_no_sack() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let chain = lab.chain(3)?;
    chain.target.drop_packets("tcp dport 81")?;
    each_family(&chain, |path| {
        let outcome = run(&chain.client, path.target, &format!("{SACK} -p 81"));
        let expected = format!(
            "SACK not supported for this target/source: no connection to {} port 81 within 500 ms",
            path.target
        );
        assert_eq!(outcome.failure(), expected);
        let report = trace(&chain.client, path.target, &format!("{PREFER_SACK} -p 81"));
        assert_eq!(
            hops(&report),
            [path.hops[0], path.hops[1], None, None, None, None]
        );
    });
    Ok(())
}

#[test]
fn a_prohibited_port_has_no_sack_but_a_path() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let chain = lab.chain(3)?;
    chain.routers[1].reject("tcp dport 81", Reject::AdminProhibited)?;
    each_family(&chain, |path| {
        let outcome = run(&chain.client, path.target, &format!("{SACK} -p 81"));
        let failure = outcome.failure();
        assert!(
            failure.starts_with("SACK not supported for this target/source: "),
            "{failure}"
        );
        // It has one: a router on the way has something against it.
        assert!(!failure.contains("this host has no route"), "{failure}");
        let report = trace(&chain.client, path.target, &format!("{PREFER_SACK} -p 81"));
        let refusing = path.hops[1];
        assert_eq!(hops(&report)[..2], path.hops[..2]);
        assert!(
            hops(&report)[2..].iter().all(|hop| *hop == refusing),
            "{report:?}"
        );
    });
    Ok(())
}

/// Connections that a node's kernel knows, as `/proc/net/tcp` and `tcp6` show them; state 0A is
/// LISTEN.
fn connections(node: &Node) -> Vec<String> {
    let output = node
        .command("cat")
        .args(["/proc/net/tcp", "/proc/net/tcp6"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let state = |line: &str| line.split_whitespace().nth(3).unwrap_or_default().to_owned();
    text.lines()
        .filter(|line| !["st", "0A"].contains(&state(line).as_str()))
        .map(str::to_owned)
        .collect()
}

#[test]
fn no_connection_is_left_behind() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let chain = lab.chain(2)?;
    let server = chain.target.listen_tcp(0)?;
    each_family(&chain, |path| {
        trace(
            &chain.client,
            path.target,
            &format!("{SACK} -q 3 -p {}", server.port()),
        );
    });
    let deadline = Instant::now() + Duration::from_secs(5);
    while !(connections(&chain.client).is_empty() && connections(&chain.target).is_empty()) {
        assert!(
            Instant::now() < deadline,
            "{:?} {:?}",
            connections(&chain.client),
            connections(&chain.target)
        );
    }
    Ok(())
}
