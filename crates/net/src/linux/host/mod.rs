//! Reads what this host does with what it sends. Sends nothing, and changes nothing.

mod nftables;
mod rules;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::ops::ControlFlow;

use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteNextHop, RouteNextHopFlags, RouteProtocol,
    RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::netlink::{Netlink, gateway, ip};
use super::source_address;
use crate::diagnosis::ELSEWHERE;
use crate::host::{DefaultRoute, LocalHost, NextHop, Prefix, Routes, Routing, Translation};
use crate::unix::sys::interface_name;

/// Routes that are read of a family: a router may have a million. Default routes come first.
const MOST_ROUTES: usize = 100_000;

/// What this host does with what it sends, as far as this thread may know.
#[allow(clippy::unnecessary_wraps, reason = "other systems do not tell")]
pub fn host() -> Option<LocalHost> {
    Some(LocalHost {
        v4: routing(AddressFamily::Inet, ELSEWHERE[0]),
        v6: routing(AddressFamily::Inet6, ELSEWHERE[1]),
        translation: Translation {
            chains: nftables::chains(),
            tables: ["ip_tables_names", "ip6_tables_names"].map(has_nat_table),
        },
    })
}

fn routing(family: AddressFamily, elsewhere: IpAddr) -> Routing {
    let name = if elsewhere.is_ipv4() { "ipv4" } else { "ipv6" };
    let policy = fs::read_to_string(format!("/proc/sys/net/{name}/fib_multipath_hash_policy"));
    Routing {
        source: source_address(elsewhere).ok(),
        rules: rules::read(family),
        routes: routes(family),
        hash_policy: policy.ok().and_then(|policy| policy.trim().parse().ok()),
    }
}

/// Whether one of the tables of iptables translates. nftables has its own.
fn has_nat_table(list: &str) -> io::Result<bool> {
    match fs::read_to_string(format!("/proc/thread-self/net/{list}")) {
        Ok(names) => Ok(names.lines().any(|name| name == "nat")),
        // A kernel without it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn routes(family: AddressFamily) -> io::Result<Routes> {
    let mut question = RouteMessage::default();
    question.header.address_family = family;
    let (mut routes, mut names) = (Routes::default(), HashMap::new());
    let mut interface = |index: u32| {
        let name = names.entry(index).or_insert_with(|| interface_name(index));
        name.clone().unwrap_or_else(|| index.to_string())
    };
    let mut count = 0;
    Netlink::open()?.list(RouteNetlinkMessage::GetRoute(question), |answer| {
        // One that cannot be understood does not keep the others.
        if let Ok(RouteNetlinkMessage::NewRoute(route)) = answer
            && route.header.address_family == family
        {
            add(&mut routes, &route, &mut interface);
        }
        count += 1;
        Ok(if count < MOST_ROUTES {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        })
    })?;
    Ok(routes)
}

fn add(routes: &mut Routes, route: &RouteMessage, interface: &mut impl FnMut(u32) -> String) {
    let RouteMessage {
        header, attributes, ..
    } = route;
    if header.kind != RouteType::Unicast || header.flags.contains(RouteFlags::Cloned) {
        return;
    }
    let (mut table, mut metric, mut destination, mut hops) = (u32::from(header.table), 0, None, Vec::new());
    for attribute in attributes {
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Priority(number) => metric = *number,
            RouteAttribute::Destination(address) => destination = ip(address),
            RouteAttribute::MultiPath(several) => {
                hops.extend(several.iter().map(|hop| next_hop(hop, interface)));
            }
            RouteAttribute::Oif(index) if hops.is_empty() => hops.push(NextHop {
                interface: interface(*index),
                gateway: gateway(attributes),
                is_dead: header.flags.contains(RouteFlags::Dead),
            }),
            _ => {}
        }
    }
    if header.destination_prefix_length == 0 {
        routes.default.push(DefaultRoute { table, metric, hops });
    } else if let Some(address) = destination
        && table == u32::from(RouteHeader::RT_TABLE_MAIN)
        // Networks that this host is in are there by themselves.
        && (hops.iter().any(|hop| hop.gateway.is_some()) || header.protocol != RouteProtocol::Kernel)
    {
        routes.onward.push(Prefix {
            address,
            length: header.destination_prefix_length,
        });
    }
}

fn next_hop(hop: &RouteNextHop, interface: &mut impl FnMut(u32) -> String) -> NextHop {
    NextHop {
        interface: interface(hop.interface_index),
        gateway: gateway(&hop.attributes),
        is_dead: hop.flags.contains(RouteNextHopFlags::Dead),
    }
}

#[cfg(test)]
mod tests;
