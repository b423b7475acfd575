//! The source address of a route.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use socket2::{Domain, Socket, Type};

use super::{errors, interfaces};
use crate::{NetError, Operation};

/// Any port will do: nothing is sent.
const PORT: u16 = 33434;

/// The address that the kernel would use for packets to `target`: that of a UDP socket connected to it.
///
/// # Errors
/// No route, interface down, no address of that family; a link-local target that could be on several interfaces.
pub(crate) fn source_address(target: IpAddr) -> Result<IpAddr, NetError> {
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
    let socket = Socket::new(domain(target), Type::DGRAM, None)?;
    socket.connect(&with_scope(target, PORT, scope).into())?;
    let local = socket.local_addr()?.as_socket();
    Ok(local.map_or_else(|| unspecified(target), |local| local.ip()))
}

/// The family's domain.
pub(crate) fn domain(address: IpAddr) -> Domain {
    match address {
        IpAddr::V4(_) => Domain::IPV4,
        IpAddr::V6(_) => Domain::IPV6,
    }
}

/// A socket address with the interface of a link-local address.
pub(crate) fn with_scope(address: IpAddr, port: u16, scope: u32) -> SocketAddr {
    match address {
        IpAddr::V4(_) => SocketAddr::new(address, port),
        IpAddr::V6(address) => SocketAddrV6::new(address, port, 0, scope).into(),
    }
}

/// A socket address with the interface of a link-local address, unless it has one already.
pub(crate) fn scoped(address: SocketAddr, scope: u32) -> SocketAddr {
    match address {
        SocketAddr::V6(given) if given.scope_id() != 0 => address,
        _ => with_scope(address.ip(), address.port(), scope),
    }
}

fn unspecified(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}
