//! The source address of a route.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use socket2::{Socket, Type};
use traceroute_engine::{NetError, Operation};

use crate::unix::{errors, interfaces, route};

/// Any port will do: nothing is sent.
const PORT: u16 = 33434;

/// The address that the kernel would use for packets to `target`: that of a UDP socket connected to
/// it.
///
/// # Errors
/// No route, interface down, no address of that family; a link-local target that could be on
/// several interfaces.
pub(super) fn source_address(target: IpAddr) -> Result<IpAddr, NetError> {
    connect(target).map_err(|source| {
        let error = errors::error(Operation::Route, Some(target), source);
        if interfaces::needs_scope(target) && interfaces::only_interface().is_none() {
            error
                .with_hint("a link-local address, and there is not exactly one interface that it could be on")
        } else {
            error
        }
    })
}

fn connect(target: IpAddr) -> io::Result<IpAddr> {
    let scope = if interfaces::needs_scope(target) {
        interfaces::only_interface().unwrap_or(0)
    } else {
        0
    };
    let socket = Socket::new(route::domain(target), Type::DGRAM, None)?;
    socket.connect(&route::with_scope(target, PORT, scope).into())?;
    let local = socket.local_addr()?.as_socket();
    Ok(local.map_or_else(|| unspecified(target), |local| local.ip()))
}

fn unspecified(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}
