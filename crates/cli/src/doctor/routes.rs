//! Where packets leave, and by which of several ways.

use std::net::IpAddr;

use datadog_traceroute::Family;
use datadog_traceroute::system::{DefaultRoute, Finding, NextHop, Prefix, Routing, Subject, Verdict};

/// The main routing table (`RT_TABLE_MAIN`).
const MAIN: u32 = 254;
/// Networks that are named; the others are counted.
const MOST_NETWORKS: usize = 4;

pub(super) fn findings(family: Family, routing: &Routing) -> Vec<Finding> {
    let mut findings = vec![route(family, routing)];
    findings.extend(several(family, routing));
    findings
}

/// Whether packets get anywhere.
fn route(family: Family, routing: &Routing) -> Finding {
    let subject = Subject::System(match family {
        Family::V4 => "IPv4 route",
        Family::V6 => "IPv6 route",
    });
    let finding = |verdict, text: &str| Finding::new(subject, verdict, text);
    let command = match family {
        Family::V4 => "ip route",
        Family::V6 => "ip -6 route",
    };
    let (has_default, onward) = match &routing.routes {
        Ok(routes) => (!routes.default.is_empty(), networks(&routes.onward)),
        // A source is proof enough.
        Err(_) if routing.source.is_some() => (true, None),
        Err(error) => {
            let text = format!("cannot be read: {error}");
            return finding(Verdict::Unknown, &text).with_remedy(command);
        }
    };
    match (routing.source, has_default, onward) {
        (Some(source), false, Some(networks)) => {
            let text = format!(
                "no default route, but routes to {networks}: only these and this host's own networks can be \
                 probed; source address {source}"
            );
            finding(Verdict::Notable, &text).with_remedy(command)
        }
        (Some(source), ..) => {
            let text = format!("a default route, with source address {source}");
            finding(Verdict::Good, &text)
        }
        (None, true, _) => {
            let text = "a default route that probes do not take: a routing rule, or no address of this family, keeps \
                        them from it";
            let remedy = match family {
                Family::V4 => "ip -4 rule; ip -4 address; choose with --source, --interface or --fwmark",
                Family::V6 => "ip -6 rule; ip -6 address; choose with --source, --interface or --fwmark",
            };
            finding(Verdict::Limited, text).with_remedy(remedy)
        }
        (None, false, Some(networks)) => {
            let text = format!(
                "no default route, but routes to {networks}: only these and this host's own networks can be probed"
            );
            finding(Verdict::Notable, &text).with_remedy(command)
        }
        (None, false, None) => {
            let text = "no default route: only this host and its own networks can be probed";
            finding(Verdict::Limited, text).with_remedy(command)
        }
    }
}

/// The first few of them; `None`: there are none.
fn networks(all: &[Prefix]) -> Option<String> {
    let named: Vec<String> = all.iter().take(MOST_NETWORKS).map(prefix).collect();
    match all.len() - named.len() {
        _ if named.is_empty() => None,
        0 => Some(named.join(", ")),
        more => Some(format!("{} and {more} more", named.join(", "))),
    }
}

pub(super) fn prefix(prefix: &Prefix) -> String {
    let Prefix { address, length } = prefix;
    let bits = if address.is_ipv4() { 32 } else { 128 };
    if *length == bits {
        address.to_string()
    } else {
        format!("{address}/{length}")
    }
}

/// Several default routes, or one with several next hops.
fn several(family: Family, routing: &Routing) -> Option<Finding> {
    let routes = routing.routes.as_ref().ok()?;
    let main: Vec<&DefaultRoute> = routes
        .default
        .iter()
        .filter(|route| route.table == MAIN)
        .collect();
    if main.iter().map(|route| route.hops.len()).sum::<usize>() < 2 {
        return None;
    }
    let listed: Vec<String> = main.iter().map(|route| with_metric(route)).collect();
    let listed = listed.join("; ");
    let lives = |route: &&&DefaultRoute| route.hops.is_empty() || route.hops.iter().any(|hop| !hop.is_dead);
    let lowest = main.iter().filter(lives).map(|route| route.metric).min()?;
    let best: Vec<&DefaultRoute> = main
        .iter()
        .copied()
        .filter(|route| route.metric == lowest)
        .collect();
    let used: Vec<&NextHop> = best
        .iter()
        .flat_map(|route| &route.hops)
        .filter(|hop| !hop.is_dead)
        .collect();
    let all = main.iter().flat_map(|route| &route.hops);
    let (text, remedy) = match (&best[..], &used[..]) {
        ([_], [only]) => (
            format!("the lowest metric wins: probes leave {}", hop(only)),
            another_interface(all, &used),
        ),
        ([_], _) => (spread(family, routing.hash_policy), one_interface(&used)),
        _ => (
            "of those with the same metric the kernel takes one whose gateway answers, so the path may change"
                .to_owned(),
            one_interface(&used),
        ),
    };
    let subject = Subject::System(match family {
        Family::V4 => "IPv4 default routes",
        Family::V6 => "IPv6 default routes",
    });
    Some(Finding::new(subject, Verdict::Notable, format!("{listed}; {text}")).with_remedy(remedy))
}

/// `via 10.0.0.1 on eth0 or via 10.0.1.1 on eth1 (metric 10)`
fn with_metric(route: &DefaultRoute) -> String {
    format!("{} (metric {})", hops(route), route.metric)
}

pub(super) fn hops(route: &DefaultRoute) -> String {
    let hops: Vec<String> = route.hops.iter().map(hop).collect();
    hops.join(" or ")
}

fn hop(hop: &NextHop) -> String {
    let NextHop {
        interface,
        gateway,
        is_dead,
    } = hop;
    let dead = if *is_dead { ", which is down" } else { "" };
    match gateway {
        Some(gateway) => format!("via {gateway} on {interface}{dead}"),
        None => format!("on {interface}{dead}"),
    }
}

/// By which fields the kernel chooses a next hop (`ip-sysctl.rst`), and what follows.
fn spread(family: Family, policy: Option<u8>) -> String {
    let setting = match family {
        Family::V4 => "net.ipv4.fib_multipath_hash_policy",
        Family::V6 => "net.ipv6.fib_multipath_hash_policy",
    };
    let (fields, is_by_flow) = match policy {
        Some(0) if family == Family::V6 => ("addresses, protocol and flow label", false),
        Some(0) => ("addresses", false),
        Some(1) => ("addresses, protocol and ports", true),
        Some(2) => ("addresses, in a tunnel the inner ones", false),
        Some(3) => ("the fields that fib_multipath_hash_fields names", true),
        _ => return format!("flows are spread over them, so two runs can show different paths ({setting})"),
    };
    let meaning = if is_by_flow {
        "each flow keeps to one, and two runs can show different paths"
    } else {
        "runs to one target take the same one, and another target or source can take another"
    };
    let policy = policy.unwrap_or_default();
    format!("flows are spread over them by {fields} ({setting} = {policy}): {meaning}")
}

/// How to keep to one of several ways.
fn one_interface(used: &[&NextHop]) -> String {
    match &interfaces(used.iter().copied())[..] {
        [] => String::new(),
        [only] => {
            let gateway: Option<IpAddr> = used.iter().find_map(|hop| hop.gateway);
            let via = gateway.map_or("GATEWAY".to_owned(), |gateway| gateway.to_string());
            format!(
                "all are on {only}, so --interface does not choose: sudo ip route add TARGET via {via} dev {only}"
            )
        }
        several => format!("keep to one: --interface {}", several.join(" or --interface ")),
    }
}

/// How to take another way than the best.
fn another_interface<'h>(all: impl Iterator<Item = &'h NextHop>, used: &[&NextHop]) -> String {
    let others = all.filter(|hop| !hop.is_dead && used.iter().all(|used| used.interface != hop.interface));
    match &interfaces(others)[..] {
        [] => String::new(),
        others => format!(
            "probe another way: --interface {}",
            others.join(" or --interface ")
        ),
    }
}

fn interfaces<'h>(hops: impl Iterator<Item = &'h NextHop>) -> Vec<&'h str> {
    let mut names: Vec<&str> = Vec::new();
    for hop in hops {
        if !names.contains(&&*hop.interface) {
            names.push(&hop.interface);
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use std::io;

    use datadog_traceroute::system::Routes;

    use super::super::system;
    use super::*;

    fn hop(interface: &str, gateway: &str) -> NextHop {
        NextHop {
            interface: interface.to_owned(),
            gateway: (!gateway.is_empty()).then(|| gateway.parse().unwrap()),
            is_dead: false,
        }
    }

    fn default(metric: u32, hops: &[NextHop]) -> DefaultRoute {
        DefaultRoute {
            table: MAIN,
            metric,
            hops: hops.to_vec(),
        }
    }

    fn routing(source: Option<&str>, policy: u8, default: &[DefaultRoute], onward: &[(&str, u8)]) -> Routing {
        let onward = onward.iter().map(|(address, length)| Prefix {
            address: address.parse().unwrap(),
            length: *length,
        });
        Routing {
            source: source.map(|source| source.parse().unwrap()),
            rules: Ok(Vec::new()),
            routes: Ok(Routes {
                default: default.to_vec(),
                onward: onward.collect(),
            }),
            hash_policy: Some(policy),
        }
    }

    fn text(family: Family, routing: &Routing) -> String {
        system(&findings(family, routing))
    }

    #[test]
    fn several_default_routes_as_a_user_sees_them() {
        let (near, far) = (hop("eth0", "10.1.0.2"), hop("eth1", "10.8.0.2"));
        let source = Some("10.1.0.1");
        let dead = NextHop {
            is_dead: true,
            ..near.clone()
        };
        let mut other_table = default(0, std::slice::from_ref(&far));
        other_table.table = 100;
        let one = default(10, std::slice::from_ref(&near));
        let two = [one.clone(), default(5000, std::slice::from_ref(&far))];
        let both = default(0, &[near.clone(), far.clone()]);
        let same_link = default(0, &[near.clone(), hop("eth0", "10.1.0.3")]);
        let tunnel = default(0, &[hop("wg0", "")]);
        let all = [
            text(Family::V4, &routing(source, 0, &[one.clone(), other_table], &[])),
            text(Family::V4, &routing(source, 0, &two, &[])),
            text(
                Family::V4,
                &routing(source, 0, &[default(10, &[dead]), two[1].clone()], &[]),
            ),
            text(Family::V4, &routing(source, 0, std::slice::from_ref(&both), &[])),
            text(Family::V4, &routing(source, 1, &[both, tunnel], &[])),
            text(Family::V4, &routing(source, 3, &[same_link], &[])),
            text(
                Family::V6,
                &routing(
                    Some("fd00::1"),
                    0,
                    &[default(1024, &[hop("eth0", "fe80::1"), hop("eth1", "fe80::2")])],
                    &[],
                ),
            ),
            text(
                Family::V6,
                &routing(
                    Some("fd00::1"),
                    0,
                    &[
                        default(1024, &[hop("eth0", "fe80::1")]),
                        default(1024, &[hop("eth1", "fe80::2")]),
                    ],
                    &[],
                ),
            ),
        ];
        insta::assert_snapshot!("default_routes", all.join("\n"));
    }

    #[test]
    fn routes_that_lead_on_without_a_default_route_are_named() {
        let few = [("10.0.0.0", 8), ("192.0.2.7", 32)];
        let many = [
            ("10.0.0.0", 16),
            ("10.1.0.0", 16),
            ("10.2.0.0", 16),
            ("10.3.0.0", 16),
            ("10.4.0.0", 16),
        ];
        let default = [default(0, &[hop("eth0", "10.1.0.2")])];
        let mut unreadable = routing(None, 0, &[], &[]);
        unreadable.routes = Err(io::ErrorKind::PermissionDenied.into());
        let all = [
            text(Family::V4, &routing(None, 0, &[], &few)),
            text(Family::V4, &routing(None, 0, &[], &many)),
            text(
                Family::V4,
                &routing(Some("10.8.0.1"), 0, &[], &[("0.0.0.0", 1), ("128.0.0.0", 1)]),
            ),
            text(Family::V4, &routing(None, 0, &[], &[])),
            text(Family::V6, &routing(None, 0, &default, &[])),
            text(Family::V4, &unreadable),
        ];
        insta::assert_snapshot!("routes", all.join("\n"));
    }
}
