//! Which way a flow leaves: its source address and its interface.
//!
//! The system is asked by connecting a UDP socket that is bound to what was chosen; its local
//! address is the source. It must be an address of the chosen interface: a system that ignored the
//! choice would be an error, not a trace by another path. Then:
//!
//! - Raw sockets are bound to the interface by `IP_UNICAST_IF`, anew when it changes.
//! - `syn_socket` binds each probe's socket by `IP_UNICAST_IF` or `IPV6_UNICAST_IF`.
//! - The ICMP API goes by source address: Windows sends by the interface that has it.
//! - The driver hands packets to Windows, which routes them: a chosen interface is an error.
//!
//! 0 as interface undoes the binding. Link-local addresses have the interface as their scope. There
//! are no marks: they are refused.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use socket2::{Socket, Type};
use traceroute_engine::{Egress, Family, NetError, Route};

use super::egress::{has_interface, is_own_source, only_zone};
use super::sys;
use crate::egress::{hints, refuse_mark};
use crate::route::{self, needs_scope, scope_of};
use crate::winerror::{self, WSAEADDRNOTAVAIL, WSAENETUNREACH};

/// Any port will do: nothing is sent.
const PORT: u16 = 33434;

/// The way of packets to `target`. Their source, unless chosen, is the address that the system
/// would use: that of a UDP socket connected to the target.
///
/// # Errors
/// No route, no address of that family; a source that is not this host's, or not the chosen
/// interface's; a link-local target that could be on several interfaces; a mark.
pub(super) fn find(target: IpAddr, egress: &Egress) -> Result<Route, NetError> {
    refuse_mark(target, egress)?;
    let failed = |code| winerror::no_way(target, egress, io::Error::from_raw_os_error(code));
    let interface = match egress.interface {
        Some(chosen) if !has_interface(chosen) => return Err(failed(WSAENETUNREACH).with_hint(hints::GONE)),
        Some(chosen) => chosen.get(),
        None if needs_scope(target) => only_zone()
            .ok_or_else(|| failed(WSAENETUNREACH).with_hint(hints::WHICH_ZONE))?
            .get(),
        None => 0,
    };
    let source =
        connect(target, interface, egress.source).map_err(|error| winerror::no_way(target, egress, error))?;
    // Windows sends from an interface's own addresses only. What connects from another's has not
    // left by this interface.
    if egress.interface.is_some() {
        let is_its_own = is_own_source(source, egress.interface)
            .map_err(|error| winerror::no_way(target, egress, error))?;
        if !is_its_own {
            let is_chosen = egress.source.is_some();
            let code = if is_chosen {
                WSAEADDRNOTAVAIL
            } else {
                WSAENETUNREACH
            };
            return Err(failed(code));
        }
    }
    Ok(Route {
        source,
        interface,
        mark: 0,
    })
}

fn connect(target: IpAddr, interface: u32, chosen: Option<IpAddr>) -> io::Result<IpAddr> {
    let with_scope =
        |address: IpAddr, port| route::with_scope(address, port, scope_of(address, interface)).into();
    let socket = Socket::new(route::domain(target), Type::DGRAM, None)?;
    if interface != 0 {
        sys::send_by(&socket, Family::of(target), interface)?;
    }
    let source = chosen.unwrap_or_else(|| unspecified(target));
    socket.bind(&with_scope(source, 0))?;
    socket.connect(&with_scope(target, PORT))?;
    if let Some(source) = chosen {
        return Ok(source);
    }
    let local = socket.local_addr()?.as_socket();
    Ok(local.map_or(source, |local| local.ip()))
}

fn unspecified(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}
