//! What the target can be: ports that are open, closed or silent, and how targets are written.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::thread;

use traceroute_testbed::{Node, Result, require_lab};

use crate::program::{each_family, hops, paths, trace};

/// A trace's last hop and its end-to-end probe, when everything before the target is well.
const ONCE: &str = "-q 1 -Q 1 -m 5 --timeout 300";

/// The same where a thread of this process answers, which may be late.
const PATIENTLY: &str = "-q 1 -Q 1 -m 5 --timeout 2000";

/// Answers every datagram with the same few bytes, until the first that says `stop`.
fn answer_with_bytes(target: &Node, address: SocketAddr, answer: &'static [u8]) -> thread::JoinHandle<()> {
    let socket = target.udp_socket(address).unwrap();
    thread::spawn(move || {
        let mut datagram = [0; 512];
        while let Ok((length, client)) = socket.recv_from(&mut datagram) {
            if &datagram[..length] == b"stop" {
                return;
            }
            socket.send_to(answer, client).unwrap();
        }
    })
}

#[test]
fn a_udp_service_that_sends_back_what_it_got_is_the_destination() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let chain = lab.chain(4)?;
    let server = chain.target.listen_udp(0)?;
    each_family(&chain, |path| {
        let report = trace(
            &chain.client,
            path.target,
            &format!("{PATIENTLY} -p {}", server.port()),
        );
        assert_eq!(hops(&report), path.hops);
        assert_eq!(report.e2e.received, 1);
    });
    Ok(())
}

#[test]
fn a_udp_service_that_says_something_else_is_the_destination() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let chain = lab.chain(4)?;
    let server = answer_with_bytes(&chain.target, (Ipv6Addr::UNSPECIFIED, 5353).into(), b"what?");
    each_family(&chain, |path| {
        let report = trace(&chain.client, path.target, &format!("{PATIENTLY} -p 5353"));
        assert_eq!(hops(&report), path.hops);
        assert_eq!(report.e2e.received, 1);
    });
    let stop = chain.client.udp_socket((Ipv6Addr::UNSPECIFIED, 0).into())?;
    stop.send_to(b"stop", (chain.target_v6(), 5353)).unwrap();
    server.join().unwrap();
    Ok(())
}

#[test]
fn a_udp_service_that_says_nothing_is_a_silent_hop() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let chain = lab.chain(3)?;
    let _socket = chain.target.udp_socket((Ipv6Addr::UNSPECIFIED, 9).into())?;
    each_family(&chain, |path| {
        let report = trace(&chain.client, path.target, &format!("{ONCE} -p 9"));
        assert_eq!(hops(&report), [path.hops[0], path.hops[1], None, None, None]);
        assert_eq!((report.hop_count.max, report.e2e.received), (2, 0));
        report.check_hop_count().unwrap();
    });
    Ok(())
}

#[test]
fn tcp_ports_are_open_refused_or_filtered() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let chain = lab.chain(3)?;
    let _open = chain.target.listen_tcp(80)?;
    chain.target.drop_packets("tcp dport 82")?;
    each_family(&chain, |path| {
        for port in ["80", "81"] {
            let report = trace(&chain.client, path.target, &format!("{ONCE} -P tcp -p {port}"));
            assert_eq!(hops(&report), path.hops, "{port}");
            assert_eq!(report.e2e.received, 1, "{port}");
        }
        let report = trace(&chain.client, path.target, &format!("{ONCE} -P tcp -p 82"));
        assert_eq!(hops(&report), [path.hops[0], path.hops[1], None, None, None]);
        assert_eq!(report.e2e.received, 0);
    });
    Ok(())
}

#[test]
fn a_port_in_the_target_is_the_one_probed() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let chain = lab.chain(2)?;
    chain.target.drop_packets("udp dport != 33500")?;
    for path in paths(&chain) {
        let target = SocketAddr::new(path.target, 33500).to_string();
        let report = trace(&chain.client, &target, &format!("{ONCE} --port 1234"));
        assert_eq!(hops(&report), path.hops);
        assert_eq!((report.hostname.as_str(), report.port), (target.as_str(), 1234));
        assert_eq!(report.runs[0].destination_port, 33500);
    }
    let bracketed = format!("[{}]", chain.target_v6());
    let report = trace(&chain.client, &bracketed, &format!("{ONCE} --port 33500"));
    assert_eq!(
        (report.hostname.as_str(), report.port),
        (bracketed.as_str(), 33500)
    );
    assert_eq!(hops(&report), paths(&chain)[1].hops);
    Ok(())
}

#[test]
fn flags_are_taken_in_every_form() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let chain = lab.chain(2)?;
    let [path, _] = paths(&chain);
    for arguments in [
        "-PICMP -q1 -Q=0 --max-ttl=5",
        "--proto=Icmp --traceroute-queries 1 --e2e-queries=0 -m5 --ipv6=false --verbose=F",
    ] {
        let report = trace(&chain.client, path.target, arguments);
        assert_eq!(
            (report.protocol.as_str(), hops(&report)),
            ("icmp", path.hops.clone())
        );
    }
    Ok(())
}

#[test]
fn this_host_itself_can_be_the_target() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let chain = lab.chain(1)?;
    let server = chain.client.listen_tcp(0)?;
    let own = ["127.0.0.1", "::1", "10.0.1.1", "fd00:1::1"];
    for target in own {
        for protocol in ["udp", "icmp", "tcp", "tcp --tcp-method sack"] {
            let port = if protocol == "udp" { 33434 } else { server.port() };
            let report = trace(
                &chain.client,
                target,
                &format!("-P {protocol} -p {port} -q 1 -Q 1"),
            );
            let address: IpAddr = target.parse().unwrap();
            assert_eq!(hops(&report), [Some(address)], "{protocol}");
            assert_eq!(report.e2e.received, 1, "{protocol}");
        }
    }
    Ok(())
}
