//! Which way a flow leaves: its source address and its interface.
//!
//! The kernel is asked by connecting a UDP socket that is bound to what was chosen; its local
//! address is the source. Each send is then bound to the route's interface by `IP_BOUND_IF` or
//! `IPV6_BOUND_IF`; 0 undoes that. The raw sockets are bound anew when the next probe leaves by
//! another interface, each reserved TCP port before it connects. Link-local addresses have the
//! interface as their scope. There are no marks: they are refused.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU32;

use socket2::{Socket, Type};
use traceroute_engine::{Egress, Family, NetError, Operation, Route};

use super::{advice, rules};
use crate::egress::{hints, refuse_mark};
use crate::route::{self, needs_scope, scope_of};
use crate::unix::{errors, interfaces};

/// Any port will do: nothing is sent.
const PORT: u16 = 33434;

/// The way of packets to `target`. Their source, unless chosen, is the address that the kernel
/// would use: that of a UDP socket connected to the target.
///
/// # Errors
/// No route, interface down, no address of that family; a source that is not this host's; a
/// link-local target that could be on several interfaces; a mark.
pub(super) fn find(target: IpAddr, egress: &Egress) -> Result<Route, NetError> {
    refuse_mark(target, egress)?;
    let interface = match egress.interface {
        Some(chosen) => chosen.get(),
        None if needs_scope(target) => interfaces::only_interface().ok_or_else(|| no_zone(target))?,
        // 0 also for a link-local source that nobody has: refused when it is bound to.
        None => match egress.source {
            Some(source) if needs_scope(source) => interfaces::of(source).unwrap_or(0),
            _ => 0,
        },
    };
    let source = connect(target, interface, egress.source).map_err(|source| {
        let hint = advice::of_way(source.raw_os_error(), egress);
        let error = errors::error(Operation::Route, Some(target), source);
        match hint {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
    })?;
    Ok(Route {
        source,
        interface,
        mark: 0,
    })
}

fn no_zone(target: IpAddr) -> NetError {
    let reason = io::Error::from_raw_os_error(libc::EHOSTUNREACH);
    NetError::new(Operation::Route, Some(target), reason).with_hint(hints::WHICH_ZONE)
}

fn connect(target: IpAddr, interface: u32, chosen: Option<IpAddr>) -> io::Result<IpAddr> {
    let with_scope =
        |address: IpAddr, port| route::with_scope(address, port, scope_of(address, interface)).into();
    let socket = Socket::new(route::domain(target), Type::DGRAM, None)?;
    if interface != 0 {
        bind_to_interface(&socket, Family::of(target), interface)?;
    }
    if let Some(source) = chosen {
        socket.bind(&with_scope(source, 0))?;
    }
    socket.connect(&with_scope(target, PORT))?;
    if let Some(source) = chosen {
        return Ok(source);
    }
    let local = socket.local_addr()?.as_socket();
    let routed = local.map_or_else(|| unspecified(target), |local| local.ip());
    Ok(rules::source(target, routed))
}

/// Has a socket's packets leave by an interface, and only by it; 0: as the routing tables say
/// (`IP_BOUND_IF`, `IPV6_BOUND_IF`).
pub(super) fn bind_to_interface(socket: &Socket, family: Family, interface: u32) -> io::Result<()> {
    let interface = NonZeroU32::new(interface);
    match family {
        Family::V4 => socket.bind_device_by_index_v4(interface),
        Family::V6 => socket.bind_device_by_index_v6(interface),
    }
}

fn unspecified(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}
