//! Routers and targets that say nothing, or no.

use traceroute_testbed::{Reject, Result, require_lab};

use crate::program::{each_family, hops, trace};

/// Protocols, and what nft calls their probes.
const PROBES: [(&str, &[&str]); 3] = [
    ("udp", &["udp dport 33434"]),
    ("icmp", &["icmp type echo-request", "icmpv6 type echo-request"]),
    ("tcp", &["tcp dport 33434"]),
];

#[test]
fn a_silent_router_is_a_gap() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let chain = lab.chain(4)?;
    chain.routers[1].silence()?;
    let server = chain.target.listen_tcp(0)?;
    for protocol in ["udp", "icmp", "tcp", "tcp --tcp-method sack"] {
        each_family(&chain, |path| {
            let arguments = format!("-P {protocol} -p {} -q 1 -Q 1 --timeout 300", server.port());
            let report = trace(&chain.client, path.target, &arguments);
            assert_eq!(
                hops(&report),
                [path.hops[0], None, path.hops[2], path.hops[3]],
                "{protocol}"
            );
            assert_eq!((report.hop_count.max, report.e2e.received), (4, 1), "{protocol}");
            report.check_hop_count().unwrap();
        });
    }
    Ok(())
}

#[test]
fn silence_everywhere_is_a_result() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let chain = lab.chain(3)?;
    for (_, matches) in PROBES {
        for what in matches {
            chain.routers[0].drop_packets(what)?;
        }
    }
    chain.routers[0].silence()?;
    for (protocol, _) in PROBES {
        each_family(&chain, |path| {
            let arguments = format!("-P {protocol} -q 1 -Q 2 -m 4 --timeout 200");
            let report = trace(&chain.client, path.target, &arguments);
            assert_eq!(hops(&report), [None; 4], "{protocol}");
            assert_eq!((report.hop_count.min, report.hop_count.max), (4, 4), "{protocol}");
            assert_eq!(
                (report.e2e.received, report.e2e.rtts.as_slice()),
                (0, &[0.0; 2][..]),
                "{protocol}"
            );
            report.check_hop_count().unwrap();
        });
    }
    Ok(())
}

/// It answers for every TTL that would have gone further. Two such answers end the run, and the e2e
/// probe is filtered, not lost.
#[test]
fn a_router_that_refuses_is_the_last_hop() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    for with in [Reject::AdminProhibited, Reject::HostUnreachable] {
        let chain = lab.chain(3)?;
        for (protocol, matches) in PROBES {
            for what in matches {
                chain.routers[1].reject(what, with)?;
            }
            each_family(&chain, |path| {
                let arguments = format!("-P {protocol} -q 1 -Q 1 -m 5 --timeout 2000 --details");
                let report = trace(&chain.client, path.target, &arguments);
                // A router looks at the TTL before its filter does, so its first answer is that of
                // any router.
                let router = path.hops[1];
                let expected = [path.hops[0], router, router];
                assert_eq!(hops(&report), expected, "{protocol} {with:?}");
                assert_eq!(report.e2e.received, 0, "{protocol} {with:?}");
                let details = report.details.unwrap();
                assert_eq!(details.runs[0].refused_by, router, "{protocol} {with:?}");
                assert_eq!(details.e2e_lost["filtered"], 1, "{protocol} {with:?}");
            });
        }
    }
    Ok(())
}

#[test]
fn a_target_that_refuses_is_the_destination() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    for with in [
        Reject::AdminProhibited,
        Reject::HostUnreachable,
        Reject::PortUnreachable,
    ] {
        let chain = lab.chain(3)?;
        for (protocol, matches) in PROBES {
            for what in matches {
                chain.target.reject(what, with)?;
            }
            each_family(&chain, |path| {
                let arguments = format!("-P {protocol} -q 1 -Q 1 -m 5 --timeout 2000");
                let report = trace(&chain.client, path.target, &arguments);
                assert_eq!(hops(&report), path.hops, "{protocol} {with:?}");
                assert_eq!(report.e2e.received, 1, "{protocol} {with:?}");
            });
        }
    }
    Ok(())
}

/// The reset bears the target's address, so nobody can tell.
#[test]
fn a_router_that_resets_is_taken_for_the_target() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let chain = lab.chain(5)?;
    chain.routers[1].reject("tcp dport 33434", Reject::TcpReset)?;
    each_family(&chain, |path| {
        let report = trace(&chain.client, path.target, "-P tcp -q 1 -Q 1");
        assert_eq!(hops(&report), [path.hops[0], path.hops[1], Some(path.target)]);
    });
    Ok(())
}

/// Linux limits how often it says so, to the third time in a row here; hence a new router for each
/// protocol.
#[test]
fn a_router_without_a_route_is_the_last_hop() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    for (protocol, _) in PROBES {
        let chain = lab.chain(3)?;
        chain.routers[1].ip("route add unreachable 203.0.113.0/24\nroute add unreachable 2001:db8::/32\n")?;
        each_family(&chain, |path| {
            let target = if path.target.is_ipv4() {
                "203.0.113.7"
            } else {
                "2001:db8::7"
            };
            let arguments = format!("-P {protocol} -q 1 -Q 0 -m 3 --timeout 2000");
            let report = trace(&chain.client, target, &arguments);
            assert_eq!(hops(&report), [path.hops[0], path.hops[1]], "{protocol}");
        });
    }
    Ok(())
}

#[test]
fn private_hops_can_be_left_out() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let chain = lab.chain(3)?;
    // Only the last router and the target get public addresses.
    let (router, target) = (&chain.routers[1], &chain.target);
    let link = lab.link(
        router,
        &["192.0.2.1/24", "2001:db8::1/64"],
        target,
        &["192.0.2.2/24", "2001:db8::2/64"],
    )?;
    let back = format!(
        "route replace default via 192.0.2.1 dev {0} src 192.0.2.2\n\
         route replace default via 2001:db8::1 dev {0} src 2001:db8::2\n",
        link.b
    );
    target.ip(&back)?;
    for public in ["192.0.2.2", "2001:db8::2"] {
        for (protocol, _) in PROBES {
            let arguments = format!("-P {protocol} -q 1 -Q 1 --skip-private-hops");
            let report = trace(&chain.client, public, &arguments);
            let expected = [None, None, Some(public.parse().unwrap())];
            assert_eq!(hops(&report), expected, "{protocol}");
            assert_eq!((report.hop_count.max, report.e2e.received), (3, 1), "{protocol}");
        }
    }
    each_family(&chain, |path| {
        let report = trace(
            &chain.client,
            path.hops[0].unwrap(),
            "-q 1 -Q 1 --skip-private-hops",
        );
        assert_eq!((hops(&report), report.hop_count.max), (vec![None], 1));
        assert_eq!(report.runs[0].destination, path.hops[0].unwrap());
    });
    Ok(())
}
